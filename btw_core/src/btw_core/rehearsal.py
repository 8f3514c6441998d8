"""What would happen: a picture of a cluster, something that befalls it, and every step until it is at rest. Pure.

Nobody fails in a rehearsal but by what is asked for: starts and halts succeed. The steps come from the very function
that the nodes compute (`placement`), so they say what the nodes would do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from .cluster import RUNNING, ClusterView, Kind, NodeView, Order, PackageView, Phase, Verb
from .patience import past, waiting
from .placement import Decision, Plan, What, placement
from .switches import Happening, Refused, switched
from .targets import listed, ordered

_Said = Mapping[str, str]  # NODE and PKG of the words, and by whom, when, why
#: More steps than any chain of moves has.
LIMIT = 200
#: Steps that are shown of a rehearsal that did not come to rest.
SHOWN = 20


class Step(NamedTuple):
    """What the nodes do at one time; `overdue`: nodes whose leases are over then; `waited`: (package, node) whose halt
    waits no longer for what needs it."""

    decisions: tuple[Decision, ...]
    overdue: tuple[str, ...] = ()
    waited: tuple[tuple[str, str], ...] = ()


class Rehearsal(NamedTuple):
    """The steps, and the picture and plan at the end. `words`: what befell it, "" for as things stand; `refused`: why
    it may not, and nothing changed. `restless`: it did not come to rest, which is a defect."""

    steps: tuple[Step, ...]
    view: ClusterView
    plan: Plan
    restless: bool = False
    words: str = ""
    refused: str = ""


def play(view: ClusterView, faults: Sequence[str]) -> list[Rehearsal]:
    """As things stand, then after each of `faults` what it comes to. Raises ValueError as `befall` does."""
    played = [rehearse(view)]
    for words in faults:
        before = played[-1]
        try:
            after = rehearse(befall(before.view, words))
        except Refused as error:
            after = Rehearsal((), before.view, before.plan, refused=str(error))
        played.append(after._replace(words=words))
    return played


def rehearse(view: ClusterView) -> Rehearsal:
    """Let the nodes do what they would do until there is nothing left to do."""
    steps: list[Step] = []
    while len(steps) < LIMIT:
        plan = placement(view)
        doing = tuple(d for d in plan.decisions if d.what is What.HALT or (d.what is What.TAKE and not d.delay))
        lost = [name for name, node in view.nodes.items() if node.lost]
        overdue = tuple(sorted({node for p in view.packages.values() for node in p.at if node in lost}))
        view = settled(_overdue(_done(view, doing), overdue))
        if not doing and not overdue:
            limits = waiting(view, plan)
            if not limits:
                return Rehearsal(tuple(steps), view, plan)
            first = tuple(each for each, seconds in limits.items() if seconds == min(limits.values()))
            view = past(view, first)
            steps.append(Step((), waited=first))
            continue
        steps.append(Step(doing, overdue))
    return Rehearsal(tuple(steps), view, placement(view), restless=True)


def _done(view: ClusterView, doing: tuple[Decision, ...]) -> ClusterView:
    packages = dict(view.packages)
    for each in doing:
        package = packages[each.package]
        at = {node: phase for node, phase in package.at.items() if node != each.node}
        if each.what is What.TAKE:
            keep = at if package.type is Kind.MULTI_NODE else {}
            at = {**keep, each.node: Phase.UP}
        packages[each.package] = given(package, each, at)
    return msgspec.structs.replace(view, packages=packages)


def given(package: PackageView, decision: Decision, at: dict[str, Phase]) -> PackageView:
    """The package as it is `at` after that was done, and for whom it was given up."""
    heir = package.heir
    if decision.what is What.TAKE:
        heir = "" if decision.node == heir else heir
    elif decision.heir:
        heir = decision.heir
    waited = tuple(node for node in package.waited if node in at)
    return msgspec.structs.replace(package, at=at, heir=heir, waited=waited)


def _overdue(view: ClusterView, nodes: tuple[str, ...]) -> ClusterView:
    """Nothing counts as up any more on nodes that have been silent for their leases."""

    def edit(package: PackageView) -> PackageView:
        at = {node: phase for node, phase in package.at.items() if node not in nodes}
        return package if len(at) == len(package.at) else msgspec.structs.replace(package, at=at)

    return _edited(view, edit) if nodes else view


def settled(view: ClusterView) -> ClusterView:
    """Orders that are fulfilled are gone."""
    return _edited(view, lambda package: _without(package) if fulfilled(view, package) else package)


def _without(package: PackageView) -> PackageView:
    return msgspec.structs.replace(package, order=None)


def fulfilled(view: ClusterView, package: PackageView) -> bool:
    """It has an order, and nothing of it is left to do."""
    order = package.order
    if order is None:
        return False
    if order.verb is Verb.HALT:
        return not package.at if not order.to else order.to not in package.at
    up = [node for node, phase in package.at.items() if phase in RUNNING and not view.nodes[node].lost]
    return order.to in up if order.to else bool(up) and order.verb is Verb.RUN


def _edited(view: ClusterView, edit: Callable[[PackageView], PackageView]) -> ClusterView:
    packages = {name: edit(package) for name, package in view.packages.items()}
    return msgspec.structs.replace(view, packages=packages)


# ---- what befalls it ----------------------------------------------------------------------------------------------
def befall(view: ClusterView, words: str, *, by: str = "", when: str = "", why: str = "") -> ClusterView:
    """The picture after `words`, one of FAULTS; `by`, `when`, `why`: what switches and orders will say. Raises
    ValueError: not understood, or nobody of that name; Refused."""
    for pattern, (meaning, _) in FAULTS.items():
        found = re.fullmatch(_regex(pattern), " ".join(words.split()))
        if found:
            said = found.groupdict()
            for key, known in (("NODE", view.nodes), ("PKG", view.packages)):
                if key in said and said[key] not in known:
                    kind = {"NODE": "node", "PKG": "package"}[key]
                    there = ", ".join(sorted(known)) or "none"
                    raise ValueError(f'"{words}": there is no {kind} `{said[key]}` (there are: {there})')
            return meaning(view, said | {"by": by, "when": when, "why": why})
    raise ValueError(f'"{words}" is not understood; write one of: {"; ".join(FAULTS)}')


def _regex(pattern: str) -> str:
    return re.sub(r"\b(NODE|PKG)\b", r"(?P<\1>[A-Za-z0-9][A-Za-z0-9._-]*)", pattern)


def _node(**change: Any) -> Callable[[ClusterView, Mapping[str, str]], ClusterView]:
    def befallen(view: ClusterView, said: Mapping[str, str]) -> ClusterView:
        node = msgspec.structs.replace(view.nodes[said["NODE"]], **change)
        return msgspec.structs.replace(view, nodes={**view.nodes, said["NODE"]: node})

    return befallen


def _back(view: ClusterView, said: Mapping[str, str]) -> ClusterView:
    """Booted anew: nothing is up on it, and what was halted by hand on it was halted in another life."""
    name = said["NODE"]
    node = NodeView(drained=view.nodes[name].drained, boot=f"{view.nodes[name].boot}+", serves=view.nodes[name].serves)
    view = _overdue(msgspec.structs.replace(view, nodes={**view.nodes, name: node}), (name,))
    return _edited(view, lambda p: msgspec.structs.replace(p, heir="") if p.heir == name else p)


def _package(
    happening: Happening | None, change: Callable[[PackageView, _Said, ClusterView], PackageView] | None = None
) -> Callable[[ClusterView, Mapping[str, str]], ClusterView]:
    def befallen(view: ClusterView, said: Mapping[str, str]) -> ClusterView:
        name, node = said["PKG"], said.get("NODE", "")
        package = view.packages[name]
        if happening is not None:
            package = switched(name, package, happening, node, by=said["by"], when=said["when"], why=said["why"])
        package = change(package, said, view) if change else package
        return msgspec.structs.replace(view, packages={**view.packages, name: package})

    return befallen


def _fails(package: PackageView, said: _Said, _view: ClusterView) -> PackageView:
    node = said["NODE"]
    if package.at.get(node) not in RUNNING:
        raise Refused(f"it does not run on {node}")
    return msgspec.structs.replace(package, at={**package.at, node: Phase.FAILING})


def _sticks(package: PackageView, said: _Said, _view: ClusterView) -> PackageView:
    node = said["NODE"]
    if node not in package.at:
        raise Refused(f"it does not run on {node}")
    return msgspec.structs.replace(package, at={**package.at, node: Phase.STUCK})


def _halts(package: PackageView, said: _Said, view: ClusterView) -> PackageView:
    node = said.get("NODE", "")
    if package.type is Kind.FAILOVER:
        return msgspec.structs.replace(package, order=_order(Verb.HALT, "", said))
    nodes = [node] if node else view.nodes_of(package)
    stopped = package.stopped | {each: view.nodes[each].boot for each in nodes if each in view.nodes}
    return msgspec.structs.replace(package, order=_order(Verb.HALT, node, said), stopped=stopped)


def _runs(package: PackageView, said: _Said, _view: ClusterView) -> PackageView:
    node = said.get("NODE", "")
    again = bool(package.stopped) or package.restarted
    stopped = {each: boot for each, boot in package.stopped.items() if node not in ("", each)}
    order = _order(Verb.RUN, node, said)
    return msgspec.structs.replace(package, order=order, stopped=stopped, restarted=again)


def _moves(view: ClusterView, said: Mapping[str, str]) -> ClusterView:
    name = said["PKG"]
    package = view.packages[name]
    if package.type is Kind.MULTI_NODE:
        raise Refused("a multi_node package is on all its nodes")
    up = [node for node, phase in package.at.items() if phase in RUNNING and not view.nodes[node].lost]
    if not up:
        raise Refused(f"it runs nowhere; run {name} starts it")
    refused = {}
    for node in [said["NODE"]] if "NODE" in said else view.nodes_of(package):
        moved, cause = ordered(view, name, _order(Verb.MOVE, node, said))
        refused[node] = "runs there" if node in up else cause
        if not refused[node]:
            return moved
    raise Refused(listed(refused))


def _order(verb: Verb, to: str, said: _Said) -> Order:
    return Order(verb=verb, to=to, by=said["by"], why=said["why"])


#: What may befall a cluster, as it is written -> what it does, and what it means.
FAULTS: dict[str, tuple[Callable[[ClusterView, Mapping[str, str]], ClusterView], str]] = {
    "node NODE lost": (_node(lost=True), "nothing is heard of it any more"),
    "node NODE back": (_back, "booted again"),
    "node NODE drained": (_node(drained="by hand"), "it is to run nothing"),
    "node NODE resumed": (_node(drained=""), "it takes part again"),
    "PKG fails on NODE": (_package(Happening.FAILED, _fails), "and is switched off there"),
    "PKG sticks on NODE": (_package(Happening.HALT_FAILED, _sticks), "a stop fails"),
    "halt PKG": (_package(Happening.HALTED, _halts), "by hand"),
    "halt PKG on NODE": (_package(Happening.HALTED, _halts), "by hand, one instance of a multi_node package"),
    "run PKG": (_package(Happening.RUN, _runs), "by hand, where its policy says"),
    "run PKG on NODE": (_package(Happening.RUN, _runs), "by hand"),
    "move PKG": (_moves, "to the next of its nodes that can"),
    "move PKG to NODE": (_moves, "by hand"),
    "enable PKG": (_package(Happening.ENABLED), "auto_run on"),
    "disable PKG": (_package(Happening.DISABLED), "auto_run off"),
    "enable PKG on NODE": (_package(Happening.NODE_ENABLED), "node switching on"),
    "disable PKG on NODE": (_package(Happening.NODE_DISABLED), "node switching off"),
}


# ---- for people -----------------------------------------------------------------------------------------------------
def section(rehearsal: Rehearsal) -> str:
    """What befell it, the steps, where everything is at the end, and why what does not run does not."""
    lines = [f"== {rehearsal.words or 'as things stand'}"]
    if rehearsal.refused:
        return "\n".join([*lines, f"refused: {rehearsal.refused}"])
    for number, step in enumerate(rehearsal.steps[: SHOWN if rehearsal.restless else LIMIT], 1):
        texts = [f"{d.package} {_DOES[d.what]} {d.node}: {d.cause}" for d in step.decisions]
        texts += [f"the leases of {node} are over" for node in step.overdue]
        texts += [f"{name} on {node}: its successor_halt_timeout is over" for name, node in step.waited]
        lines += [f"{f'{number}.' if not index else '':<3} {text}" for index, text in enumerate(texts)]
    if not rehearsal.steps:
        lines.append("nothing happens")
    lines += ["", *_rest(rehearsal)]
    if rehearsal.restless:
        lines.append(f"not at rest after {LIMIT} steps: a defect of btw, please report it with this view")
    return "\n".join(lines)


_DOES = {What.TAKE: "starts on", What.HALT: "halts on"}
_NOT = {What.NOT: "not on", What.WAIT: "waits on"}


def _rest(rehearsal: Rehearsal) -> list[str]:
    view, plan = rehearsal.view, rehearsal.plan
    width = max(map(len, view.packages), default=0)
    lines, causes = [], []
    for name, package in sorted(view.packages.items()):
        up = [node for node, phase in package.at.items() if phase in RUNNING]
        at = [node if phase in RUNNING else f"{phase} on {node}" for node, phase in sorted(package.at.items())]
        lines.append(f"{name:<{width}}  {' '.join(at) or 'down'}")
        if up and package.order is None:
            continue
        for each in (d for d in plan.decisions if d.package == name and d.what in (What.NOT, What.WAIT)):
            causes.append(f"{name} {_NOT[each.what]} {each.node}: {each.cause}")
    return [*lines, *([""] if causes else []), *causes]
