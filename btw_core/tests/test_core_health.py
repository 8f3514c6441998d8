"""What the answers of several resources amount to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btw_core.health import Assessment, assess
from btw_core.ports import ResourceHealth
from btw_core.types import Health, ResourceSpec, Status

ANSWERS = (*Status, None)
PLAIN = tuple(ResourceSpec(name=name, type="flag") for name in ("disk", "ip", "web"))
HEALS = tuple(ResourceSpec(name=name, type="flag", heals=True) for name in ("disk", "ip", "web"))


def said(*statuses: Status | None, resources: tuple[ResourceSpec, ...] = PLAIN) -> Assessment:
    pairs = zip(resources, statuses, strict=True)
    return assess(resources, {r.name: ResourceHealth(resource=r.name, status=status) for r, status in pairs})


U, D, G, C, N = Status.UP, Status.DOWN, Status.DEGRADED, Status.CRITICAL, None


@pytest.mark.parametrize(
    ("statuses", "health"),
    [
        ((U, U, U), Health.UP),
        ((D, D, D), Health.DOWN),
        ((U, D, U), Health.PARTLY),
        ((U, G, U), Health.DEGRADED),
        ((U, G, D), Health.PARTLY),
        ((U, N, U), Health.CANNOT_TELL),
        ((G, N, U), Health.CANNOT_TELL),
        ((D, N, D), Health.PARTLY),
        ((D, C, N), Health.CRITICAL),
        ((N, N, N), Health.CANNOT_TELL),
    ],
)
def test_the_worst_counts(statuses: tuple[Status | None, ...], health: Health) -> None:
    """Critical, then down, then not known, then degraded; partly down is not down."""
    assert said(*statuses).health is health


@given(st.lists(st.sampled_from(ANSWERS), min_size=3, max_size=3))
def test_health_is_never_better_than_an_answer(statuses: list[Status | None]) -> None:
    """UP needs every resource up; DOWN every one down; one critical is critical, however the others are."""
    health = said(*statuses).health
    assert (health is Health.UP) == (set(statuses) == {U})
    assert (health is Health.DOWN) == (set(statuses) == {D})
    assert (health is Health.CRITICAL) == (C in statuses)


def test_no_answer_is_not_down() -> None:
    """A resource that has not answered is not known."""
    found = assess(PLAIN, {})
    assert found.health is Health.CANNOT_TELL
    assert found.cause == "; ".join(f"{r.name} cannot tell (no answer yet)" for r in PLAIN)


def test_cause_names_what_is_not_up() -> None:
    """Names and details of exactly those that are not up, in their order."""
    answers = {
        "disk": ResourceHealth(resource="disk", status=D, detail="exit 1"),
        "ip": ResourceHealth(resource="ip", status=U, detail="fine"),
        "web": ResourceHealth(resource="web", status=None, detail="asked for 4 s"),
        "old": ResourceHealth(resource="old", status=C, detail="not of this package"),
    }
    found = assess(PLAIN, answers)
    assert found.cause == "disk down (exit 1); web cannot tell (asked for 4 s)"
    assert found.down == ("disk",)


def test_curable_is_only_what_all_can_heal() -> None:
    """Curable: something is down, and everything that is down heals."""
    assert said(D, U, D, resources=HEALS).curable
    assert said(D, D, D, resources=HEALS).curable
    assert not said(U, G, N, resources=HEALS).curable
    assert not said(D, U, D, resources=(*HEALS[:2], PLAIN[2])).curable
    assert said(U, D, U, resources=(PLAIN[0], HEALS[1], PLAIN[2])).curable
