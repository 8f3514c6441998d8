"""Computers, nodes, and the lives of their managers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

import msgspec

from ...manager import Manager
from ...placer import Daemon
from ...ports import ExecutorLost, Lock, OperationEnded, Ports, Report
from ...records import SLOT
from ...types import Incarnation, PackageSpec, Saved
from .clock import LocalClock
from .disk import SimDisk, State
from .effects import Part, Running, SimExecutor
from .keeper import SimKeeper, SimPulse
from .store import Line, SimStorePort

if TYPE_CHECKING:
    from .world import World


#: Ends that a keeper does not undo: it was asked for, and a person begins it again; or the keeper ended too.
PERSONS = ("ended", "killed with its keeper")


class Killed(BaseException):
    """The manager's process ends in the middle of what it does."""


class Computer:
    """A machine with a clock; its nodes share both and reboot together."""

    def __init__(self, world: World, name: str, clock: LocalClock) -> None:
        self.world, self.machine, self.clock = world, name, clock
        self.boots = 1
        self.nodes: list[Node] = []

    @property
    def boot(self) -> str:
        return f"{self.machine}-boot{self.boots}"

    def reboot(self) -> None:
        """Everything that ran is gone; the clock starts anew."""
        self.world.note(f"{self.machine} reboots")
        for node in self.nodes:
            if node.life is not None:
                node.life.die("reboot")
        self.boots += 1
        self.clock = LocalClock(self.world.scheduler, self.clock.rate, -self.clock.rate * self.world.scheduler.now)
        for node in self.nodes:
            node.running.clear()
            node.parts.clear()
            node.leases.clear()
            node.locks.clear()
            node.state.files = dict(node.state.durable)
            if node.keeper is not None:
                node.keeper.booted()


class Node:
    """A node's disk, line to the store, operations and resources. `life` is its present manager, if any."""

    def __init__(self, world: World, name: str, computer: Computer) -> None:
        self.world, self.name, self.computer = world, name, computer
        computer.nodes.append(self)
        self.state = State()
        self.line = Line()
        self.observer = ""  # "", slow, silent
        self.sluggish = 0.0  # an operation may begin so many seconds late: a loaded machine
        self.leases: dict[str, tuple[float, float]] = {}  # the managers' half of the pulse,
        self.locks: dict[str, Lock | None] = {}  # and what operations read there
        self.keeper: SimKeeper | None = None
        self.parts: dict[tuple[str, str], Part] = {}
        self.running: dict[str, Running] = {}
        self.life: Life | None = None
        self.lives = 0
        self.doomed: list[int] = []  # the next lives end at these of their port calls

    def part(self, package: str, resource: str) -> Part:
        return self.parts.setdefault((package, resource), Part())

    def active(self, package: str, resource: str) -> bool:
        """An effect of the resource is possible here now, one that could meet another node's."""
        if self.world.disks.refuses(self.name, package, resource):
            return False
        part = self.parts.get((package, resource))
        if part is not None and (part.up or part.remnants):
            return True
        return any(
            r.begun and r.operation.resource == resource and r.operation.package == package
            for r in self.running.values()
        )

    def begin(self) -> None:
        """A new life of its manager, unless there is one: the lock on the state file sees to that."""
        if self.life is not None and self.life.alive:
            return
        self.lives += 1
        self.life = Life(self, f"{self.name}{'abcdefghijklmnopqrstuvwxyz'[self.lives % 26]}{self.lives}")
        self.world.note(f"{self.name}: manager {self.life.nonce} begins")
        self.life.begin()

    # ---- processes
    def kill(self, run: Running) -> None:
        """SIGKILL to an operation and all that it started; they are gone a moment later, or when they can be."""
        self.world.scheduler.after(0.002 + 0.02 * self.world.random.random(), lambda: self._gone(run))

    def _gone(self, run: Running) -> None:
        now, identity = self.world.scheduler.now, run.operation.id
        if self.running.get(identity) is not run:
            return
        part = self.part(run.operation.package, run.operation.resource) if run.operation.resource else Part()
        wait = run.stiff_until
        if part.up == identity:
            wait = max(wait, part.stiff_until)
        if wait > now:
            self.world.scheduler.at(wait, lambda: self._gone(run))
            return
        if part.up == identity:
            part.up = ""
        part.remnants.pop(identity, None)
        del self.running[identity]
        run.life.deliver(OperationEnded(id=identity, ok=False, error="killed"))

    def kill_all(self, package: str, only: tuple[str, ...], but: Running | None) -> None:
        """SIGKILL to whatever operations of the package (`only`: with these prefixes) left or still are."""
        now = self.world.scheduler.now
        for run in list(self.running.values()):
            if run is not but and run.operation.package == package and _of(run.operation.id, only):
                self.kill(run)
        for (owner, _), part in self.parts.items():
            if owner != package:
                continue
            if part.up and _of(part.up, only) and part.stiff_until <= now:
                part.up = ""
            for identity in [i for i, stiff in part.remnants.items() if stiff <= now and _of(i, only)]:
                del part.remnants[identity]

    def alive(self, package: str, only: tuple[str, ...] = (), *, but: Running | None = None) -> tuple[str, ...]:
        """What is left of operations of the package."""
        found = [
            f"{run.operation.verb} {run.operation.id}"
            for run in self.running.values()
            if run is not but and run.operation.package == package and _of(run.operation.id, only)
        ]
        for (owner, name), part in self.parts.items():
            if owner == package:
                found += [f"{name} {i}" for i in (part.up, *part.remnants) if i and _of(i, only)]
        return tuple(found)


