"""What a step of one package changes by the table of switches. Pure."""

from __future__ import annotations

from . import events as ev
from .events import Event
from .switches import Happening
from .types import State


def happening_of(event: Event, state: State, *, fenced: bool) -> Happening | None:
    """None: nothing. `fenced`: this node is about to go, as if it crashed."""
    match event:
        case ev.StartFailed(everywhere=True) | ev.StopUnfinished(everywhere=True) if state is State.FAILING:
            return Happening.START_FINAL
        case ev.StartFailed() | ev.HealFailed() | ev.StopUnfinished() if state is State.FAILING:
            return Happening.FAILED
        case ev.HealthSeen() | ev.HealthOverdue() if state is State.FAILING:
            return Happening.FAILED
        case ev.StopOverdue() | ev.StopFailed() if fenced:
            return Happening.NODE_CRASHED
        case ev.StartOverdue() | ev.StopOverdue():
            return Happening.TIMED_OUT
        case ev.StopFailed():
            return Happening.HALT_FAILED
    return None
