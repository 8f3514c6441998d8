"""Real managers on a real store, in a time of their own: no waiting for leases, and every answer is the engine's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from .. import lease
from ..lease import ClusterRecord, PackageRecord, decode, encode
from ..manager import Manager
from ..ports import Look, Looked, Operation, OperationEnded, Ports, Report, ResourceHealth, StoreAnswered, StoreCall
from ..store import Conflict, Record, Store, StoreUnavailable
from ..timing import Timing
from ..types import Incarnation, PackageSpec, ResourceSpec, Status, Verb
from .fakes import ListJournal, ManualClock, MemoryDisk, ScriptedExecutor, ScriptedStore

#: P 1, T 10, S 5: L = 15.8 s.
TIMING = Timing(pace=1, timeout=10, stop_timeout=5)
WEB = lease.PACKAGES + "web"


class LiveStore(ScriptedStore):
    """`ports.StorePort` whose calls are carried out on a real store, when the world or the test says so."""

    def __init__(
        self, clock: ManualClock, deliver: Callable[[StoreAnswered], None], store: Store, patience: float
    ) -> None:
        super().__init__(clock, deliver)
        self.store = store
        self._patience = patience

    def write(self, key: str, value: bytes) -> int:
        """Somebody else writes, whatever is there. Raises StoreUnavailable."""
        while True:
            found = self.store.get(key, deadline=self._patience)
            expected = found.revision if found else None
            answer = self.store.put(key, value, expected=expected, deadline=self._patience)
            if not isinstance(answer, Conflict):
                return answer

    def carry_out(self) -> StoreAnswered:
        """The oldest call; its answer is not delivered. Blocks for the engine; any thread."""
        return self._carry_out(*self.calls.popleft())

    def _carry_out(self, call: StoreCall, sent: float) -> StoreAnswered:
        store, limit = self.store, self._patience
        try:
            if call.value is not None:
                answer = store.put(call.key, call.value, expected=call.expected, deadline=limit)
                if isinstance(answer, Conflict):
                    return StoreAnswered(call=call, sent=sent, conflict=True)
                self.done.append((call, sent, self.clock.now()))
                return StoreAnswered(call=call, sent=sent, revision=answer)
            found: Record | None
            if not call.key or call.key.endswith("/"):
                return StoreAnswered(call=call, sent=sent, records=tuple(store.list(call.key, deadline=limit)))
            found = store.get(call.key, deadline=limit)
        except StoreUnavailable as error:
            return StoreAnswered(call=call, sent=sent, unavailable=str(error))
        return StoreAnswered(call=call, sent=sent, records=(found,) if found else ())


class Node:
    """A computer of its own: its disk, and which packages are truly up on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.disk = MemoryDisk()
        self.up: set[str] = set()
        self.lives = 0


class Taken(NamedTuple):
    """An acquisition."""

    at: float
    package: str
    node: str
    term: int


class Life:
    """One manager of a node. `frozen`: it does nothing, hears nothing, and what it started stays up."""

    def __init__(self, world: World, node: Node, store: Store) -> None:
        node.lives += 1
        self.node, self.world = node, world
        self.frozen = False
        self.me = Incarnation(
            node=node.name,
            machine=f"m-{node.name}",
            boot=f"boot-{node.name}",
            nonce=f"{node.name}{node.lives}",
            slot="daemon",
            home=f"{node.name}.1",
        )
        self.journal = ListJournal()
        self.store = LiveStore(world.clock, self.handle, store, world.patience)
        self.executor = ScriptedExecutor(self.handle)
        self._performed = 0
        ports = Ports(clock=world.clock, store=self.store, executor=self.executor, disk=node.disk, journal=self.journal)
        self.manager = Manager(self.me, world.specs, ports, cluster="kit", creates=False)
        self.manager.begin()

    def handle(self, report: Report) -> None:
        self.manager.handle(report)

    def holds(self, package: str = "web") -> bool:
        """It believes so at this very moment."""
        return self.manager.controllers[package].claim.believes()

    def verbs(self) -> list[Verb]:
        """Of all operations so far."""
        return [operation.verb for operation in self.executor.operations]

    def perform(self) -> bool:
        """Answer its looks and carry out its operations, as truth has it. False: there was nothing to do."""
        looks, self.executor.looks[:] = list(self.executor.looks), []
        operations = self.executor.operations[self._performed :]
        self._performed += len(operations)
        for look in looks:
            self.handle(self._look(look))
        for operation in operations:
            self.handle(self._end(operation))
        return bool(looks or operations)

    def _look(self, look: Look) -> Looked:
        status = Status.UP if look.package in self.node.up else Status.DOWN
        return Looked(id=look.id, package=look.package, results=(ResourceHealth(resource="flag", status=status),))

    def _end(self, operation: Operation) -> OperationEnded:
        error = ""
        match operation.verb:
            case Verb.START | Verb.HEAL:
                if operation.not_after and self.world.clock.now() >= operation.not_after:
                    error = "the lock had run out"
                else:
                    self.node.up.add(operation.package)
            case Verb.STOP:
                self.node.up.discard(operation.package)
            case Verb.FENCE:
                error = "lives on another machine"
        return OperationEnded(id=operation.id, ok=not error, error=error)


