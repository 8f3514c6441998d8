"""The inequalities of the lease, for any times that are let through."""

from __future__ import annotations

from math import inf, nan

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from btw_core.timing import RETRY_CEILING, Timing, violations

SECONDS = st.floats(0.05, 5000)
TIMINGS = st.builds(
    Timing,
    pace=SECONDS,
    timeout=SECONDS,
    start_timeout=SECONDS,
    stop_timeout=SECONDS,
    clock_error=st.floats(0, 0.49),
    slack=st.floats(0, 10),
    watchdog=st.just(0.0) | st.floats(0, 100),
)
SOUND = TIMINGS.filter(lambda timing: not violations(timing))


def nearly(value: float) -> float:
    """Sums of floats are off by their last digits."""
    return value * (1 - 1e-9)


def test_the_defaults_hold() -> None:
    """The defaults break nothing, and are the numbers of the design."""
    t = Timing()
    assert violations(t) == []
    assert (t.pace, t.timeout, t.start_timeout, t.stop_timeout) == (4, 30, 30, 30)
    assert t.renewal_deadline == 4
    assert t.grace == pytest.approx(1.7)
    assert t.lease == pytest.approx(61.7)
    assert t.worst_failover() == pytest.approx(81.7)


@given(SOUND)
def test_two_tries_of_a_renewal_fit_before_the_timeout(t: Timing) -> None:
    """P + 2 r < T with r > 0: after a committed renewal the next one may fail once and be tried again."""
    assert 0 < t.renewal_deadline <= t.pace
    assert t.pace + 2 * t.renewal_deadline < t.timeout
    assert 0 < t.retry <= min(t.pace, RETRY_CEILING)


@given(SOUND)
def test_the_lease_outlasts_timeout_and_stop(t: Timing) -> None:
    """L >= T + S + slack + W, and H = sent + T + S comes before sent + L by the grace."""
    assert t.lease >= nearly(t.timeout + t.stop_timeout + t.slack + t.watchdog)
    assert t.lost_at(100) == 100 + t.timeout
    assert t.hard_at(100) == pytest.approx(100 + t.timeout + t.stop_timeout)
    assert t.hard_at(100) + t.grace == pytest.approx(100 + t.lease)
    if t.clock_error > 1e-6 or t.slack > 1e-6:
        assert t.lease > t.timeout + t.stop_timeout


@given(SOUND, st.floats(0, 1), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_the_worst_failover_is_a_bound(t: Timing, phase: float, answers: list[float]) -> None:
    """Whenever the stand-by looks within its pace, and however long answers take within r: from the sending of the last
    renewal until the stand-by has the lock it is never longer than said."""
    renewal, first, last, cas = (share * t.renewal_deadline for share in answers)
    seen = renewal + phase * t.pace + first  # when the renewal is first received; a reading is sent each pace
    taken = seen + t.lease + last + cas  # one more is sent when L has passed
    assert taken <= t.worst_failover() * (1 + 1e-9)


@given(SOUND)
def test_the_watchdog_is_fed_in_time(t: Timing) -> None:
    """W <= T + S - P - r: a holder that renews late, but in time, is not reset before its hard deadline."""
    if t.watchdog:
        assert 2 * t.watchdog <= t.timeout + t.stop_timeout - t.pace - t.renewal_deadline


@given(SOUND, st.floats(0.5, 2), st.floats(0, 1), st.booleans(), st.floats(0, 10))
def test_clocks_that_run_apart_do_not_meet(
    t: Timing, holder: float, share: float, faster: bool, transit: float
) -> None:
    """Whatever the rates of the two clocks, as long as they run apart by at most rho: when L has passed on the
    stand-by's clock since it received the sign of life, T + S (and what the faster clock leaves of the slack and the
    watchdog) have passed on the holder's since it sent it."""
    apart = 1 + t.clock_error * share
    standby = holder * apart if faster else holder / apart
    real = transit + t.lease / standby  # seconds of true time from the holder's `sent` to the take-over
    reserve = (t.slack + t.watchdog) / (1 + t.clock_error)
    assert real * holder >= nearly(t.timeout + t.stop_timeout + reserve)


@pytest.mark.parametrize("value", [0, -3, nan, inf])
@given(TIMINGS, st.sampled_from(["pace", "timeout", "start_timeout", "stop_timeout"]))
def test_times_must_be_positive_and_finite(value: float, t: Timing, key: str) -> None:
    """Each time that is none is named with its value."""
    wrong = violations(msgspec.structs.replace(t, **{key: value}))
    assert f"{key} = {value:g} s: must be greater than 0, and finite" in wrong


@pytest.mark.parametrize("value", [-1, nan, inf])
@pytest.mark.parametrize(("key", "name"), [("slack", "scheduling_slack"), ("watchdog", "watchdog")])
def test_slack_and_watchdog_must_not_be_negative(key: str, name: str, value: float) -> None:
    """Each is named with its value."""
    wrong = violations(msgspec.structs.replace(Timing(), **{key: value}))
    assert wrong == [f"{name} = {value:g} s: must be at least 0, and finite"]


@pytest.mark.parametrize("value", [-0.1, 0.5, nan])
def test_clock_error_must_be_a_small_share(value: float) -> None:
    """The share is named with what is allowed."""
    assert violations(Timing(clock_error=value)) == [
        f"clock_error = {value:g}: must be at least 0 and below 0.5 (0.01 is 1 %)"
    ]


@given(SECONDS, SECONDS)
def test_a_renewal_must_fit(pace: float, timeout: float) -> None:
    """timeout <= pace is refused, with both numbers, the rule and the remedy."""
    assume(timeout <= pace)
    (wrong,) = violations(Timing(pace=pace, timeout=timeout))
    for words in (f"timeout {timeout:g} s", f"pace {pace:g} s", "pace + 2 r < timeout", f"at least {2 * pace:g} s"):
        assert words in wrong


@given(st.floats(0.05, 1000), st.floats(1.01, 100))
def test_the_remedy_works(pace: float, more: float) -> None:
    """A timeout as large as the message proposes is let through."""
    assert violations(Timing(pace=pace, timeout=2 * pace * more)) == []


def test_watchdog_that_bites_too_late() -> None:
    """The largest watchdog is let through; the next is refused with all numbers."""
    assert violations(Timing(watchdog=26)) == []
    (wrong,) = violations(Timing(watchdog=27))
    assert "2 x watchdog_timeout 27 s > timeout 30 + stop_timeout 30 - pace 4 - renewal deadline 4 s" in wrong
    assert "raise stop_timeout" in wrong


def test_everything_wrong_is_said_at_once() -> None:
    """Not only the first problem is named."""
    assert len(violations(Timing(pace=0, timeout=-1, clock_error=2, slack=-1))) == 4
