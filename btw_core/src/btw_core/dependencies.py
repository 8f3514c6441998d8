"""Which package needs or excludes which, what follows from it for order and company, and what cannot be. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush

import msgspec

from .cluster import Condition, Dependency, FailbackPolicy, FailoverPolicy, Kind, Location, Rules

#: Beaten by every number that a package may have.
NO_PRIORITY = 3001
_ALLOWED = {
    Condition.UP: (Location.SAME_NODE, Location.ANY_NODE, Location.DIFFERENT_NODE),
    Condition.DOWN: (Location.SAME_NODE, Location.ALL_NODES),
}


class Flaw(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with `package`: with its dependency number `index`, or with its key `key`."""

    package: str
    text: str
    remedy: str
    index: int | None = None
    key: str = ""


def rank(rules: Rules) -> int:
    """Its priority; lower wins."""
    return NO_PRIORITY if rules.priority is None else rules.priority


class Graph:
    """The dependencies of all packages. What is not there, or runs in a circle, does no harm here: `flaws` says it.

    `needs`: what must be up. `needed_by`: the reverse. `excludes`: package -> location, both ways round. `company`: the
    failover packages that have to be on the very node of this one, in start order, without it. `instances`: multi-node
    packages in start order. `order`: failover packages, whoever decides over others first.
    """

    def __init__(self, packages: Mapping[str, Rules]) -> None:
        self.packages = packages
        self.needs = {name: _needs(rules) for name, rules in packages.items()}
        self.needed_by: dict[str, list[tuple[str, Dependency]]] = {name: [] for name in packages}
        self.excludes: dict[str, dict[str, Location]] = {name: {} for name in packages}
        for name, rules in packages.items():
            for each in rules.dependencies:
                if each.package not in packages or each.package == name:
                    continue
                if each.condition is Condition.UP:
                    self.needed_by[each.package].append((name, each))
                    continue
                for one, other in ((name, each.package), (each.package, name)):
                    if self.excludes[one].get(other) is not Location.ALL_NODES:
                        self.excludes[one][other] = each.location
        self.depth = _depths(self.needs)
        self.company = {name: self._company(name) for name, rules in packages.items() if not _multi(rules)}
        many = [name for name, rules in packages.items() if _multi(rules)]
        self.instances = sorted(many, key=lambda name: (self.depth[name], name))
        self.order = list(self._dominance())

    def start_order(self) -> list[str]:
        """Every package after all that it needs; the reverse is the order to halt in."""
        return sorted(self.packages, key=lambda name: (self.depth[name], rank(self.packages[name]), name))

    def dominance(self, name: str) -> tuple[int, int, str]:
        """Lower decides: by priority, then what others need before what needs it, then by name."""
        return rank(self.packages[name]), self.depth[name], name

    def _company(self, name: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        todo = [name]
        while todo:
            for each in self.needs[todo.pop()]:
                other = each.package
                known = other in self.packages and other not in found and other != name
                if known and each.location is Location.SAME_NODE and not _multi(self.packages[other]):
                    found[other] = None
                    todo.append(other)
        return tuple(sorted(found, key=lambda other: (self.depth[other], other)))

    def beneath(self, name: str) -> set[str]:
        """What it needs on its node, at whatever remove, multi-node packages too."""
        found: set[str] = set()
        todo = [name]
        while todo:
            for each in self.needs[todo.pop()]:
                known = each.package in self.packages and each.package not in found
                if known and each.location is Location.SAME_NODE:
                    found.add(each.package)
                    todo.append(each.package)
        return found

    def _dominance(self) -> Iterator[str]:
        """By dominance; but whoever is needed on any or on a different node has to be placed before."""
        before: dict[str, set[str]] = {name: set() for name in self.company}
        for name in before:
            for member in (name, *self.company[name]):
                elsewhere = (each.package for each in self.needs[member] if each.location is not Location.SAME_NODE)
                before[name] |= {other for other in elsewhere if other in before and other != name}
        after: dict[str, list[str]] = {name: [] for name in before}
        for name, others in before.items():
            for other in others:
                after[other].append(name)
        ready = [self.dominance(name) for name, others in before.items() if not others]
        heapify(ready)
        left = {name: len(others) for name, others in before.items() if others}
        while ready or left:
            if not ready:  # a circle: refused by `flaws`
                first = min(left, key=self.dominance)
                del left[first]
                heappush(ready, self.dominance(first))
            name = heappop(ready)[2]
            yield name
            for other in after[name]:
                if other in left:
                    left[other] -= 1
                    if not left[other]:
                        del left[other]
                        heappush(ready, self.dominance(other))


def flaws(packages: Mapping[str, Rules]) -> list[Flaw]:
    """Everything that is wrong with the packages taken together."""
    found: list[Flaw] = []
    for name, rules in packages.items():
        found += _own(name, rules)
        seen: set[str] = set()
        for index, each in enumerate(rules.dependencies):
            said = list(_pair(name, rules, each, packages))
            if each.package in seen:
                said.append((f"a second dependency on `{each.package}`", "keep one of them"))
            seen.add(each.package)
            found += [Flaw(package=name, index=index, text=text, remedy=remedy) for text, remedy in said]
    return found + _circles(packages) + _contradictions(packages)


def _needs(rules: Rules) -> tuple[Dependency, ...]:
    return tuple(each for each in rules.dependencies if each.condition is Condition.UP)


def _multi(rules: Rules) -> bool:
    return rules.type is Kind.MULTI_NODE


def _own(name: str, rules: Rules) -> Iterator[Flaw]:
    if _multi(rules):
        said = {
            "failover_policy": rules.failover_policy is not FailoverPolicy.CONFIGURED_NODE,
            "failback_policy": rules.failback_policy is not FailbackPolicy.MANUAL,
        }
        for key in (key for key, given in said.items() if given):
            text = "a multi_node package runs on all its nodes at once and never fails over"
            yield Flaw(package=name, key=key, text=text, remedy="remove it")
    double = sorted({node for node in rules.nodes if rules.nodes.count(node) > 1})
    if double:
        text = f"names {', '.join(double)} more than once"
        yield Flaw(package=name, key="nodes", text=text, remedy="name each node once, the preferred one first")


def _pair(name: str, mine: Rules, each: Dependency, packages: Mapping[str, Rules]) -> Iterator[tuple[str, str]]:
    """(what is wrong, remedy) with one dependency."""
    other = each.package
    if other == name:
        yield "a package cannot depend on itself", "remove it"
        return
    if each.location not in _ALLOWED[each.condition]:
        allowed = ", ".join(_ALLOWED[each.condition])
        yield f"condition {each.condition} with location {each.location}", f"allowed with {each.condition}: {allowed}"
        return
    if other not in packages:
        near = difflib.get_close_matches(other, packages, n=1)
        yield f"there is no package `{other}`", f"did you mean `{near[0]}`?" if near else "write its package file"
        return
    its = packages[other]
    if each.condition is Condition.DOWN:
        yield from _exclusion(name, mine, each, its)
    elif _multi(mine) and not _multi(its):
        text = f"a multi_node package cannot need `{other}`, which runs on one node at a time"
        yield text, f"let `{other}` depend on `{name}`, or make both multi_node"
    elif each.location is Location.SAME_NODE:
        yield from _same_node(mine, other, its)
    elif not _multi(its):
        if rank(mine) < rank(its):
            text = f"priority {mine.priority} beats `{other}`, which has to be placed first"
            yield text, f"give `{other}` priority {mine.priority} or lower, or this one a higher number"
        if each.location is Location.DIFFERENT_NODE and mine.nodes == its.nodes and len(mine.nodes) == 1:
            yield f"`{other}` cannot be on a different node: both have only {mine.nodes[0]}", "name further nodes"


def _exclusion(name: str, mine: Rules, each: Dependency, its: Rules) -> Iterator[tuple[str, str]]:
    other = each.package
    if _multi(mine) or _multi(its):
        yield "only failover packages exclude each other", "remove it"
        return
    back = next((d for d in its.dependencies if d.package == name and d.condition is Condition.DOWN), None)
    table = f'package = "{name}", condition = "DOWN", location = "{each.location}"'
    if back is None:
        yield f"exclusion is not mutual: `{other}` does not exclude `{name}`", f"add to `{other}`: {table}"
    elif back.location is not each.location:
        yield f"`{other}` excludes `{name}` on {back.location}, this one on {each.location}", f"in `{other}`: {table}"
    if mine.priority is None and its.priority is None:
        text = f"neither `{name}` nor `{other}` has a priority: which of them gives way?"
        yield text, "write priority = 1 to 3000 into at least one; the lower number stays"


def _same_node(mine: Rules, other: str, its: Rules) -> Iterator[tuple[str, str]]:
    missing = [node for node in mine.nodes if its.nodes and node not in its.nodes]
    if not mine.nodes and its.nodes:
        text = f"runs on any node, but `{other}` only on {', '.join(its.nodes)}"
        yield text, f"write nodes = {msgspec.json.encode(its.nodes).decode()} or fewer"
    elif missing:
        yield f"`{other}` cannot run on {', '.join(missing)}", f"add to its nodes, or remove from these: {missing[0]}"
    if _multi(its):
        return
    for rules, which in ((mine, "this package"), (its, f"`{other}`")):
        if rules.failover_policy is not FailoverPolicy.CONFIGURED_NODE:
            text = f"{which} has failover_policy {rules.failover_policy}: two lists cannot be followed at once"
            yield text, f"set configured_node in {which}"


def _circles(packages: Mapping[str, Rules]) -> list[Flaw]:
    """Each circle of packages that need each other, once, with its members named."""
    needs = {name: [d.package for d in _needs(rules) if d.package in packages] for name, rules in packages.items()}
    done: set[str] = set()
    found = []
    for first in sorted(packages):
        stack = [(first, iter(needs[first]))] if first not in done else []
        path = [name for name, _ in stack]
        while stack:
            name, rest = stack[-1]
            other = next(rest, None)
            if other is None:
                done.add(name)
                stack.pop()
                path.pop()
            elif other in path and other != name:
                ring = [*path[path.index(other) :], other]
                index = next(i for i, d in enumerate(packages[name].dependencies) if d.package == other)
                text = f"a circle: {' -> '.join(ring)}"
                found.append(Flaw(package=name, index=index, text=text, remedy="remove one of these dependencies"))
            elif other not in done and other not in path:
                stack.append((other, iter(needs[other])))
                path.append(other)
    return found


def _contradictions(packages: Mapping[str, Rules]) -> list[Flaw]:
    """Whoever excludes what it needs, at whatever remove, can never run."""
    found = []
    for name, rules in packages.items():
        here, anywhere = _reach(name, packages)
        for index, each in enumerate(rules.dependencies):
            if each.condition is not Condition.DOWN:
                continue
            scope = here if each.location is Location.SAME_NODE else anywhere
            if each.package in scope:
                chain = " -> ".join(scope[each.package])
                text = f"excludes `{each.package}`, which it needs ({chain}): it could never run"
                found.append(Flaw(package=name, index=index, text=text, remedy="remove one of the two"))
    return found


def _reach(name: str, packages: Mapping[str, Rules]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What must be up while `name` is, with the way there: on its own node, and anywhere."""
    here: dict[str, list[str]] = {name: [name]}
    anywhere: dict[str, list[str]] = {name: [name]}
    for scope, same in ((here, True), (anywhere, False)):
        todo = [name]
        while todo:
            one = todo.pop()
            for each in _needs(packages[one]):
                fits = each.location is Location.SAME_NODE or not same
                if fits and each.package in packages and each.package not in scope:
                    scope[each.package] = [*scope[one], each.package]
                    todo.append(each.package)
        del scope[name]
    return here, anywhere


def _depths(needs: Mapping[str, tuple[Dependency, ...]]) -> dict[str, int]:
    """The longest chain of needs below each package; circles are cut somewhere."""
    depths: dict[str, int] = {}
    for first in needs:
        stack, entered = [first], set()
        while stack:
            name = stack[-1]
            below = [d.package for d in needs[name] if d.package in needs]
            todo = [other for other in below if other not in depths and other not in entered]
            if name not in depths and todo:
                entered.add(name)
                stack.append(todo[0])
                continue
            depths.setdefault(name, max((depths.get(other, -1) for other in below), default=-1) + 1)
            stack.pop()
    return depths