class World:
    """All lives and their time. `must(holds, found)` is called at every step: never is a package up on two nodes, never
    do two believe to hold it, and every acquisition has a greater term than all before."""

    def __init__(
        self, store: Store, must: Callable[[bool, str], None], patience: float, packages: Sequence[str] = ("web",)
    ) -> None:
        self.clock = ManualClock()
        self.patience = patience
        self.specs = tuple(
            PackageSpec(name=name, timing=TIMING, resources=(ResourceSpec(name="flag", type="flag"),))
            for name in packages
        )
        self.nodes: list[Node] = []
        self.lives: list[Life] = []
        self.taken: list[Taken] = []
        #: Called for the oldest call of a life: False when it has dealt with it, otherwise it is answered.
        self.passes: Callable[[Life], bool] = lambda life: True
        self._must = must
        self._pool = ThreadPoolExecutor(8)
        self._terms: dict[tuple[str, str], int] = {}
        self.person = LiveStore(self.clock, lambda answer: None, store, patience)
        self.person.write(lease.CLUSTER_KEY, encode(ClusterRecord(id="kit", name="kit")))
        for name in packages:
            self.person.write(lease.PACKAGES + name, encode(lease.first(TIMING.lease, "btw init")))

    # ---- who is there
    def begin(self, store: Store, node: Node | None = None) -> Life:
        """Another life, on a new node (a, b, ...) unless it is given."""
        if node is None:
            node = Node("abcdefghij"[len(self.nodes)])
            self.nodes.append(node)
        life = Life(self, node, store)
        self.lives.append(life)
        return life

    def kill(self, life: Life, *, computer: bool = False) -> None:
        """Its manager is gone; with its computer, so is what it had started."""
        self.lives.remove(life)
        if computer:
            life.node.up.clear()

    def up(self, package: str = "web") -> list[str]:
        return [node.name for node in self.nodes if package in node.up]

    def record(self, package: str = "web") -> PackageRecord:
        found = self.person.store.get(lease.PACKAGES + package, deadline=self.patience)
        assert found is not None, f"no record of {package}"
        return decode(PackageRecord, found.key, found.value)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- time
    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Time passes; everything is answered at once, what is asked at the same instant by calls at the same time.
        Ends early, True, when `until` has come true."""
        end = self.clock.time + seconds
        while True:
            self.settle()
            if until():
                return True
            due = [d for life in self._awake() if (d := life.manager.next_deadline()) is not None]
            if not due or min(due) > end:
                self.clock.time = end
                return until()
            self.clock.time = max(self.clock.time, min(due))
            for life in self._awake():
                life.manager.tick()
                self._check()

    def settle(self) -> None:
        """Until nobody that is awake waits for anything but time."""
        while True:
            asking = [life for life in self._awake() if life.store.calls and self.passes(life)]
            for life, answer in zip(asking, self._pool.map(lambda life: life.store.carry_out(), asking), strict=True):
                if not life.frozen:
                    life.handle(answer)
                self._check()
            busy = [life.perform() for life in self._awake()]
            self._check()
            if not any(busy) and not any(life.store.calls for life in self._awake()):
                return

    def _awake(self) -> list[Life]:
        return [life for life in self.lives if not life.frozen and not life.manager.finished]

    def _check(self) -> None:
        for spec in self.specs:
            name, up = spec.name, self.up(spec.name)
            self._must(len(up) <= 1, f"{name} is up on {' and '.join(up)}; {self.story()}")
            holders = [life for life in self.lives if life.holds(name)]
            names = " and ".join(life.me.nonce for life in holders)
            self._must(len(holders) <= 1, f"{names} hold {name}; {self.story()}")
            for life in holders:
                self._note(name, life)

    def _note(self, package: str, life: Life) -> None:
        term = life.manager.controllers[package].claim.term
        if self._terms.get((package, life.me.nonce)) == term:
            return
        self._terms[package, life.me.nonce] = term
        before = [taken for taken in self.taken if taken.package == package]
        adopted = bool(before) and before[-1].node == life.node.name and before[-1].term == term
        if not adopted:
            grown = all(term > taken.term for taken in before)
            self.taken.append(Taken(self.clock.now(), package, life.node.name, term))
            self._must(grown, f"{life.me.nonce} took {package} with a term that was there before; {self.story()}")

    def story(self) -> str:
        """Who took what when."""
        told = "; ".join(f"{t.at - 1000:.1f} s {t.node} took {t.package}, term {t.term}" for t in self.taken[-12:])
        return f"now {self.clock.now() - 1000:.1f} s, before: {told or 'nothing'}"
