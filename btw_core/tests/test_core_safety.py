"""The safety table: complete, exact in its numbers, and not at odds with the simulation."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btw_core.faults import FAULTS, SELF_FENCE
from btw_core.safety import WIDTH, Row, summary, table, text
from btw_core.testing.sim import disasters
from btw_core.timing import Timing, violations

LOCKS = ("local:/x", "etcd://h")
COMBINATIONS = list(product(LOCKS, SELF_FENCE, (False, True)))
TIMINGS = [
    Timing(),
    Timing(pace=1, timeout=3, stop_timeout=2),
    Timing(pace=2, timeout=60, stop_timeout=300, clock_error=0.05, slack=2),
]


def timed(timing: Timing, self_fence: str) -> Timing:
    watchdog = 1.0 if self_fence == "watchdog" else 0.0
    fields = {name: getattr(timing, name) for name in timing.__struct_fields__}
    return Timing(**{**fields, "watchdog": watchdog})


def rows_of(lock: str, self_fence: str, fenced: bool = False, timing: Timing = TIMINGS[0]) -> dict[str, Row]:
    return {row.fault: row for row in table(timed(timing, self_fence), lock, self_fence, fenced)}


@pytest.mark.parametrize(("lock", "self_fence", "fenced"), COMBINATIONS)
@pytest.mark.parametrize("timing", TIMINGS)
def test_every_fault_once_and_no_empty_cell(timing: Timing, lock: str, self_fence: str, fenced: bool) -> None:
    """Whatever the settings, each fault has one row; a promise that is not kept says "Nothing" and has no seconds."""
    assert violations(timed(timing, self_fence)) == []
    rows = table(timed(timing, self_fence), lock, self_fence, fenced)
    assert [row.fault for row in rows] == [fault.name for fault in FAULTS]
    assert len({row.fault for row in rows}) == len(rows)
    for cell in (cell for row in rows for cell in (row.two, row.one)):
        assert cell.text.endswith(".")
        assert "  " not in cell.text
        assert cell.kept is not cell.text.startswith("Nothing")
        assert cell.kept or cell.seconds is None
        assert cell.seconds is None or cell.seconds >= 0


@pytest.mark.parametrize("timing", TIMINGS)
def test_seconds_are_those_of_timing(timing: Timing) -> None:
    """The numbers are the formulas of timing.py and nothing else."""
    for lock, self_fence, fenced in COMBINATIONS:
        t = timed(timing, self_fence)
        p, r, s = t.pace, t.renewal_deadline, t.stop_timeout
        rows = rows_of(lock, self_fence, fenced, timing)
        assert rows["manager killed"].two.seconds == t.hard_at(0)
        settle = {True: r + s, False: r if self_fence != "none" else 2 * p + 3 * r}[lock.startswith("local")]
        anew = pytest.approx(t.worst_failover() + settle)
        assert rows["manager killed"].one.seconds == anew
        assert rows["resource fails"].one.seconds == pytest.approx(2.5 * p + s + 3 * r)
        if lock.startswith("etcd") and self_fence != "none":
            assert rows["node crash, power off"].one.seconds == anew
            assert rows["network cut from the store"].one.seconds == anew
        if self_fence == "watchdog":
            assert rows["keeper and manager killed"].two.seconds == t.watchdog


@pytest.mark.parametrize(
    ("timing", "words"),
    [
        (TIMINGS[0], "Runs on if the next manager renews within 9.3 s"),  # 30 - 4 - 2 x 4 - 26 / 3
        (TIMINGS[1], "The lock runs out before that can help"),  # 3 - 1 - 2 x 2 / 3 - 2 < 0
        (TIMINGS[2], "Runs on if the next manager renews within 34.7 s"),  # 60 - 2 - 2 x 2 - 58 / 3
    ],
)
def test_a_frozen_manager_is_replaced_in_time_or_not(timing: Timing, words: str) -> None:
    """What is left of T after the keeper noticed is computed; where nothing is left the cell does not say "runs on"."""
    assert rows_of("etcd:", "none", timing=timing)["manager frozen"].one.text.startswith(words)


def unkept(lock: str, self_fence: str) -> dict[str, str]:
    """fault -> the promises that nothing keeps."""
    found = {}
    for fault, row in rows_of(lock, self_fence).items():
        found[fault] = " ".join(word for word, cell in (("two", row.two), ("one", row.one)) if not cell.kept)
    return {fault: said for fault, said in found.items() if said}


def test_what_self_fence_is_for() -> None:
    """None: never two at the price of always one. Stop and reboot: the other way round, when keeper and manager end
    together. Watchdog: both, but for virtual machines, lost stores and hanging stops."""
    none, stop, reboot, watchdog = (unkept("etcd:", each) for each in SELF_FENCE)
    for both in ("keeper and manager killed", "keeper and manager frozen"):
        assert (none[both], stop[both], reboot[both], both in watchdog) == ("one", "two", "two", False)
    assert none["node crash, power off"] == none["network cut from the store"] == "one"
    assert "node crash, power off" not in stop | reboot | watchdog
    assert stop["stop hangs"] == "two one"
    assert none["stop hangs"] == reboot["stop hangs"] == watchdog["stop hangs"] == "one"
    assert watchdog == {
        "virtual machine paused": "two",
        "virtual machine set back": "two",
        "store lost": "one",
        "store data set back, unknown to a node": "two",
        "stop hangs": "one",
        "stop and status lie": "two",
        "storage path lost": "one",
    }
    local = unkept("local:", "none")
    assert local["node crash, power off"] == "one"
    assert [fault for fault, said in local.items() if "two" in said] == [
        "store data set back, unknown to a node",
        "stop and status lie",
    ]


def test_fenced_disks_are_said_where_two_are_possible() -> None:
    """Disks that refuse a node change no promise of the whole package, but are named where another node may start."""
    for self_fence in SELF_FENCE:
        plain, fenced = rows_of("etcd:", self_fence), rows_of("etcd:", self_fence, True)
        assert [r.two.kept for r in plain.values()] == [r.two.kept for r in fenced.values()]
        named = {fault for fault, row in fenced.items() if "Its disks refuse" in row.two.text}
        assert named == {fault for fault, row in plain.items() if not row.two.kept} - {
            "store data set back, unknown to a node"
        }


def test_a_fenced_disk_pays_where_nothing_else_is_shared() -> None:
    """With self_fence = "none" others then start it as if the node were trusted to stop, after an operation more; the
    cells say that its disks refuse it, and what goes on."""
    t = TIMINGS[0]
    none, pays = rows_of("etcd:", "none"), {r.fault: r for r in table(t, "etcd:", "none", True, True)}
    stop = {r.fault: r for r in table(t, "etcd:", "stop", True, True)}
    marks = [[(row.two.kept, row.one.kept) for row in rows.values()] for rows in (pays, stop)]
    assert marks[0] == marks[1]
    crash = "node crash, power off"
    assert not none[crash].one.kept
    assert pays[crash].one.seconds == pytest.approx(t.worst_failover() + t.renewal_deadline + t.stop_timeout)
    assert stop[crash].one.seconds == pytest.approx(t.worst_failover() + t.renewal_deadline)
    assert "programs that go on here meet nobody else there" in pays["node frozen, then resumed"].two.text


def test_against_lies_only_a_fenced_disk_helps() -> None:
    """A plugin whose stop and status both lie: no self_fence keeps "never two", and the cell says what would."""
    for self_fence in SELF_FENCE:
        plain, fenced = (rows_of("etcd:", self_fence, disk)["stop and status lie"].two for disk in (False, True))
        assert not plain.kept and "Only a disk that is fenced would refuse this node" in plain.text
        assert not fenced.kept and "Its disks refuse this node once another has taken them" in fenced.text


def test_the_simulation_is_held_against_it() -> None:
    """Each disaster named is one; what the simulation leaves out of a kept self_fence is all for which nothing keeps
    "never two", and these faults together with the keeper's, which only in company break it."""
    named = {name for fault in FAULTS for name in fault.simulated}
    assert named <= disasters.KINDS.keys()
    company = {"keeper_killed", "keeper_frozen"}
    for self_fence in SELF_FENCE:
        rows = rows_of("etcd:", self_fence).values()
        unguarded = {name for row in rows if not row.two.kept for name in row.simulated}
        left_out = disasters.breaking(self_fence, kept=True)
        assert left_out - company == unguarded


times = st.floats(0.1, 1e4)


@given(st.builds(Timing, pace=times, timeout=times, stop_timeout=times, watchdog=times), st.sampled_from(COMBINATIONS))
def test_it_fits_a_terminal(timing: Timing, combination: tuple[str, str, bool]) -> None:
    """No line is longer than WIDTH; no number is parted from its unit; every word of every cell is there."""
    rows = table(timing, *combination)
    shown = text(rows).splitlines() + summary(rows).splitlines()
    assert max(map(len, shown)) <= WIDTH
    assert not any(line.startswith("s ") for line in shown)
    words = " ".join(shown).split()
    assert {word for row in rows for word in (*row.two.text.split(), *row.one.text.split())} <= set(words)


def test_unknown_self_fence() -> None:
    """A self_fence that is none is refused with what is allowed."""
    with pytest.raises(ValueError, match='"pray": allowed: none, stop, reboot, watchdog'):
        table(Timing(), "local:", "pray", False)
