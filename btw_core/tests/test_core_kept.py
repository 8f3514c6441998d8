"""The manager's side of the pulse: what it says of its packages is there before and after it, and nobody else's."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from btw_core.clock import boottime
from btw_core.disk import Busy
from btw_core.kept import Kept, Lag, outdated, promise
from btw_core.pulse import STALE, KeeperHalf, ManagerHalf, Pulse, start_of
from btw_core.types import Incarnation

#: Never run here: the keeper of these tests always beats, or must not be started.
KEEPER = ["/bin/false", "--self-fence", "stop"]


class Run:
    """`slot`'s keeper and managers, in one process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal: list[tuple[str, str]] = []
        self.taken: set[str] = set()

    def path(self, slot: str) -> Path:
        return self.directory / f"{slot}.pulse"

    def keeper(self, slot: str, *, age: float = 0.0, window: float = 0.0) -> Pulse:
        pulse = Pulse.keep(self.path(slot), "boot")
        self.beat(pulse, age, window)
        return pulse

    def beat(self, pulse: Pulse, age: float = 0.0, window: float = 0.0) -> None:
        pid = os.getpid()
        half = KeeperHalf(pid=pid, start=start_of(pid), beat=boottime() - age, window=window)
        pulse.write(half)

    def manager(self, slot: str, *names: str, kept: bool = True) -> Kept:
        me = Incarnation(node="n1", machine="m", boot="boot", nonce="n", slot=slot, pid=7, pid_start=70, home="n1.x")
        kept_by = KEEPER if kept else []

        def say(event: str, cause: str) -> None:
            self.journal.append((event, cause))

        made = Kept(self.path(slot), me, names or [slot], kept_by, say=say, elsewhere=self.taken.__contains__)
        made.open()
        return made


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def up(kept: Kept, package: str, lost_at: float, hard: float) -> None:
    kept.lease(package, lost_at, hard)
    kept.tell()


def leases(pulse: Pulse) -> dict[str, tuple[float, float]]:
    half = pulse.manager()
    assert half is not None
    return dict(half.leases)


def test_what_may_be_up_is_there_when_it_was_told(run: Run) -> None:
    """`tell` is called before an effect: the keeper must not learn it later. One write says all."""
    keeper = run.keeper("web", window=3.0)
    kept = run.manager("web", "web", "db")
    assert kept.window == 3.0 and kept.former("web") is None and kept.attached()
    kept.lease("web", 10.0, 20.0)
    kept.lease("db", 10.0, 20.0)
    assert leases(keeper) == {}
    kept.tell()
    assert leases(keeper) == {"web": (10.0, 20.0), "db": (10.0, 20.0)}
    kept.lease("web", 11.0, 21.0)
    kept.down("db")
    kept.tell()
    assert leases(keeper) == {"web": (11.0, 21.0)}
    kept.end(0)
    half = keeper.manager()
    assert half is not None and half.ended == 0
    keeper.close()


def test_a_successor_says_what_its_predecessor_said_until_it_knows_better(run: Run) -> None:
    """Between two managers the keeper knows all the time until when what."""
    keeper = run.keeper("web")
    up(run.manager("web", "web", "db"), "web", 10.0, 20.0)
    second = run.manager("web", "web", "db")
    assert leases(keeper) == {"web": (10.0, 20.0)} and second.former("web") == (10.0, 20.0)
    assert second.former("db") is None
    second.beat("")
    assert leases(keeper) == {"web": (10.0, 20.0)}
    second.down("web")
    second.tell()
    assert leases(keeper) == {} and second.former("web") == (10.0, 20.0)
    keeper.close()


def test_a_package_that_changes_its_slot_takes_its_limits_along(run: Run) -> None:
    """`btw run a b` was killed, keeper and all; then `btw run b`: a later `btw run a` must not cut b off."""
    former = run.keeper("a")
    up(run.manager("a", "a", "b"), "a", 10.0, 20.0)
    up(run.manager("a", "a", "b"), "b", 11.0, 21.0)
    former.close()
    keeper = run.keeper("b")
    kept = run.manager("b")
    assert kept.former("b") == (11.0, 21.0)
    again = run.keeper("a")
    assert leases(again) == {}
    assert run.manager("a").former("a") == (10.0, 20.0)
    assert leases(again) == {"a": (10.0, 20.0)}
    again.close()
    keeper.close()


def test_what_another_manager_has_taken_is_not_ours_to_answer_for(run: Run) -> None:
    """A package left up by a former run, as soon as another manager of this node has it."""
    keeper = run.keeper("a")
    up(run.manager("a", "a", "b"), "b", 11.0, 21.0)
    kept = run.manager("a", "a")
    kept.beat("")
    assert leases(keeper) == {"b": (11.0, 21.0)}
    run.taken.add("b")
    kept.beat("")
    assert leases(keeper) == {}
    keeper.close()


