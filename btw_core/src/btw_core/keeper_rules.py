"""What a keeper does when: pure, standard library only. The keeper's process and the simulation run this very function.

H is the smallest hard deadline of the packages that may be up here: what is up at H has to be gone, by whatever means.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import NamedTuple

#: Seconds that a manager may take from its start until its first beat: Python has to load, on a busy computer.
FIRST_BEAT = 30.0


class Seen(NamedTuple):
    """What a keeper knows at an instant. Instants are on CLOCK_BOOTTIME."""

    now: float
    started: float  # when the present manager was started, or first looked at
    beat: float | None  # its last beat; None: not yet
    stall: float  # seconds without a beat after which it counts as stalled
    leases: Mapping[str, tuple[float, float]]  # package -> lost_at, hard; the last that could be read
    missing: bool  # the pulse is gone
    window: float  # W; 0 without a watchdog


class Decision(NamedTuple):
    """`kill` and `fence` are causes; "" = not now."""

    feed: bool  # the watchdog
    kill: str  # the manager
    fence: str  # this node


#: As it nearly always is.
CALM = Decision(feed=True, kill="", fence="")


def hard_deadline(seen: Seen) -> float:
    """H; infinite while nothing may be up."""
    if not seen.leases:
        return inf
    return -inf if seen.missing else min([hard for _, hard in seen.leases.values()])


def decide(seen: Seen) -> Decision:
    """What has to be done at this instant."""
    hard = hard_deadline(seen)
    silent = seen.now - (seen.started if seen.beat is None else max(seen.beat, seen.started))
    limit = FIRST_BEAT if seen.beat is None else seen.stall
    if seen.now + seen.window <= hard and seen.now < hard and silent <= limit:
        return CALM
    fence = kill = ""
    if seen.now >= hard:
        names = ", ".join(sorted(seen.leases))
        fence = f"{names}: may be up, and the pulse is gone"
        if not seen.missing:
            late = [name for name, (_, each) in sorted(seen.leases.items()) if each <= seen.now]
            fence = f"{', '.join(late)}: not known to be down {seen.now - hard:.2f} s after the hard deadline"
    if silent > limit:
        kill = f"no beat for {silent:.2f} s (allowed: {limit:g} s)"
    return Decision(feed=seen.now + seen.window <= hard, kill=kill, fence=fence)
