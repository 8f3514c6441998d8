"""What the answers of a package's resources amount to. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .ports import ResourceHealth
from .types import Health, ResourceSpec, Status


class Assessment(NamedTuple):
    health: Health
    cause: str  # names the resources that are not up
    curable: bool  # everything that is down can heal
    down: tuple[str, ...]


def assess(resources: Sequence[ResourceSpec], answers: Mapping[str, ResourceHealth]) -> Assessment:
    """The worst counts: critical, then down, then not known, then degraded. A resource without answer is not known."""
    said = {r.name: answers.get(r.name) or _silent(r.name) for r in resources}
    of = {status: [n for n, a in said.items() if a.status is status] for status in (*Status, None)}
    not_up = [n for n, a in said.items() if a.status is not Status.UP]
    cause = "; ".join(f"{n} {said[n].status or 'cannot tell'}{_detail(said[n])}" for n in not_up)
    down = tuple(of[Status.DOWN])
    curable = bool(down) and all(r.heals for r in resources if r.name in down)
    if of[Status.CRITICAL]:
        health = Health.CRITICAL
    elif down:
        health = Health.DOWN if len(down) == len(said) else Health.PARTLY
    elif of[None]:
        health = Health.CANNOT_TELL
    elif of[Status.DEGRADED]:
        health = Health.DEGRADED
    else:
        health = Health.UP
    return Assessment(health, cause, curable, down)


def _silent(name: str) -> ResourceHealth:
    return ResourceHealth(resource=name, status=None, detail="no answer yet")


def _detail(answer: ResourceHealth) -> str:
    return f" ({answer.detail})" if answer.detail else ""
