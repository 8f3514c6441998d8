"""Where each package should be: the first half of `placement`. Pure.

Packages are placed one after the other, whoever decides over others first (`Graph.order`): a package goes to the first
node of its list on which it and its company (what it needs on the very same node) can be; what was placed before it
stands. So where a package belongs depends on nothing that is placed later, and repeating it comes to rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from .cluster import (
    RUNNING,
    ClusterView,
    Dependency,
    FailbackPolicy,
    FailoverPolicy,
    Kind,
    Location,
    Order,
    PackageView,
    Phase,
    Verb,
)
from .dependencies import Graph, rank


class Targets:
    """`of`: where each package should be. `refused`: why not on the nodes that were tried before. `led`: who has placed
    it there, itself or what needs it. `idle`: why it should be nowhere. `fast`: (package, node) -> what is stuck there
    and holds it fast, itself or what needs it there: it cannot leave, so all else is planned around it."""

    def __init__(self, view: ClusterView) -> None:
        self.view, self.packages = view, view.packages
        self.graph = Graph(view.packages)
        self.alive = {name for name, node in view.nodes.items() if not node.lost}
        self.of: dict[str, tuple[str, ...]] = {}
        self.idle: dict[str, str] = {}
        self.led: dict[str, str] = {}
        self.refused: dict[str, dict[str, str]] = {name: {} for name in view.packages}
        self.fast = dict(self._held_fast())
        running = ((name, self.here(name)) for name in self.graph.company)
        self.load = Counter(node for _, node in running if node)
        for name in self.graph.instances:
            self._place_instances(name)
        for name, node in self.fast:
            if name in self.graph.company and self.here(name) == node:
                self.of[name], self.led[name] = (node,), name
        for name in self.graph.order:
            if name not in self.of:
                self._place(name)

    def here(self, name: str) -> str:
        """Where a failover package runs; "" when it does not."""
        at = self.packages[name].at
        return next((node for node, phase in at.items() if phase in RUNNING and node in self.alive), "")

    def _held_fast(self) -> Iterator[tuple[tuple[str, str], str]]:
        for name, package in self.packages.items():
            for node in (node for node, phase in package.at.items() if phase is Phase.STUCK and node in self.alive):
                yield (name, node), name
                for other in self.graph.beneath(name):
                    if node in self.packages[other].at and node not in self.packages[other].waited:
                        yield (other, node), name

    def refusal(self, name: str, node: str) -> str:
        """Why it cannot be on that node whatever the moment; "" when it can."""
        for member in (name, *self.graph.company.get(name, ())):
            cause = self._member(member, node) if member != name else self.own(name, node)
            cause = cause or self._bound(member, node, leader=name)
            if cause:
                return cause
        return ""

    # ---- one package
    def _place_instances(self, name: str) -> None:
        """A multi-node package is on every node of its list where it can be."""
        package = self.packages[name]
        nodes = []
        for node in having(self.view.nodes_of(package), package.at):
            cause = self._instance(package, node) or self.own(name, node) or self._bound(name, node, leader=name)
            if cause and not ((name, node) in self.fast and package.at[node] in RUNNING):
                self.refused[name][node] = cause
            else:
                nodes.append(node)
        self.of[name], self.led[name] = tuple(nodes), name
        self.idle[name] = "" if nodes else listed(self.refused[name])

    def _instance(self, package: PackageView, node: str) -> str:
        """What people said of one instance."""
        order = package.order
        if order is not None and order.verb is Verb.HALT and order.to in ("", node):
            return f"halted by order{order}"
        if package.at.get(node) in RUNNING or (order is not None and order.to in ("", node)):
            return ""
        boot = package.stopped.get(node)
        if boot is not None and node in self.view.nodes and boot == self.view.nodes[node].boot:
            return "halted by hand: only running it by hand starts it again, or a reboot"
        return "" if package.automatic.on else f"auto_run is off{package.automatic}"

    def _place(self, name: str) -> None:
        cause = self.unwanted(name)
        if cause:
            self.of[name], self.idle[name] = (), cause
            return
        for node in self.candidates(name):
            cause = self.refusal(name, node)
            if cause:
                self.refused[name][node] = cause
                continue
            for member in (name, *self.graph.company[name]):
                if member not in self.of:
                    self._assign(member, node, name)
            return
        self.of[name], self.idle[name] = (), listed(self.refused[name]) or "there is no node"

    def _assign(self, name: str, node: str, leader: str) -> None:
        self.of[name], self.led[name] = (node,), leader
        here = self.here(name)
        if here != node:
            self.load[node] += 1
            if here:
                self.load[here] -= 1

    def unwanted(self, name: str) -> str:
        """Why it should run nowhere; "" when it should run."""
        package = self.packages[name]
        order = package.order
        stuck = self._stuck(name)
        if order is not None and order.verb is Verb.HALT:
            return f"halted by order{order}"
        if stuck and package.at[stuck] is Phase.STUCK:
            return f"a stop failed on {stuck}: nobody may start it before a person acts"
        if stuck:
            return f"it has failed on {stuck}, and cannot halt before {self.fast[name, stuck]} is down, which is stuck"
        if self.here(name) or package.automatic.on or order is not None:
            return ""
        return f"auto_run is off{package.automatic}"

    def _stuck(self, name: str) -> str:
        """Where it is, not running and unable to go."""
        at = self.packages[name].at
        gone = (node for node, phase in at.items() if phase is Phase.STUCK or (name, node) in self.fast)
        return next((node for node in gone if at[node] not in RUNNING), "")

    def candidates(self, name: str) -> list[str]:
        """Nodes in the order in which they are tried."""
        package, here = self.packages[name], self.here(name)
        nodes = self.view.nodes_of(package)
        stay = [here] if here else []
        order = package.order
        if order is not None and order.verb is not Verb.HALT and order.to:
            return list(dict.fromkeys([order.to, *stay]))
        if package.failover_policy is FailoverPolicy.MIN_PACKAGE_NODE:
            place = {node: index for index, node in enumerate(nodes)}
            nodes = tuple(sorted(nodes, key=lambda node: (self.load[node], place[node])))
        return list(dict.fromkeys([*self._failback(name), *stay, *nodes]))

    def _failback(self, name: str) -> list[str]:
        """Its first node, where it goes back by itself; not past what runs with it and has no lower priority."""
        package = self.packages[name]
        first = self.view.nodes_of(package)[:1]
        if package.failback_policy is not FailbackPolicy.AUTOMATIC:
            return []
        if self.here(name) and package.heir in first:
            return []  # it was given up for that node, which did not take it: not once more
        for other in self._followers(name):
            if self.here(other) and rank(self.packages[other]) <= rank(package):
                return []
        return list(first)

    def _followers(self, name: str) -> list[str]:
        found: dict[str, None] = {}
        todo = [name]
        while todo:
            for other, each in self.graph.needed_by[todo.pop()]:
                if each.location is Location.SAME_NODE and other in self.graph.company and other not in found:
                    found[other] = None
                    todo.append(other)
        return list(found)

    # ---- one package on one node
    def own(self, name: str, node: str) -> str:
        package = self.packages[name]
        if package.nodes and node not in package.nodes:
            return "not in its list of nodes"
        known = self.view.nodes.get(node)
        if known is None:
            return "never seen"
        if known.lost:
            return "lost"
        if known.drained:
            return f"drained, {known.drained}"
        if known.quiet and node not in package.at:
            return "not heard of for a moment"
        if known.serves is not None and name not in known.serves:
            return "btw does not run it there"
        phase = package.at.get(node)
        if phase is Phase.FAILING:
            return "it has failed there"
        if phase is Phase.STUCK:
            return "a stop failed there"
        if node in package.off and phase not in RUNNING:
            return f"switched off there{package.off[node]}"
        return ""

    def _member(self, name: str, node: str) -> str:
        """What keeps a package from coming along to that node."""
        if name in self.of:
            if node in self.of[name]:
                return ""
            if self.of[name]:
                return f"needs {name}, which is for {self.of[name][0]}"
            return f"needs {name}: {self.idle[name]}"
        cause = self.unwanted(name) or self.own(name, node)
        return f"needs {name}: {cause}" if cause else ""

    def _bound(self, name: str, node: str, leader: str) -> str:
        """What packages that were placed before do not allow, or do not offer."""
        for each in self.graph.needs[name]:
            cause = self._need(name, node, each)
            if cause:
                return cause if name == leader else f"needs {name}: {cause}"
        return self.excluded(name, node)

    def excluded(self, name: str, node: str) -> str:
        """By whom it is kept from that node."""
        for other, location in self.graph.excludes[name].items():
            placed = self.of.get(other, ())
            if node in placed or (placed and location is Location.ALL_NODES):
                return f"excluded by {other} on {placed[0]}"
            stuck = self._stuck(other)
            if stuck and (stuck == node or location is Location.ALL_NODES):
                return f"excluded by {other}, which is stuck on {stuck}"
        return ""

    def _need(self, name: str, node: str, each: Dependency) -> str:
        other = each.package
        if other not in self.packages:
            return f"needs {other}, which is not known"
        placed = self.of.get(other)
        if placed is None:
            return ""  # of the company: asked for itself
        if not placed:
            return f"needs {other}: {self.idle[other]}"
        if each.location is Location.DIFFERENT_NODE and set(placed) == {node}:
            return f"needs {other} on a different node"
        if each.location is Location.SAME_NODE and node not in placed:
            return f"needs {other}, which is for {', '.join(placed)}"
        return self._first_instance(name, node, other) if each.location is Location.SAME_NODE else ""

    def _first_instance(self, name: str, node: str, other: str) -> str:
        """Seed 003: after a multi-node package was halted and started again, what needs it starts on the first
        eligible node on which an instance comes up, its first node or not. A node named in an order is waited for."""
        its, mine = self.packages[other], self.packages[name]
        named = mine.order is not None and mine.order.to == node
        if its.type is not Kind.MULTI_NODE or not its.restarted or self.here(name) or named:
            return ""
        return "" if its.at.get(node) is Phase.UP else f"needs {other}, which was restarted and is not yet up there"


def ordered(view: ClusterView, name: str, order: Order) -> tuple[ClusterView, str]:
    """The picture with that order, and why it would not be obeyed ("" when it would). The order names its node."""
    package = msgspec.structs.replace(view.packages[name], order=order)
    view = msgspec.structs.replace(view, packages={**view.packages, name: package})
    targets = Targets(view)
    if order.to in targets.of[name]:
        return view, ""
    if targets.of[name] and targets.led[name] != name:
        return view, f"goes with {targets.led[name]}, which decides, to {targets.of[name][0]}"
    return view, targets.refused[name].get(order.to) or targets.idle[name]


def listed(refused: dict[str, str]) -> str:
    """Nodes with their causes, in one line."""
    nodes: dict[str, list[str]] = {}
    for node, cause in refused.items():
        nodes.setdefault(cause, []).append(node)
    return "; ".join(f"{', '.join(several)}: {cause}" for cause, several in nodes.items())


def having(nodes: tuple[str, ...], at: dict[str, Phase]) -> tuple[str, ...]:
    """The nodes of its list, and those that hold it all the same."""
    return nodes if all(node in nodes for node in at) else tuple(dict.fromkeys([*nodes, *at]))
