"""How long a halt waits for what needs the package: `successor_halt_timeout`. Pure.

Dependents halt first. Each has its own stop_timeout for that, but one that is stuck, or that waits for something else,
would keep what it needs from ever leaving. When the time of a package is over it halts all the same, where it is told
to: its node says so in its record (`waited`), and all nodes plan by that. The lock decides as ever: it is given back
when the package is verified down, so nothing is up twice for it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .cluster import ClusterView
from .placement import Plan, What, placement


def waiting(view: ClusterView, plan: Plan) -> dict[tuple[str, str], float]:
    """(package, node) that would halt at once but for what needs it there -> the seconds for which it waits at most."""
    limits = {}
    for each in plan.decisions:
        seconds = view.packages[each.package].successor_halt_timeout
        if each.after and seconds is not None:
            limits[each.package, each.node] = seconds
    if not limits:
        return {}
    # what is held fast by something stuck need not want to go at all
    then = placement(past(view, limits)).decisions
    halting = {(each.package, each.node) for each in then if each.what is What.HALT}
    return {each: seconds for each, seconds in limits.items() if each in halting}


def past(view: ClusterView, waited: Iterable[tuple[str, str]]) -> ClusterView:
    """The picture when these have waited long enough."""
    packages = dict(view.packages)
    for name, node in waited:
        now = packages[name]
        packages[name] = msgspec.structs.replace(now, waited=tuple(sorted({*now.waited, node})))
    return msgspec.structs.replace(view, packages=packages)


class Patience:
    """Of one node: `over` are its packages that have waited long enough, until they are down or need not halt."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.over: frozenset[str] = frozenset()
        self._since: dict[str, float] = {}

    def look(self, view: ClusterView, plan: Plan, now: float) -> float | None:
        """Count. Returns when to look again: at once when `over` has changed; None: nobody waits."""
        limits = {name: seconds for (name, node), seconds in waiting(view, plan).items() if node == self.node}
        self._since = {name: self._since.get(name, now) for name in limits}
        due = {name: self._since[name] + seconds for name, seconds in limits.items()}
        halting = {each.package for each in plan.decisions if each.node == self.node and each.what is What.HALT}
        before, self.over = self.over, (self.over & halting) | {name for name, at in due.items() if at <= now}
        if self.over != before:
            return now
        return min((at for name, at in due.items() if name not in self.over), default=None)
