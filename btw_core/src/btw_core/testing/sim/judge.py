"""The promises, checked against the truth at every commit, effect and belief.

Excused, because no rule could promise it:
- Records taken away or set back: nobody can know of an effect whose manager does not live and believe, for nothing
  writes the record again and no debt is left. `excused` holds the nodes with such an effect until they write again.
- Absence has no identity: a record that came and went between two readings of a stand-by was never there for it. So
  disasters.py lets four leases pass between two losses.
- A node that never saw the newest term, or lost its memory, takes a free record of the past at its word. So the store
  is set back only when all have seen the newest term, and no memory is lost soon after.
- Another computer cannot be fenced in this release: a debt of a node that does not come back, or is stuck, keeps the
  package in `fencing` until a person unlocks it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from ... import lease
from ...lease import PackageRecord, decode
from ...ports import Operation
from ...store import Record
from ...types import PackageSpec, State, Verb
from .effects import BEGINNING, CHANGING
from .store import Sent

if TYPE_CHECKING:
    from .node import Life, Node
    from .world import World


class Violation(Exception):
    """A promise was broken."""


class Begun(NamedTuple):
    """The newest effect on a resource."""

    term: int
    node: str


class Judge:
    """Raises Violation."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.gentle = False  # nothing may be started, stopped or taken over
        self.excused: dict[str, set[str]] = {}
        self.starts = 0
        self.started: Counter[str] = Counter()  # packages
        self.stops = 0
        self.takeovers = 0
        self.adoptions = 0
        self._set_back = False  # the store was, at some time
        self._begun: dict[tuple[str, str], Begun] = {}

    def fail(self, text: str) -> None:
        raise Violation(text)

    # ---- effects
    def asked(self, life: Life, operation: Operation) -> None:
        """An operation was asked for."""
        if operation.verb not in CHANGING:
            return
        held = life.manager.controllers[operation.package].claim.held  # else the answer came when it had run out
        since = life.adopted.get(operation.package) if held else None
        placed = bool(self.world.setting.rules)  # what was adopted may be wanted elsewhere
        if not placed and since is not None and operation.verb is not Verb.HEAL and self.world.calm_since < since:
            self.fail(f"{life.nonce} adopted {operation.package}, which was up, and asks for {operation.verb}")
        if self.gentle:
            self.fail(f"needless {operation.verb} of {operation.package} by {life.nonce}")
        self.stops += operation.verb is Verb.STOP
        saved = life.saved(operation.package)
        if operation.verb is Verb.START and not (
            saved is not None and saved.may_be_up and any(operation.id.startswith(p + ".") for p in saved.pending)
        ):
            self.fail(f"start {operation.id} was asked for before its intent was durable: {saved}")

    def begins(self, life: Life, operation: Operation) -> None:
        """An effect begins now."""
        self.starts += 1
        if operation.verb is Verb.START and operation.resource == self.world.spec(operation.package).resources[0].name:
            self.started[operation.package] += 1
        key = operation.package, operation.resource
        for run in life.node.running.values():
            other = run.operation
            if other.id != operation.id and (other.package, other.resource) == key and run.begun:
                self.fail(f"{operation.verb} {operation.id} begins while {other.verb} {other.id} still runs")
        if operation.package in self.world.several:
            self._in_time(life, operation)
            return
        last = self._begun.get(key)
        here = life.node.name
        forgot = last is not None and (last.node != here or life.node.state.lost)
        if forgot and operation.package in self.excused:
            last = None  # terms were forgotten with the records; only what this node remembers is sure
        if last is not None and (operation.term < last.term or (operation.term == last.term and last.node != here)):
            self.fail(f"effect of term {operation.term} on {here} after one of term {last.term} on {last.node}")
        self._begun[key] = Begun(operation.term, here)
        self._in_time(life, operation)

    def seizes(self, life: Life, operation: Operation) -> None:
        """It takes a disk for itself now."""
        self._in_time(life, operation)

    def _in_time(self, life: Life, operation: Operation) -> None:
        limit = self._sent(life, operation.package) + self.world.spec(operation.package).timing.timeout
        if life.clock.now() >= limit:
            self.fail(f"{operation.verb} of {operation.package} begins {life.clock.now() - limit:.3f} s after sent + T")

    def possible(self, node: Node, package: str, resource: str) -> None:
        """An effect became possible on the node: on no other may there be one."""
        if package in self.world.several:
            return
        for other in self.world.nodes.values():
            if other is node or not other.active(package, resource):
                continue
            if not (self._excused(other, package) or self._excused(node, package)):
                self.fail(f"TWO: {package}.{resource} is possible on {node.name} and {other.name}")

    def _excused(self, node: Node, package: str) -> bool:
        return node.name in self.excused.get(package, ()) and not self._believes(node.life, package)

    def down(self, node: Node, package: str, verbs: tuple[Verb, ...] = CHANGING) -> bool:
        """Truly: nothing up, and no such operation alive; or the disk, which is all that it shares, refuses the node,
        and what is alive there asks for the lock before it could change that."""
        spec = self.world.spec(package)
        if spec.disk_pays and self.world.disks.shut_out(node.name, package):
            return True
        return not any(node.active(package, r.name) for r in spec.resources) and not any(
            run.operation.package == package and run.operation.verb in verbs for run in node.running.values()
        )

    # ---- belief
    def _sent(self, life: Life, package: str) -> float:
        """The newest committed sign of life that may count."""
        acquired = life.acquired.get(package, float("-inf"))
        return max(acquired, life.session_sent if life.session_sent is not None else float("-inf"))

    def _believes(self, life: Life | None, package: str) -> bool:
        controller = life.manager.controllers.get(package) if life is not None and life.alive else None
        return controller is not None and controller.claim.believes()

    def believing(self, life: Life) -> None:
        """After each step of a manager."""
        if not life.alive:
            return
        for name, controller in life.manager.controllers.items():
            claim = controller.claim
            known = life.belief.get(name)
            if not claim.held:
                if known is not None and not known[2]:
                    life.belief[name] = (known[0], known[1], True)
                continue
            if known is not None and known[1] == claim.sent and known[0] == claim.term and not known[2]:
                continue
            if known is not None and known[0] == claim.term:
                if known[2]:
                    self.fail(f"{life.nonce} believes again in the lost term {claim.term} of {name}")
                if life.clock.now() >= known[1] + claim.timing.timeout + 1e-9:
                    self.fail(f"{life.nonce} prolonged term {claim.term} of {name} after it had run out")
            if claim.sent > self._sent(life, name) + 1e-9:
                sent = self._sent(life, name)
                self.fail(f"{life.nonce} believes in {name} from {claim.sent:.3f}, but sent {sent:.3f}")
            life.belief[name] = (claim.term, claim.sent, False)
            if not claim.believes() or name in self.world.several:
                continue
            for other in self.world.nodes.values():
                if other.life is not life and self._believes(other.life, name):
                    self.fail(f"two hold the lock of {name}: {life.nonce} and {other.life and other.life.nonce}")

    # ---- the store
    def committed(self, key: str, before: Record | None, after: Record | None, sent: Sent | None) -> None:
        """A record changed; `sent` None: by a person or a disaster."""
        if key.startswith(lease.SESSIONS) and sent is not None:
            life = sent.life
            life.session_sent = max(sent.local, life.session_sent or sent.local)
        if not key.startswith(lease.PACKAGES) or sent is None:
            return
        assert after is not None
        name, _, instance = key.removeprefix(lease.PACKAGES).partition("@")
        new = decode(PackageRecord, key, after.value)
        old = decode(PackageRecord, key, before.value) if before else PackageRecord(term=0, lease=0.0)
        life = sent.life
        known = life.belief.get(name)  # of the term that is written: it is written again, or changed, by its holder
        again = known is not None and known[0] == new.term and not new.released and self._set_back
        if new.holder is not None and new.holder.nonce == life.nonce:
            if new.term != old.term or old.holder is None or old.holder.nonce != life.nonce:
                life.acquired[name] = max(sent.local, life.acquired.get(name, sent.local))
            self.excused.get(name, set()).discard(life.node.name)
        if instance:
            return
        if new.released and not old.released and new.holder is not None:
            self.world.note(f"STORE: {name} released by {new.holder.nonce}, term {new.term}")
        elif old.holder is not None and new.holder is not None and old.holder.nonce != new.holder.nonce:
            self.world.note(f"STORE: {name} from {old.holder.nonce} to {new.holder.nonce}, term {new.term}")
            if not old.released and not again:
                self._not_before_h(name, old.holder.nonce, life)
        if not again:
            self._debts(name, old, new, life)

    def _not_before_h(self, name: str, former: str, taker: Life) -> None:
        """Whoever did not release is left alone until H."""
        world = self.world
        life = world.lives[former]
        if life.boot != life.node.computer.boot or life.node is taker.node:
            return
        self.takeovers += 1
        if self.gentle:
            self.fail(f"needless take-over of {name} by {taker.nonce}")
        timing = world.spec(name).timing
        believed = life.belief.get(name)
        sent = max(life.acquired.get(name, float("-inf")), believed[1] if believed else float("-inf"))
        hard = life.clock.true(timing.hard_at(sent))
        if world.scheduler.now < hard - 1e-6:
            self.fail(f"{taker.nonce} took {name} from {former} {hard - world.scheduler.now:.3f} s before its H")

    def _debts(self, name: str, old: PackageRecord, new: PackageRecord, writer: Life) -> None:
        """Who may have it up leaves the record only when truly down, or for its adopter."""
        def owed(record: PackageRecord) -> list[str]:
            holder = [record.holder.nonce] if record.holder and not record.released else []
            return [*(d.nonce for d in record.unfenced), *holder]

        still = owed(new)
        for nonce in owed(old):
            if nonce in still:
                continue
            life = self.world.lives[nonce]
            node = life.node
            # a stop that another asked for brings nothing up (the next life of this node, where the release is carried
            # out after its writer's death); one's own has to be over before one releases
            own = life is writer and (life.alive or node.alive(name, (nonce,)))
            verbs = CHANGING if own else BEGINNING
            if life.boot != node.computer.boot or (self.down(node, name, verbs) and not self._believes(life, name)):
                continue
            if any(self.world.lives[debt.nonce].node is node for debt in new.unfenced):
                continue  # an older life of this node is owed for it, and nobody starts before that is settled
            adopted = new.term == old.term and new.holder is not None and new.holder.nonce != nonce
            if adopted and old.holder is not None and old.holder.nonce == nonce:
                # what it remembered when it began: its disk may be lost since
                if not life.alive and nonce in writer.remembered.get(name, ()):
                    self._adopts(writer, name, new)
                    continue
                self.fail(f"{writer.nonce} adopted {name} from {nonce} without proof (alive: {life.alive})")
            if self._excused(node, name):
                continue
            alive = ", ".join(node.alive(name))
            self.fail(f"{nonce} left the record of {name} though {node.name} has it up: {alive} ({new.cause})")

    def _adopts(self, life: Life, name: str, record: PackageRecord) -> None:
        self.adoptions += 1
        spec = self.world.spec(name)
        parts = [life.node.part(name, r.name) for r in spec.resources]
        healthy = all(p.up and p.mood == "up" and not p.remnants for p in parts)
        pending = any(r.operation.package == name and r.operation.verb in CHANGING for r in life.node.running.values())
        now = life.manager.controllers[name].situation
        # stuck, or failed in a former life, it gets the lock to stop once more
        stops = now.state is State.STUCK or now.off or life.manager.controllers[name].memory.failed
        if healthy and not pending and not record.unfenced and not stops:
            life.adopted[name] = self.world.scheduler.now

    def always_one(self) -> None:
        """Every package truly runs on some node, and its manager says so. What a cluster of daemons should come to its
        adversary knows (council.py)."""
        if self.world.setting.rules:
            return
        for spec in self.world.specs:
            if not any(self._runs(node, spec) for node in self.world.nodes.values()):
                lives = [(n.name, n.life) for n in self.world.nodes.values()]
                states = {n: str(x.manager.controllers[spec.name].situation.state) if x else "-" for n, x in lives}
                self.fail(f"{spec.name} runs nowhere: {states}")

    def steady(self) -> bool:
        """Every package runs once, every other node stands by, and nothing is under way."""
        nodes = list(self.world.nodes.values())
        if any(node.running or node.life is None or not node.life.alive for node in nodes):
            return False
        for spec in self.world.specs:
            states = [str(n.life.manager.controllers[spec.name].situation.state) for n in nodes if n.life is not None]
            if sorted(states) != ["running", *["stand-by"] * (len(nodes) - 1)]:
                return False
            if not any(self._runs(node, spec) for node in nodes):
                return False
        return True

    def _runs(self, node: Node, spec: PackageSpec) -> bool:
        up = all((part := node.parts.get((spec.name, r.name))) is not None and part.up for r in spec.resources)
        life = node.life
        if not up or life is None or not life.alive:
            return False
        return life.manager.controllers[spec.name].situation.state is State.RUNNING

    def forgotten(self) -> None:
        """Records were taken away or set back: who can still be known?"""
        self._set_back = True
        for spec in self.world.specs:
            nodes = {n.name for n in self.world.nodes.values() if not self.down(n, spec.name)}
            self.excused.setdefault(spec.name, set()).update(nodes)
