"""Whether the lock still counts, as operations ask it: by the live pulse, and by what was known where that cannot be
read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from btw_core.clock import boot_id, boottime
from btw_core.hold import Hold
from btw_core.pulse import SIZE, ManagerHalf, Pulse
from btw_core.resource import Failed
from btw_core.testing import FakeContext
from btw_core.types import Verb

FAR = 1000.0


@pytest.fixture
def pulse(tmp_path: Path) -> Iterator[Pulse]:
    """The manager's."""
    made = Pulse.keep(tmp_path / "web.pulse", boot_id())
    yield made
    made.close()


def says(pulse: Pulse, **locks: tuple[int, float]) -> None:
    pulse.write(ManagerHalf(pid=1, locks=locks))


def test_the_live_lease_counts_and_not_what_the_operation_was_ordered_with(pulse: Pulse) -> None:
    """A long start goes on while the lock is renewed, and ends when it is not, whatever it was told at first."""
    now = boottime()
    says(pulse, web=(3, now + FAR))
    longer = Hold(str(pulse.path), "web", 3, now - 1)
    assert longer.trouble() == ""
    says(pulse, web=(3, now))
    shorter = Hold(str(pulse.path), "web", 3, now + FAR)
    assert shorter.trouble().startswith("the lock has run out") and longer.trouble()
    says(pulse, web=(3, now + FAR))
    assert (longer.trouble(), shorter.trouble()) == ("", "")


@pytest.mark.parametrize("locks", [{}, {"db": (3, 1e12)}, {"web": (4, 1e12)}])
def test_a_term_that_is_over_stays_over(pulse: Pulse, locks: dict[str, tuple[int, float]]) -> None:
    """Who holds the lock under another term, or not at all, begins nothing under this one."""
    says(pulse, **locks)
    assert "term 3 is over" in Hold(str(pulse.path), "web", 3, boottime() + FAR).trouble()


def test_the_last_good_reading_counts_where_nothing_can_be_read(pulse: Pulse) -> None:
    """A pulse that is torn, cut short or removed neither holds up a start nor prolongs its lease."""
    now = boottime()
    says(pulse, web=(3, now + FAR))
    hold = Hold(str(pulse.path), "web", 3, now - 1)
    assert hold.trouble() == ""
    with pulse.path.open("r+b") as file:
        file.write(b"\xff" * SIZE)
    assert hold.trouble() == ""
    os.truncate(pulse.path, 0)
    assert hold.trouble() == ""
    pulse.path.unlink()
    assert hold.trouble() == ""


def test_an_unreadable_pulse_leaves_the_order(tmp_path: Path, pulse: Pulse) -> None:
    """Without a pulse, with one of another boot, or of a manager that does not say it, `not_after` counts."""
    now = boottime()
    other = Pulse.keep(tmp_path / "other.pulse", "another boot")
    says(other, web=(3, now + FAR))
    silent = Pulse.keep(tmp_path / "silent.pulse", boot_id())
    silent.write(ManagerHalf(pid=1))
    for path in ("", str(tmp_path / "none"), str(other.path), str(silent.path)):
        assert Hold(path, "web", 3, now + FAR).trouble() == ""
        assert Hold(path, "web", 3, now).trouble()
        assert Hold(path, "web", 3, 0.0).trouble() == ""
    other.close()
    silent.close()


def test_another_pulse_at_its_path_is_found(pulse: Pulse) -> None:
    """Somebody removed the file, and the keeper made another one: what the manager writes there counts."""
    now = boottime()
    says(pulse, web=(3, now + 0.001))
    hold = Hold(str(pulse.path), "web", 3, now + FAR)
    pulse.path.unlink()
    fresh = Pulse.keep(pulse.path, boot_id())
    says(fresh, web=(3, now + FAR))
    while boottime() < now + 0.002:
        pass
    assert hold.trouble() == ""
    fresh.close()


def test_it_is_cheap(pulse: Pulse) -> None:
    """Right before each effect, also where a run has many packages: far below a millisecond."""
    now = boottime()
    says(pulse, **{f"p{number}": (3, now + FAR) for number in range(150)})
    hold = Hold(str(pulse.path), "p7", 3, 0.0)
    begin = time.perf_counter()
    for _ in range(100):
        assert hold.trouble() == ""
    assert time.perf_counter() - begin < 100 * 0.005


@pytest.mark.parametrize("verb", [Verb.START, Verb.HEAL, Verb.FENCE])
def test_recheck_refuses_whoever_changes_something(verb: Verb) -> None:
    """From the moment that the lock is gone; and the test kit counts how often it was asked for."""
    ctx = FakeContext(verb)
    ctx.recheck()
    ctx.lose_lock(after=1)
    ctx.recheck()
    with pytest.raises(Failed, match="the lock has run out"):
        ctx.recheck()
    assert ctx.rechecks == 3


@pytest.mark.parametrize("verb", [Verb.STOP, None])
def test_recheck_never_refuses_stop_and_status(verb: Verb | None) -> None:
    """A stop has to go on without the lock, and most of all then."""
    ctx = FakeContext(verb)
    ctx.lose_lock()
    ctx.recheck()
