"""Random clusters over the pure placement: nodes that act one after the other on what they see, and their misfortunes.

Only for tests of rules that no lock is needed for: who should run where. Time is a count of turns.
"""

from __future__ import annotations

import random
from collections import Counter

import msgspec

from btw_core.cluster import (
    RUNNING,
    ClusterView,
    Condition,
    Dependency,
    FailbackPolicy,
    FailoverPolicy,
    Kind,
    Location,
    NodeView,
    PackageView,
    Phase,
)
from btw_core.dependencies import Graph, flaws
from btw_core.patience import Patience, waiting
from btw_core.placement import Decision, Plan, What, placement
from btw_core.rehearsal import befall, given, settled
from btw_core.switches import Happening, Refused, switched

#: As `befall` knows them, some more often than others; N and P stand for a node and a package.
MISFORTUNES = (
    *("node N lost", "node N lost", "node N back", "node N back", "node N drained", "node N resumed"),
    *("P fails on N", "P fails on N", "halt P", "run P on N", "run P", "move P to N", "move P"),
    *("enable P", "enable P", "disable P", "enable P on N", "enable P on N", "disable P on N"),
)


def random_view(dice: random.Random, nodes: int, packages: int) -> ClusterView:
    """A cluster in which nothing runs yet, with dependencies that `flaws` accepts."""
    names = [f"n{number}" for number in range(1, nodes + 1)]
    made = {f"p{number:02}": _random_package(dice, names) for number in range(packages)}
    for name in made:
        for other in dice.sample(sorted(made), min(len(made), dice.choice([0, 0, 1, 1, 2]))):
            _bind(dice, made, name, other)
    return ClusterView(nodes={name: NodeView(boot="0") for name in names}, packages=made)


def _random_package(dice: random.Random, names: list[str]) -> PackageView:
    nodes = tuple(dice.sample(names, dice.randint(1, len(names)))) if dice.random() < 0.7 else ()
    if dice.random() < 0.2:
        automatic = dice.random() < 0.9
        return PackageView(
            type=Kind.MULTI_NODE, nodes=nodes, auto_run=automatic, successor_halt_timeout=_random_patience(dice)
        )
    return PackageView(
        nodes=nodes,
        auto_run=dice.random() < 0.9,
        failover_policy=dice.choice(list(FailoverPolicy)),
        failback_policy=dice.choice(list(FailbackPolicy)),
        priority=dice.choice([None, dice.randint(1, 5)]),
        successor_halt_timeout=_random_patience(dice),
    )


def _random_patience(dice: random.Random) -> float | None:
    return dice.choice([None, None, 0.0, float(dice.randint(1, 20))])


def _bind(dice: random.Random, made: dict[str, PackageView], name: str, other: str) -> None:
    """One more dependency, where the rules allow it."""
    location = dice.choice([Location.SAME_NODE, Location.SAME_NODE, Location.ANY_NODE, Location.DIFFERENT_NODE])
    pairs = [(name, Dependency(package=other, location=location))]
    if dice.random() < 0.3:
        location = dice.choice([Location.SAME_NODE, Location.SAME_NODE, Location.ALL_NODES])
        pairs = [
            (one, Dependency(package=two, condition=Condition.DOWN, location=location))
            for one, two in ((name, other), (other, name))
        ]
    changed = dict(made)
    for one, each in pairs:
        depends = (*changed[one].dependencies, each)
        changed[one] = msgspec.structs.replace(changed[one], dependencies=depends)
    if not flaws(changed):
        made.update(changed)


