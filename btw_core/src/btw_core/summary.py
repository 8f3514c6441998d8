"""What `status` shows of one package on one node."""

from __future__ import annotations

from typing import Any

import msgspec

from .claim import describe
from .controller import Controller
from .fsm import WATCHED
from .types import State


def lock(of: Controller) -> str:
    """Who has it, and what this node waits for."""
    return describe(of.claim.record, of.claim.judgement, of.desk.now())


def summary(of: Controller) -> dict[str, Any]:
    """For the control socket."""
    now, seen = of.desk.now(), of.situation.state in (*WATCHED, State.STUCK)
    return {
        "package": of.name,
        "node": of.me.node,
        "role": "active" if of.claim.held else "stand-by",
        "state": str(of.situation.state),
        "cause": of.cause,
        "seconds": round(now - of.since, 1),
        "term": of.situation.term,
        "lock": lock(of),
        "lease_left": round(of.claim.lost_at - now, 2) if of.claim.held else None,
        "off": of.situation.off,
        "maintenance": of.maintenance,
        "working_on": of.work.describe(),
        "survivors": list(of.survivors),
        "resources": [
            msgspec.to_builtins(of.health[each.name])
            if each.name in of.health and seen
            else {"resource": each.name, "status": None, "detail": ""}
            for each in of.spec.resources
        ],
    }


def ill(controller: Controller) -> str:
    """What is not up of a package in maintenance, that would make it fail at once without."""
    if not (controller.maintenance and controller.claim.held):
        return ""
    found = (each for each in controller.health.values() if each.status != "up")
    return ", ".join(f"{each.resource} {each.status or 'cannot tell'}" for each in found)