def test_a_short_run_sets_no_limit_and_needs_no_keeper(run: Run) -> None:
    """`btw try start` leaves it up, for `btw run` to go on with whenever that comes; `try stop` leaves no trace."""
    short = run.manager("web", kept=False)
    assert short.attached()
    up(short, "web", 10.0, 20.0)
    with pytest.raises(Busy, match="managed on node n1"):
        run.manager("web", kept=False)
    short.end(0)
    keeper = run.keeper("web")
    assert leases(keeper) == {"web": (inf, inf)} and run.manager("web").former("web") == (inf, inf)
    with pytest.raises(Busy, match=f"by pid {os.getpid()}.*btw stop web"):
        run.manager("web", kept=False)
    keeper.close()
    last = run.manager("web", kept=False)
    last.down("web")
    last.end(0)
    assert not run.path("web").exists()


@pytest.mark.parametrize("wrong", ["silent", "deleted", "cut"])
def test_without_a_keeper_nothing_is_attached(run: Run, wrong: str) -> None:
    """Silent for too long, or its file is not what others see."""
    keeper = run.keeper("web", age=STALE + 0.5 if wrong == "silent" else 0.0)
    kept = run.manager("web")
    if wrong == "deleted":
        run.path("web").unlink()
    elif wrong == "cut":
        os.truncate(run.path("web"), 10)
    assert not kept.attached()
    up(kept, "web", 1.0, 2.0)  # does no harm
    keeper.close()


def test_a_pulse_that_was_made_again_gets_everything(run: Run) -> None:
    """With the next beat."""
    keeper = run.keeper("web")
    kept = run.manager("web")
    kept.lease("web", 10.0, 20.0)
    run.path("web").unlink()
    keeper = keeper.renewed()
    run.beat(keeper)
    kept.beat("")
    assert kept.attached() and leases(keeper) == {"web": (10.0, 20.0)}
    keeper.close()


def test_a_lost_keeper_is_said_once_and_so_is_its_return(run: Run) -> None:
    """In the journal, and in status as long as it lasts."""
    keeper = run.keeper("web")
    keeper.write(KeeperHalf(pid=1, start=1, beat=boottime(), served=True))  # ended; a service manager starts one
    kept = run.manager("web")
    for _ in range(3):
        kept.beat("")
    assert [event for event, _ in run.journal] == ["keeper_lost"] and "pid 1 has ended" in kept.trouble
    run.beat(keeper)
    for _ in range(3):
        kept.beat("")
    assert [event for event, _ in run.journal] == ["keeper_lost", "keeper_back"] and kept.trouble == ""
    keeper.close()


def test_a_manager_promises_what_its_keeper_does() -> None:
    """Not what btw.toml says by now; and nothing without one."""
    assert promise(KEEPER) == "stop" and promise([]) == "none"


def test_another_boot_left_nothing(run: Run) -> None:
    """What a pulse of another boot says is nothing."""
    pulse = Pulse.keep(run.path("web"), "before")
    pulse.write(ManagerHalf(leases={"web": (1.0, 2.0)}))
    pulse.close()
    keeper = run.keeper("web")
    assert run.manager("web").former("web") is None and leases(keeper) == {}
    keeper.close()


def test_lateness_is_said_once() -> None:
    """Above what is allowed; the worst of the last minute is what status shows."""
    told: list[str] = []
    tell: Callable[[str], None] = told.append
    lag = Lag(0.25, tell)
    assert lag.worst == 0.0 and lag.trouble == ""
    for late in (0.1, 0.25, 0.9, 0.3, 0.5):
        lag.saw(late)
    assert told == ["the manager was kept waiting for 0.90 s: this computer is too busy for it"]
    assert lag.worst == 0.9 and "0.90 s" in lag.trouble


def test_what_a_dead_run_left_up_has_a_keeper_until_its_hard_deadline(run: Run) -> None:
    """`btw run a b` is killed whole, then only `btw run b`: a has to be gone at its H as well. What `btw try` left up
    stays where it is said: it has no H."""
    dead = run.keeper("a")
    before = run.manager("a", "a", "b")
    up(before, "a", 10.0, 20.0)
    up(before, "b", 11.0, 21.0)
    tried = run.manager("c", kept=False)
    up(tried, "c", 1.0, 2.0)
    tried.end(0)
    dead.close()
    mine = run.keeper("b")
    kept = run.manager("b")
    assert leases(mine) == {"a": (10.0, 20.0), "b": (11.0, 21.0)}
    assert [cause for event, cause in run.journal if event == "left_behind" and "a may be up" in cause]
    assert kept.former("b") == (11.0, 21.0)
    assert leases(Pulse.open(run.path("a"), "boot")) == {}
    assert leases(Pulse.open(run.path("c"), "boot")) == {"c": (inf, inf)}
    run.taken.add("a")  # somebody runs it again
    kept.beat("")
    assert leases(mine) == {"b": (11.0, 21.0)}
    mine.close()


def test_what_a_keeper_does_not_know_of_is_said() -> None:
    """A reload goes on with the keeper as it was started; the manager's own options are not meant."""
    had = ["python", "--self-fence", "watchdog", "--window", "10.0", "--", "btw", "run", "--node", "n1"]
    assert outdated(had, had) == ""
    now = ["python", "--self-fence", "watchdog", "--window", "5.0", "--priority", "50", "--", "btw", "run"]
    assert outdated(had, now) == "window 10.0, now 5.0; priority not set, now 50"
