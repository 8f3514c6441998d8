"""What a keeper does when, by hand."""

from __future__ import annotations

import pytest

from btw_core.keeper_rules import FIRST_BEAT, Seen, decide

CALM = Seen(now=100.0, started=50.0, beat=99.9, stall=2.0, leases={}, missing=False, window=0.0)
UP = {"web": (105.0, 110.0), "db": (120.0, 130.0)}


def test_calm() -> None:
    """Nothing up, the manager beats: only the watchdog is fed."""
    assert decide(CALM) == (True, "", "")
    assert decide(CALM._replace(leases=UP)) == (True, "", "")


@pytest.mark.parametrize(
    ("now", "window", "feed", "fence"),
    [
        (100.0, 10.0, True, ""),
        (100.1, 10.0, False, ""),  # it would fire after H
        (109.9, 0.0, True, ""),
        (110.0, 0.0, True, "web: not known to be down 0.00 s after the hard deadline"),
        (110.0, 10.0, False, "web: not known to be down 0.00 s after the hard deadline"),
        (130.5, 10.0, False, "db, web: not known to be down 20.50 s after the hard deadline"),
    ],
)
def test_the_smallest_hard_deadline_counts(now: float, window: float, feed: bool, fence: str) -> None:
    """Fed only while it would fire by H; at H the node is fenced for those whose H has come."""
    seen = CALM._replace(now=now, beat=now, leases=UP, window=window)
    assert decide(seen) == (feed, "", fence)


def test_without_anything_up_it_is_fed_for_ever() -> None:
    """Also with a pulse that is gone: there is nothing to protect."""
    assert decide(CALM._replace(window=10.0, missing=True)) == (True, "", "")


def test_a_missing_pulse_counts_as_h_passed() -> None:
    """As long as something may be up."""
    decision = decide(CALM._replace(leases=UP, missing=True, window=10.0))
    assert not decision.feed and decision.fence == "db, web: may be up, and the pulse is gone"


def test_limits_that_nobody_told_are_no_deadline() -> None:
    """What `btw try start` left up."""
    forever = {"web": (float("inf"), float("inf"))}
    assert decide(CALM._replace(now=1e9, beat=1e9, leases=forever, window=10.0)) == (True, "", "")


@pytest.mark.parametrize(
    ("started", "beat", "killed"),
    [
        (50.0, 98.0, ""),  # just so
        (50.0, 97.9, "no beat for 2.10 s (allowed: 2 s)"),
        (99.0, None, ""),  # loading
        (100.0 - FIRST_BEAT, None, ""),
        (99.9 - FIRST_BEAT, None, "no beat for 30.10 s (allowed: 30 s)"),
        (98.5, 80.0, ""),  # an attached keeper has only just begun to look at it,
        (97.0, 80.0, "no beat for 3.00 s (allowed: 2 s)"),  # and gives it no more time than any other
    ],
)
def test_a_manager_without_a_beat_is_killed(started: float, beat: float | None, killed: str) -> None:
    """Later than `stall`; one that has not begun to beat has the time that loading takes."""
    assert decide(CALM._replace(started=started, beat=beat)) == (True, killed, "")