class Cluster:
    """Nodes that take turns. `starts` counts what was started since it was last cleared, by lock: NAME, or NAME@NODE of
    a multi-node package, each of whose instances goes its own way."""

    def __init__(self, view: ClusterView, dice: random.Random) -> None:
        self.view, self.dice = view, dice
        self.starts: Counter[str] = Counter()
        self.silent: Counter[str] = Counter()  # turns since a node was lost
        self.free: Counter[str] = Counter()  # turns in which a package was held by nobody
        self.plan = placement(view)
        self.patience = {node: Patience(node) for node in view.nodes}
        self.turns = 0
        self.trouble = 0.0  # share of starts and halts that fail

    def turn(self) -> bool:
        """One node does all that it should; what was begun before ends. False: there was nothing to do for anybody."""
        self.turns += 1
        before = self.view
        self._wait()
        self.plan = placement(self.view)
        self._judge(self.plan)
        alive = [name for name, node in self.view.nodes.items() if not node.lost]
        for name, there in self.view.nodes.items():
            self.silent[name] = self.silent[name] + 1 if there.lost else 0
        self._leases_end()
        node = self.dice.choice(alive) if alive else ""
        for name in self.view.packages:
            for each in list(self.view.packages[name].at):
                if each in alive and self.dice.random() < 0.5:
                    self._go_on(name, each)
        for name in self.view.packages:
            decision = placement(self.view).of(name, node) if self._may_act(name, node) else None
            if decision is not None:
                self._act(decision)
        for name, package in self.view.packages.items():
            self.free[name] = 0 if package.at else self.free[name] + 1
        self.view = settled(self.view)
        return self.view != before or self._pending()

    def rest(self, limit: int) -> bool:
        """Turns until there is nothing more to do; False when that is not before `limit`."""
        quiet = 0
        for _ in range(limit):
            quiet = 0 if self.turn() else quiet + 1
            if quiet > 2:
                return True
        return False

    def _wait(self) -> None:
        """Each node says whose halt has waited long enough for what needs it."""
        plan = placement(self.view)
        for patience in self.patience.values():
            patience.look(self.view, plan, self.turns)
        for name, package in self.view.packages.items():
            waited = tuple(node for node in sorted(package.at) if name in self.patience[node].over)
            if waited != package.waited:
                self._put(name, msgspec.structs.replace(package, waited=waited))

    def _may_act(self, name: str, node: str) -> bool:
        decision = self.plan.of(name, node)
        return decision is not None and decision.what in (What.TAKE, What.HALT, What.WAIT)

    def _pending(self) -> bool:
        if any(d.what is What.HALT or (d.what is What.TAKE and not d.delay) for d in placement(self.view).decisions):
            return True
        if waiting(self.view, placement(self.view)):
            return True
        held = [(p, node, phase) for p in self.view.packages.values() for node, phase in p.at.items()]
        return any(self.view.nodes[n].lost or phase in (Phase.STARTING, Phase.HALTING) for _, n, phase in held)

    def _leases_end(self) -> None:
        for name, package in self.view.packages.items():
            at = {node: phase for node, phase in package.at.items() if self.silent[node] < 4}
            if len(at) != len(package.at):
                self._set(name, at=at)

    def _act(self, decision: Decision) -> None:
        name, node = decision.package, decision.node
        package = self.view.packages[name]
        if decision.what is What.HALT and package.at.get(node) in (*RUNNING, Phase.FAILING):
            self._put(name, given(package, decision, {**package.at, node: Phase.HALTING}))
        elif decision.what is What.TAKE and node not in package.at:
            taken = package.type is Kind.FAILOVER and bool(package.at)  # the lock: a lost holder's lease has to end
            if not taken and self.free[name] >= 3 * decision.delay:
                self._put(name, given(package, decision, {**package.at, node: Phase.STARTING}))
                self.starts[name if package.type is Kind.FAILOVER else f"{name}@{node}"] += 1

    def _go_on(self, name: str, node: str) -> None:
        """A start or a halt ends, well or not."""
        package = self.view.packages[name]
        phase, fails = package.at[node], self.dice.random() < self.trouble
        without = {other: p for other, p in package.at.items() if other != node}
        if phase is Phase.STARTING and fails:
            happening = self.dice.choice([Happening.START_ELSEWHERE, Happening.FAILED, Happening.START_FINAL])
            self._put(name, switched(name, package, happening, node))
            self._set(name, at=without)
        elif phase is Phase.STARTING:
            self._set(name, at={**without, node: Phase.UP})
        elif phase is Phase.HALTING and fails and self.dice.random() < 0.3:
            self._put(name, switched(name, package, Happening.HALT_FAILED, node))
            self._set(name, at={**without, node: Phase.STUCK})
        elif phase is Phase.HALTING:
            self._set(name, at=without)

    def _set(self, name: str, *, at: dict[str, Phase]) -> None:
        self._put(name, msgspec.structs.replace(self.view.packages[name], at=at))

    def _put(self, name: str, package: PackageView) -> None:
        self.view = msgspec.structs.replace(self.view, packages={**self.view.packages, name: package})

    # ---- misfortunes and people
    def misfortune(self) -> str:
        """One of them befalls it; what it was, "" when it was refused."""
        node = self.dice.choice(sorted(self.view.nodes))
        name = self.dice.choice(sorted(self.view.packages))
        words = self.dice.choice(MISFORTUNES).replace("N", node).replace("P", name)
        try:
            self.view = befall(self.view, words)
        except Refused:
            return ""
        return words

    # ---- what has to hold at every turn
    def _judge(self, plan: Plan) -> None:
        assert all(decision.cause for decision in plan.decisions), "a decision without a cause"
        graph = Graph(self.view.packages)
        for name, package in self.view.packages.items():
            alive = [node for node in package.at if not self.view.nodes[node].lost]
            assert package.type is Kind.MULTI_NODE or len(package.at) <= 1, f"{name} is held by {alive}"
            for other, location in graph.excludes[name].items():
                its = self.view.packages[other].at
                both = set(package.at) & set(its) if location is Location.SAME_NODE else its and package.at
                assert not both, f"{name} and {other} exclude each other and are both at {both}"

    def idle_without_reason(self) -> list[str]:
        """Who could simply start where things are as they are, and does not: judged without `placement`."""
        found = []
        for name, package in self.view.packages.items():
            running = [node for node, phase in package.at.items() if phase in RUNNING]
            held = package.type is Kind.FAILOVER and bool(package.at)
            if held or not package.automatic.on or package.order is not None:
                continue
            for node in self.view.nodes_of(package):
                if node not in running and node not in package.at and self._could(name, package, node):
                    found.append(f"{name} on {node}")
        return found

    def _could(self, name: str, package: PackageView, node: str) -> bool:
        there = self.view.nodes.get(node)
        if there is None or there.lost or there.drained or node in package.off:
            return False
        if package.stopped.get(node) == there.boot:
            return False
        for each in package.dependencies:
            up = [n for n, phase in self.view.packages[each.package].at.items() if phase is Phase.UP]
            held = self.view.packages[each.package].at
            fine = {
                (Condition.UP, Location.SAME_NODE): node in up,
                (Condition.UP, Location.ANY_NODE): bool(up),
                (Condition.UP, Location.DIFFERENT_NODE): any(n != node for n in up),
                (Condition.DOWN, Location.SAME_NODE): node not in held,
                (Condition.DOWN, Location.ALL_NODES): not held,
            }
            if not fine[each.condition, each.location]:
                return False
        return True
