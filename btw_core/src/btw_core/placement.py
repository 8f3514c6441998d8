"""Where each package should run, and what each node has to do about it: one pure function of a `ClusterView`.

No node leads. Every node computes this from the records that all nodes read, and acts only for itself. It never makes
anything safe: the lease does; a node that sees an old picture costs time, not correctness.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from .cluster import RUNNING, ClusterView, Dependency, FailoverPolicy, Kind, Location, Phase
from .targets import Targets, having, listed


class What(StrEnum):
    """What a node does about a package."""

    STAY = "stays"  # it runs here and goes on
    TAKE = "takes"  # it tries for the lock, `delay` paces after it saw it free
    WAIT = "waits"  # it would start or halt, but something else comes first
    HALT = "halts"  # it runs here and has to end
    NOT = "not"  # it does not run here


#: Paces for which a package is left to the node that it was given up for, while that is heard of. It has said a moment
#: ago that it is there; this is for a node that lives and does not act all the same.
LEFT = 8


class Decision(msgspec.Struct, frozen=True):
    """Of one node for one package. `cause` is never empty. `heir`: it halts by choice, for that node. `after`: what
    has to be down before it may halt here."""

    package: str
    node: str
    what: What
    cause: str
    delay: int = 0
    heir: str = ""
    after: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`targets`: where each package should be. `decisions`: for every package each node of its list, in start order."""

    targets: dict[str, tuple[str, ...]]
    decisions: tuple[Decision, ...]

    def of(self, package: str, node: str) -> Decision | None:
        """None: that node is not of its list, and does not hold it."""
        return next((d for d in self.decisions if d.package == package and d.node == node), None)


def placement(view: ClusterView) -> Plan:
    """The plan for this picture; the same for the same picture, whoever computes it."""
    targets = Targets(view)
    return Plan(targets=targets.of, decisions=tuple(_Moment(targets).decisions()))


_PHRASE = {
    Phase.STARTING: "starts on",
    Phase.UP: "runs on",
    Phase.FAILING: "has failed on",
    Phase.HALTING: "is halting on",
    Phase.STUCK: "is stuck on",
}
_WHERE = {
    Location.SAME_NODE: "on the same node",
    Location.ANY_NODE: "on any node",
    Location.DIFFERENT_NODE: "on a different node",
}