def _of(operation: str, only: tuple[str, ...]) -> bool:
    return not only or any(operation == prefix or operation.startswith(prefix + ".") for prefix in only)


class Journal:
    """`ports.Journal`: lines of the trace."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    def write(
        self, event: str, *, package: str = "", cause: str = "", state: str = "", term: int = 0, **data: object
    ) -> None:
        where = f"{package} " if package else ""
        before = f"{data['before']} -> {state}: " if "before" in data else f"{event}: "
        self._world.note(f"{self._name}: {where}{before}{cause}")


class Life:
    """One process of a manager with its ports, from its start to its death."""

    def __init__(self, node: Node, nonce: str) -> None:
        self.node, self.world, self.nonce = node, node.world, nonce
        self.clock = node.computer.clock
        self.boot = node.computer.boot
        self.alive = True
        self.began = self.clock.now()
        self.frozen = False
        self.froze_at = 0.0  # by its own clock
        self.inbox: list[Report] = []
        self.port_calls = 0
        self.dies_at_call = node.doomed.pop(0) if node.doomed else 0  # 0: does not
        self.ambush: tuple[str, Callable[[], None]] | None = None  # what happens at the next port call of that kind
        self.session_sent: float | None = None  # truth: newest committed renewal
        self.acquired: dict[str, float] = {}  # truth: committed acquisitions
        self.belief: dict[str, tuple[int, float, bool]] = {}  # term, sent, lost
        self.adopted: dict[str, float] = {}
        self.remembered = {name: {each.nonce for each in saved.lives} for name, saved in node.state.files.items()}
        self._armed = float("inf")
        self.me = Incarnation(
            node=node.name,
            machine=node.computer.machine,
            boot=node.computer.boot,
            nonce=nonce,
            slot=SLOT if self.world.setting.rules else "daemon",
            pid=node.lives,
            self_fence=self.world.self_fence,
        )
        random = Random(self.world.random.getrandbits(64))
        self.port = SimStorePort(self.world.store, self, random)
        self.executor = SimExecutor(self, random)
        ports = Ports(
            clock=self.clock,
            store=self.port,
            executor=self.executor,
            disk=SimDisk(node.state, self),
            journal=Journal(self.world, nonce),
            keeper=SimPulse(self),
        )
        self.world.lives[nonce] = self
        specs, daemon = self._daemon() if self.world.setting.rules else (self.world.specs, None)
        self.manager = Manager(self.me, specs, ports, cluster="sim", creates=self.world.creates, daemon=daemon)

    def _daemon(self) -> tuple[tuple[PackageSpec, ...], Daemon]:
        """What a daemon here has: the packages that are for this node."""
        rules, node = self.world.setting.rules, self.node.name
        here = [spec for spec in self.world.specs if node in rules[spec.name].nodes or not rules[spec.name].nodes]
        specs = tuple(
            msgspec.structs.replace(spec, instance=f"{spec.name}@{node}") if spec.name in self.world.several else spec
            for spec in here
        )
        digests = {spec.name: {"": "1"} for spec in here}
        return specs, Daemon(rules, digests, lambda: f"{self.world.scheduler.now:.1f}")

    def saved(self, package: str) -> Saved | None:
        return self.node.state.files.get(package)

    def begin(self) -> None:
        try:
            self.manager.begin()
        except Killed:
            self.die("killed at a port call")
        except OSError as error:
            self.die(f"cannot begin: {error}")
        else:
            self._after()

    def passed_port(self, kind: str = "") -> None:
        """Another call to a port was made; some lives end or are frozen just there."""
        self.port_calls += 1
        if self.ambush is not None and self.ambush[0] == kind:
            (_, spring), self.ambush = self.ambush, None
            spring()
        if self.port_calls == self.dies_at_call:
            raise Killed

    def deliver(self, report: Report) -> None:
        if self.frozen:
            self.inbox.append(report)
        elif self.alive:
            self._step(report)

    def thaw(self) -> None:
        """SIGCONT: what had come in and the timers run in an order that an adversary chose."""
        if not self.frozen or not self.alive:
            return
        self.frozen = False
        self.world.note(f"{self.nonce} goes on")
        steps: list[Report | None] = [*self.inbox]
        self.inbox = []
        random = self.world.random
        if random.random() < 0.5:
            random.shuffle(steps)
        steps.insert(random.randint(0, len(steps)), None)
        for step in steps:
            if self.alive:
                self._step(step)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.frozen, self.froze_at = True, self.clock.now()

    def die(self, cause: str, *, family: bool = False, restart: float | None = None) -> None:
        """The process is gone; the zygote sees it a little later and kills the running operations."""
        if not self.alive:
            return
        self.alive = False
        self.frozen = False
        self.inbox = []
        self.port.close()
        world, node = self.world, self.node
        world.note(f"{self.nonce} is gone: {cause}")

        def mourn() -> None:
            for run in list(node.running.values()):
                if run.life is self:
                    node.kill(run)

        world.scheduler.after(0.0 if family else 0.01 + 0.5 * world.random.random(), mourn)
        if restart is None:
            kept = node.keeper is not None and cause not in PERSONS
            restart = 0.1 + world.random.random() if kept else world.adversary.rest()
        world.scheduler.after(restart, node.begin)

    def lose_zygote(self) -> None:
        """Zygote and observer end: what runs is killed, another zygote is started."""
        self.executor.watched.clear()
        for run in list(self.node.running.values()):
            if run.life is self:
                self.node.kill(run)
        self.deliver(ExecutorLost(what="zygote", cause="killed by signal 11"))

    def _step(self, report: Report | None) -> None:
        try:
            if report is None:
                self.manager.tick()
            else:
                self.manager.handle(report)
        except Killed:
            self.die("killed at a port call")
            return
        self._after()

    def _after(self) -> None:
        self.world.judge.believing(self)
        if self.manager.finished:
            self.die("ended")
            return
        due = self.manager.next_deadline()
        if due is not None:
            when = self.clock.true(due) + 0.001
            if when < self._armed:
                self._arm(when)

    def _arm(self, when: float) -> None:
        self._armed = when
        self.world.scheduler.at(when, lambda: self._timer(when))

    def _timer(self, when: float) -> None:
        if self._armed != when or not self.alive:
            return
        self._armed = float("inf")
        if self.frozen:
            return
        due = self.manager.next_deadline()
        if due is None:
            return
        if due <= self.clock.now():
            self._step(None)
        else:
            self._arm(self.clock.true(due) + 0.001)
