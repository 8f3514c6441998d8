"""A daemon's view of its cluster: reads what all nodes read, computes `placement`, and lets this node's packages try
for their locks, or ends them, as it says. Writes what this node has to say: its phases, and what changed a switch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from . import lease
from .cluster import ClusterView, FailoverPolicy, NodeView, Order, PackageView, Phase, Rules, Switch, Verb
from .controller import Controller
from .desk import Desk
from .events import Event
from .hearing import Hearing, holds
from .lease import DamagedRecord, PackageRecord, View, decode
from .patience import Patience
from .picture import PHASES, picture
from .placement import Decision, Plan, What, placement
from .records import DRAINS, NODES, SWITCHES, DrainRecord, NodeRecord, Papers, SwitchRecord
from .rehearsal import befall, fulfilled
from .shared_record import SharedRecord
from .steps import happening_of
from .store import Record
from .summary import ill
from .switches import Happening, switched
from .timing import Timing
from .types import Incarnation, State

#: Seconds between two plans at least: a hundred packages that start change the picture hundreds of times.
REST = 0.05
#: What a person may ask of a daemon, by the first or second of its words; the other faults only happen.
ASKABLE = ("halt", "run", "move", "enable", "disable", "drained", "resumed")


class Daemon(NamedTuple):
    """What a manager of all packages of a node knows besides. `when` says what time it is, `forming`:
    seconds for which preferred nodes are waited for at its beginning, None: a pace."""

    rules: Mapping[str, Rules]
    digests: Mapping[str, Mapping[str, str]]
    when: Callable[[], str]
    forming: float | None = None


class Placer:
    """One of each daemon's manager; `controllers` are those of its packages."""

    def __init__(self, desk: Desk, me: Incarnation, daemon: Daemon, timing: Timing) -> None:
        self.desk, self.me, self.timing = desk, me, timing
        self.rules, self.when, self._forming = daemon.rules, daemon.when, daemon.forming
        self._began = desk.now()
        self.controllers: Mapping[str, Controller] = {}
        self.view = ClusterView()
        self.plan = Plan(targets={}, decisions=())
        self.mine: dict[str, Decision] = {}
        self.papers = Papers({}, {}, {})
        self.leaving = False
        self.leases: View | None = None  # the last reading, with what the watch has said since
        self._digests = {name: dict(each) for name, each in daemon.digests.items()}
        self._hearing = Hearing(me.node, timing)
        self._patience = Patience(me.node)
        self._given: dict[str, str] = {}  # see NodeRecord
        self._shared: dict[str, SharedRecord] = {}  # by key
        self._takes: dict[str, tuple[int, float]] = {}  # package -> delay in paces, and since when it may
        self._planned, self._stale = float("-inf"), False
        self._announced: NodeRecord | None = None
        self._damaged: set[str] = set()
        self._writing: set[tuple[str, str]] = set()  # package, and what is being written of it
        self._pressed: dict[str, Order] = {}  # package that is stuck -> the order that had it stop once more

    # ---- what the manager passes on
    def seen(self, records: Iterable[Record], view: View) -> None:
        """A reading of everything."""
        self._take_over(records)
        self.leases = view
        self._hearing.read(self.papers.nodes, view)
        self._plan()

    def noticed(self, records: Iterable[Record]) -> None:
        """The watch saw changes."""
        if self.leases is None:
            return
        packages = dict(self.leases.packages)
        for record in records:
            name = record.key.removeprefix(lease.PACKAGES)
            if name != record.key and (name not in packages or packages[name][0] < record.revision):
                try:
                    packages[name] = (record.revision, decode(PackageRecord, record.key, record.value))
                except DamagedRecord:
                    continue  # the next reading says so
        self._take_over(records)
        self.leases = msgspec.structs.replace(self.leases, packages=packages)
        self._soon()

    def told(self, controller: Controller, event: Event, before: State) -> None:
        """A controller has made a step."""
        state = controller.situation.state
        if state is before:
            return
        happening = happening_of(event, state, fenced=controller.memory.fate is not None)
        if happening is not None:
            self.switch(controller.name, happening, controller.cause)
        self._soon()

    def leave(self) -> None:
        """This daemon is to end: what it has goes to others first, in order."""
        self.leaving = True
        self._plan()

    @property
    def rests(self) -> bool:
        """Nothing is held here."""
        return not self._phases()

    # ---- what people ask
    def ask(self, words: str, by: str, why: str, then: Callable[[], None], refused: Callable[[str], None]) -> None:
        """Let `words` (see `rehearsal.FAULTS`) come to pass. Raises ValueError, Refused: it cannot."""
        said = words.split()
        if not set(said[:1] + said[2:3]) & set(ASKABLE) or len(said) < 2:
            raise ValueError(f'"{words}" is nothing that can be asked for')
        if self.leases is None:
            raise ValueError("the lock store has not been read yet, so nothing can be decided: see btw status")
        when = self.when()
        after = befall(self.view, words, by=by, when=when, why=why)
        if said[0] == "node":
            name = said[1]
            drained = Switch(on=True, by=by, when=when, why=why) if after.nodes[name].drained else None
            self._record(DRAINS + name, DrainRecord).edit(lambda _: DrainRecord(drained=drained), then)
            return
        name = said[1]

        def edit(record: SwitchRecord | None) -> SwitchRecord:
            now = (record or SwitchRecord()).on(self.view.packages[name])
            view = msgspec.structs.replace(self.view, packages={**self.view.packages, name: now})
            became = (record or SwitchRecord()).after(befall(view, words, by=by, when=when, why=why).packages[name])
            on = {said[3]} if said[0] == "enable" and len(said) > 3 else set()  # it may be off by its own memory alone
            return msgspec.structs.replace(became, enabled=tuple(sorted({*became.enabled, *on})))

        self._record(SWITCHES + name, SwitchRecord).edit(edit, then, refused)

    def maintain(self, name: str, switch: Switch | None, then: Callable[[], None]) -> None:
        """Begin or end (None) passing over failures. Raises ValueError: it is not known."""
        self._refuse_unknown(name)
        self._edit_switches(name, lambda record: msgspec.structs.replace(record, maintenance=switch), then)

    def reset(self, name: str, then: Callable[[], None]) -> None:
        """Both switches as the configuration has them, and no order. Raises ValueError: it is not known."""
        self._refuse_unknown(name)

        def edit(record: SwitchRecord) -> SwitchRecord:
            off = self.view.packages[name].off if name in self.view.packages else {}  # by memory of critical, too
            enabled = tuple(sorted({*record.enabled, *record.off, *off}))
            return SwitchRecord(maintenance=record.maintenance, enabled=enabled)

        self._edit_switches(name, edit, then)

    def _refuse_unknown(self, name: str) -> None:
        if name not in self.rules:
            raise ValueError(f"there is no package `{name}` (there are: {', '.join(sorted(self.rules)) or 'none'})")

    def switch(self, name: str, happening: Happening, why: str) -> None:
        """Something has changed a switch by itself: on this node."""
        self._edit_switches(name, self._after(name, happening, why))

    def _after(self, name: str, happening: Happening, why: str) -> Callable[[SwitchRecord], SwitchRecord]:
        by, when, node = f"btw on {self.me.node}", self.when(), self.me.node

        def edit(record: SwitchRecord) -> SwitchRecord:
            package = record.on(PackageView(type=self.rules[name].type))
            return record.after(switched(name, package, happening, node, by=by, when=when, why=why))

        return edit

    def _once(self, name: str, what: str, edit: Callable[[SwitchRecord], SwitchRecord]) -> None:
        """Each plan finds it to be done until it has been seen to be done."""
        if (name, what) not in self._writing:
            self._writing.add((name, what))
            self._edit_switches(name, edit, lambda: self._writing.discard((name, what)))

    def _edit_switches(
        self, name: str, edit: Callable[[SwitchRecord], SwitchRecord], then: Callable[[], None] | None = None
    ) -> None:
        self._record(SWITCHES + name, SwitchRecord).edit(lambda record: edit(record or SwitchRecord()), then)

    def _record(self, key: str, kind: type[msgspec.Struct]) -> SharedRecord:
        if key not in self._shared:
            self._shared[key] = SharedRecord(self.desk, key, kind, self.timing, partial(self._stands, key))
        return self._shared[key]

    @property
    def unwritten(self) -> dict[str, str]:
        """Packages and nodes with a switch, an order or a drain that the store has not taken, and why."""
        asked = {key.partition("/")[2]: each for key, each in self._shared.items() if not key.startswith(NODES)}
        return {name: each.waits for name, each in asked.items() if each.waits}

    def _stands(self, key: str, record: Any) -> None:
        """Written, so whoever asks next sees it: the watch may take its time."""
        kind, _, name = key.partition("/")
        found: dict[str, dict[str, Any]] = {SWITCHES: self.papers.switches, DRAINS: self.papers.drains}
        if f"{kind}/" in found:
            found[f"{kind}/"][name] = record
            self._soon()

    # ---- the picture
    def _take_over(self, records: Iterable[Record]) -> None:
        for text in self.papers.read((record.key, record.value) for record in records):
            if text not in self._damaged:
                self._damaged.add(text)
                self.desk.journal.write("record_damaged", cause=text)

    def _phases(self) -> dict[str, Phase]:
        """Of every lock that this node holds, or may hold."""
        found = {}
        for controller in self.controllers.values():
            claim, state = controller.claim, controller.situation.state
            if claim.held or not (claim.free or state is State.STANDBY):
                # a node that is about to be fenced is no reason to wait for a person
                fenced = controller.memory.fate is not None
                found[controller.spec.lock] = Phase.FAILING if fenced else PHASES[state]
            elif claim.ours:
                found[controller.spec.lock] = Phase.HALTING  # verified down, and being given back
        return found

    def _soon(self) -> None:
        """Plan at once, or when the last plan is a moment ago."""
        self._stale = True
        due = max(self.desk.now(), self._planned + REST)
        self.desk.at(due, ("plan",), self._plan)

    def _plan(self) -> None:
        if self.leases is None:
            return
        self.desk.forget(("plan",))
        self._planned, self._stale = self.desk.now(), False
        phases = self._phases()
        self._announce(phases)
        view = picture(self.rules, self.leases, self.papers, self._hearing.silent, self.me.node, phases)
        if view != self.view or not self.mine:
            self.view, self.plan = view, placement(view)
            now = {each.package: each for each in self.plan.decisions if each.node == self.me.node}
            self._say(now)
            self.mine = now
        due = self._patience.look(self.view, self.plan, self._planned)
        if due is not None:
            self.desk.at(max(due, self._planned + REST), ("patience",), self._plan)
        self._give(phases)
        for controller in self.controllers.values():
            self._tend(controller)
        self._remove_fulfilled()

    def _give(self, phases: dict[str, Phase]) -> None:
        """Say for whom packages are given up, before they are."""
        for name, decision in self.mine.items():
            if decision.heir and self._hearing.heard(decision.heir):
                self._given[name] = self.papers.nodes[decision.heir].nonce
        lives = {record.nonce: node for node, record in self.papers.nodes.items()}
        for name, nonce in list(self._given.items()):
            if nonce not in lives or lives[nonce] in self.view.packages[name].at:
                del self._given[name]
        self._announce(phases)

    def _announce(self, phases: dict[str, Phase]) -> None:
        now = NodeRecord(
            boot=self.me.boot,
            nonce=self.me.nonce,
            renews=self.timing.pace + 2 * self.timing.renewal_deadline,
            phases=phases,
            ill={each.name: text for each in self.controllers.values() if (text := ill(each))},
            digests=self._digests,
            leaving=self.leaving,
            waited=tuple(sorted(self._patience.over)),
            given=dict(self._given),
        )
        self.papers.nodes[self.me.node] = now
        if now != self._announced:
            self._announced = now
            self._record(NODES + self.me.node, NodeRecord).edit(lambda _: self._announced)

    def _say(self, now: dict[str, Decision]) -> None:
        for name, decision in now.items():
            before = self.mine.get(name)
            if name in self.controllers and decision != before and decision.what is not What.STAY:
                if decision.what is What.NOT and (before is None or before.what is What.NOT):
                    continue  # it does not run here, for whatever reason: `btw why`
                self.desk.journal.write("placement", package=name, cause=f"{decision.what} here: {decision.cause}")

    # ---- this node's packages
    def _tend(self, controller: Controller) -> None:
        name, record = controller.name, self.papers.switches.get(controller.name)
        decision = self.mine.get(name)
        controller.maintenance = record.maintenance.alone if record and record.maintenance else ""
        self._heed_switches(controller, record)
        if controller.situation.halt or decision is None:
            controller.place(allowed=False)
            return
        self._press(controller, record.order if record else None)
        held_here = self._held_here(controller)
        goes = decision.what is What.HALT and (not decision.heir or self._hearing.heard(decision.heir))
        unwanted = decision.cause if goes else ""
        if decision.what is not What.TAKE:
            self._takes.pop(name, None)
            controller.place(allowed=held_here, unwanted=unwanted)
            return
        delay, since = self._takes.get(name, (-1, 0.0))
        if delay != decision.delay:
            delay, since = self._takes[name] = (decision.delay, self.desk.now())
        due = max(since + delay * controller.spec.timing.pace, self._formed(controller))
        if due <= self.desk.now():
            controller.place(allowed=True)
        else:
            controller.place(allowed=held_here)
            self.desk.at(due, ("take", name), lambda: self._tend(controller))

    def _formed(self, controller: Controller) -> float:
        """Until when a node that it prefers may still come: whoever is first up at the beginning does not get all."""
        package = self.view.packages[controller.name]
        if package.order is not None or any(node in self.view.nodes for node in package.at):
            return 0.0
        before = package.nodes
        if package.failover_policy is FailoverPolicy.CONFIGURED_NODE and self.me.node in before:
            before = before[: before.index(self.me.node)]
        if all(_present(self.view.nodes.get(node)) for node in before):
            return 0.0
        pace = controller.spec.timing.pace
        return self._began + (pace if self._forming is None else self._forming)

    def _press(self, controller: Controller, order: Order | None) -> None:
        """What is stuck stops once more for each order to halt it."""
        if order is None or order.verb is not Verb.HALT:
            self._pressed.pop(controller.name, None)
        elif controller.situation.state is State.STUCK and self._pressed.get(controller.name) != order:
            self._pressed[controller.name] = order
            controller.withdraw(f"halted by order{order}", State.STUCK)

    def _held_here(self, controller: Controller) -> bool:
        """By a former life of this node: it is to be adopted, or given back."""
        record = controller.claim.record
        return record is not None and holds(record, self.me.node)

    def _heed_switches(self, controller: Controller, record: SwitchRecord | None) -> None:
        """Critical switches the package off on this node for good, until a person enables it, from anywhere."""
        node, off = self.me.node, controller.situation.off
        if record is not None and node in record.enabled:
            if off and controller.situation.state not in (State.HALTING, State.STUCK):
                controller.enable("enabled by hand")
            if not controller.situation.off:

                def heard(found: SwitchRecord) -> SwitchRecord:
                    left = tuple(each for each in found.enabled if each != node)
                    return msgspec.structs.replace(found, enabled=left)

                self._once(controller.name, "heard", heard)
        elif off and (record is None or node not in record.off):
            self._once(controller.name, "off", self._after(controller.name, Happening.FAILED, off))

    def _remove_fulfilled(self) -> None:
        """Whoever has the package, or else the first of the nodes that are there, sees to it."""
        alive = [name for name, node in sorted(self.view.nodes.items()) if not node.lost]
        for name, package in self.view.packages.items():
            order = package.order
            if order is None or not fulfilled(self.view, package):
                continue
            if self.me.node in package.at or (not package.at and alive[:1] == [self.me.node]):
                self._once(name, "fulfilled", lambda record, order=order: _without(record, order))  # type: ignore[misc]

    def summary(self) -> dict[str, Any]:
        """For the control socket: the picture, and what is decided. `read`: the store has been; without it there is
        none."""
        if self._stale:
            self._plan()
        return {
            "node": self.me.node,
            "life": self.me.nonce,
            "read": self.leases is not None,
            "view": msgspec.to_builtins(self.view),
            "decisions": msgspec.to_builtins(self.plan.decisions),
            "digests": {self.me.node: self._digests}
            | {node: record.digests for node, record in self.papers.nodes.items()},
            "maintenance": {
                name: str(record.maintenance) or " by hand"
                for name, record in self.papers.switches.items()
                if record.maintenance is not None
            },
        }


def _present(node: NodeView | None) -> bool:
    return node is not None and not node.lost and node.serves != ()


def _without(record: SwitchRecord, order: Order) -> SwitchRecord:
    return record if record.order != order else msgspec.structs.replace(record, order=None)