class _Moment:
    """What each node does about each package, given the targets and what is up just now."""

    def __init__(self, targets: Targets) -> None:
        self.t = targets
        self.view, self.packages, self.graph = targets.view, targets.packages, targets.graph
        self.lingers: dict[str, str] = {}  # package -> node that it leaves, but not yet: it still counts as staying
        self.leaves: set[tuple[str, str]] = set()  # (package, node): it halts there, or as soon as what needs it has

    def decisions(self) -> list[Decision]:
        found: list[Decision] = []
        for name in self.graph.start_order():
            package = self.packages[name]
            nodes = having(self.view.nodes_of(package), package.at)
            if package.type is Kind.MULTI_NODE:
                found += [self._held(name, node) or self._instance(name, node) for node in nodes]
            else:
                found += self._failover(name, nodes)
        return found

    # ---- what this node does not hold
    def _instance(self, name: str, node: str) -> Decision:
        """Of a multi-node package."""
        if node not in self.t.of[name]:
            return Decision(name, node, What.NOT, self.t.refused[name][node])
        unmet = self._unmet(name, node)
        return Decision(name, node, What.WAIT if unmet else What.TAKE, unmet or "one on each of its nodes")

    def _failover(self, name: str, nodes: tuple[str, ...]) -> list[Decision]:
        package = self.packages[name]
        target = next(iter(self.t.of[name]), "")
        holder = next((node for node in package.at if node in self.t.alive), "")
        if holder:
            cause = f"{_PHRASE[package.at[holder]]} {holder}" + (f", is for {target}" if target != holder else "")
            cause = cause if target else f"{_PHRASE[package.at[holder]]} {holder}"
            waits = {target: What.WAIT}
            return [
                self._held(name, node) or Decision(name, node, waits.get(node, What.NOT), cause) for node in nodes
            ]
        if not target:
            idle = self.t.unwanted(name)
            return [
                self._held(name, node)
                or Decision(name, node, What.NOT, idle or self.t.refused[name].get(node) or self.t.idle[name])
                for node in nodes
            ]
        found = {target: self._take(name, target)}
        if found[target].what is What.TAKE:
            found |= self._stand_by(name, target)
        return [found.get(node) or self._not(name, node, target) for node in nodes]

    def _take(self, name: str, node: str) -> Decision:
        unmet = self._unmet(name, node)
        if unmet:
            return Decision(name, node, What.WAIT, unmet)
        package, refused, leader = self.packages[name], self.t.refused[name], self.t.led[name]
        silent = next((other for other in package.at if other not in self.t.alive), "")
        if leader != name:
            cause = f"{leader} needs it here"
        elif package.order is not None and package.order.to in ("", node):
            cause = f"ordered{package.order}"
        elif package.failover_policy is FailoverPolicy.MIN_PACKAGE_NODE:
            cause = "of its nodes that can, the one with the fewest packages"
        else:
            cause = f"first of its list that can ({listed(refused)})" if refused else "first of its list"
        if silent:
            cause = f"{silent} is lost: taken as soon as its lease is over; {cause}"
        return Decision(name, node, What.TAKE, cause)

    def _stand_by(self, name: str, target: str) -> dict[str, Decision]:
        """Whoever could start it at this moment as well tries a pace later for each that comes before."""
        found: dict[str, Decision] = {}
        given = self.packages[name].heir == target
        for node in self.t.candidates(name):
            if node != target and not self.t.refusal(name, node) and not self._unmet(name, node):
                delay = len(found) + 1 + (LEFT if given else 0)
                paces = "a pace" if delay == 1 else f"{delay} paces"
                cause = f"is for {target}{', given up for it' if given else ''}; here after {paces} without it"
                found[node] = Decision(name, node, What.TAKE, cause, delay)
        return found

    def _not(self, name: str, node: str, target: str) -> Decision:
        held = self._held(name, node)
        cause = self.t.refused[name].get(node) or self.t.own(name, node) or f"is for {target}"
        return held or Decision(name, node, What.NOT, cause)

    def _unmet(self, name: str, node: str) -> str:
        """What has to happen before it can start there."""
        for each in self.graph.needs[name]:
            if not self._up(each, node, (Phase.UP,)):
                return f"until {each.package} is up {_WHERE[each.location]}"
        for other, location in self.graph.excludes[name].items():
            for at in self.packages[other].at:
                if location is Location.ALL_NODES or (at == node and at in self.t.alive):
                    return f"until {other} is down on {at}"
        return ""

    # ---- what this node holds
    def _held(self, name: str, node: str) -> Decision | None:
        """None: it does not."""
        phase = self.packages[name].at.get(node)
        if phase is None:
            return None
        if node not in self.t.alive:
            return Decision(name, node, What.NOT, f"{node} is lost; it counts as {phase} there until its lease is over")
        if phase is Phase.STUCK:
            return Decision(name, node, What.WAIT, "a stop failed here: a person has to act")
        if phase is Phase.HALTING:
            return Decision(name, node, What.HALT, "is halting")
        if phase is Phase.FAILING:
            return self._leave(name, node, "it has failed here")
        if node not in self.t.of[name]:
            return self._go(name, node)
        fast = self.t.fast.get((name, node))
        if fast:
            cause = f"runs here, and cannot halt before {fast} is down, which is stuck here{self._limit(name)}"
            return Decision(name, node, What.STAY, cause, after=(fast,))
        broken = self._broken(name, node)
        if broken:
            return self._leave(name, node, broken)
        automatic, heir = self.packages[name].automatic, self.packages[name].heir
        if heir not in ("", node):
            cause = f"runs here; was given up for {heir}, which did not take it; not once more before it begins anew"
            return Decision(name, node, What.STAY, cause)
        cause = "runs here" if automatic.on else f"runs here; auto_run is off{automatic}; nobody would take it over"
        return Decision(name, node, What.STAY, cause)

    def _go(self, name: str, node: str) -> Decision:
        """It runs here and should not."""
        if not self.t.of[name] or self.packages[name].type is Kind.MULTI_NODE:
            return self._leave(name, node, self.t.refused[name].get(node) or self.t.idle[name])
        target, leader, order = self.t.of[name][0], self.t.led[name], self.packages[name].order
        must = self.t.own(name, node)
        refused = self.t.refused[name].get(node, "")
        if refused and not must:
            followed = self._followed(name, node)
            if followed:
                self.lingers[name] = node
                return Decision(name, node, What.WAIT, f"goes to {target} with {followed}, which does not go yet")
            must = refused
        automatic = self.packages[name].automatic
        if must and order is None and not automatic.on:  # once down it is for nobody
            return self._leave(name, node, f"{must}; auto_run is off{automatic}: no other node starts it")
        if must:
            return self._leave(name, node, f"goes to {target}: {must}")
        if leader != name:
            cause = f"goes to {target} with {leader}, which decides"
        elif order is not None:
            cause = f"goes to {target}: ordered{order}"
        else:
            cause = f"goes back to {target}, the first of its list"
        for member in (leader, *self.graph.company[leader]):
            unmet = self._not_ready(member, target)
            if unmet and self._broken(name, node):
                break  # what it needs waits for it to go: else each of the two would wait for the other
            if unmet:
                self.lingers[name] = node
                return Decision(name, node, What.WAIT, f"{cause}; not before it can start there: {unmet}")
        return self._leave(name, node, cause, heir=target)

    def _followed(self, name: str, node: str) -> str:
        """What it needs here and what has not yet begun to leave, when nothing else drives it away."""
        if self.t.excluded(name, node):
            return ""
        same = (each.package for each in self.graph.needs[name] if each.location is Location.SAME_NODE)
        return next((other for other in same if self.lingers.get(other) == node), "")

    def _leave(self, name: str, node: str, cause: str, heir: str = "") -> Decision:
        """What needs it is halted first."""
        self.leaves.add((name, node))
        leaning = self._leaning(name, node)
        names = ", ".join(leaning)
        if leaning and node not in self.packages[name].waited:
            cause = f"halts when {names} is down{self._limit(name)}: {cause}"
            return Decision(name, node, What.WAIT, cause, after=tuple(leaning))
        if leaning:
            cause = f"{cause}; without waiting for {names} any longer: successor_halt_timeout is over"
        return Decision(name, node, What.HALT, cause, heir=heir)

    def _limit(self, name: str) -> str:
        """For how long it waits for what needs it."""
        seconds = self.packages[name].successor_halt_timeout
        return "" if seconds is None else f" (or after {seconds:g} s, successor_halt_timeout)"

    def _leaning(self, name: str, node: str) -> list[str]:
        """Who is not down and would lose what it needs."""
        stays = [other for other in self.t.of[name] if other != node and self.packages[name].at.get(other) in RUNNING]
        found = set()
        for other, each in self.graph.needed_by[name]:
            for at in self.packages[other].at.keys() & self.t.alive:
                if each.location is not Location.SAME_NODE and self.t.fast.get((other, at)):
                    continue  # it cannot go, and does not hold on to what is elsewhere
                different = each.location is Location.DIFFERENT_NODE
                left = [one for one in stays if not (different and one == at)]
                if at == node if each.location is Location.SAME_NODE else not left:
                    found.add(other)
        return sorted(found)

    def _broken(self, name: str, node: str) -> str:
        """What it needs is not there any more, or about to go."""
        for each in self.graph.needs[name]:
            if not self._up(each, node, RUNNING):
                return f"{each.package}, which it needs, does not stay up {_WHERE[each.location]}"
        return ""

    def _not_ready(self, name: str, node: str) -> str:
        """What does not come along and is not up for it there."""
        for each in self.graph.needs[name]:
            comes_along = each.package in self.graph.company[name]
            if not comes_along and not self._up(each, node, (Phase.UP,)):
                return f"{each.package} is not up {_WHERE[each.location]}"
        return ""

    def _up(self, each: Dependency, node: str, phases: tuple[Phase, ...]) -> bool:
        """It is up there, and stays for now."""
        other = self.packages.get(each.package)
        if other is None:
            return False
        staying = {*self.t.of[each.package], self.lingers.get(each.package, "")} & self.t.alive
        staying -= {one for one in staying if (each.package, one) in self.leaves}
        if each.location is Location.SAME_NODE:
            return other.at.get(node) in phases and node in staying
        different = each.location is Location.DIFFERENT_NODE
        return any(other.at.get(one) in phases and not (different and one == node) for one in staying)
