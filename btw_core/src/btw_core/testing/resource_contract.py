"""The conformance kit of resource types: every rule of `btw_core.resource`, tried as btw itself runs a resource, in
forked processes with the real operations, looks and watches. Needs pytest.

    from btw_core.testing import ResourceContract

    class TestFlag(ResourceContract):
        @pytest.fixture
        def table(self, tmp_path: Path) -> dict[str, Any]:
            return {"type": "flag", "path": str(tmp_path / "flag")}   # as a package file says it

        def break_it(self, table: dict[str, Any]) -> None:
            Path(table["path"]).unlink()                              # it vanishes, and nobody told btw

Each rule is one test, its docstring the rule. Two more hooks make it stricter: `effect` looks without the plugin,
`endless` gives a table whose start does not come to its end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ..ports import ResourceHealth
from ..resource import Resource
from ..types import Reason, Status, Verb
from .bench import Bench, BenchLost, Outcome
from .resource_form import ResourceForm, Table

#: Looks in which a leak has to show, after others in which caches fill; bytes that one look may leave behind.
WARM, LOOKS, LEAK = 20, 100, 16 * 1024
#: At how many lines, and in which parts of its duration, a start is killed.
LINES, PARTS = 8, (0.2, 0.5, 0.8)
#: Seconds that a start has which does not come to its end.
SHORT = 1.5

_ENDS = (
    "operations_end_in_time: a start, stop or heal ends by itself before ctx.remaining() is 0, with Failed if need be"
)
_DIES = "operations_can_be_killed: nothing that an operation does keeps it from being killed"
_ANSWERS = "status_answers: status never ends or blocks the process that asks, and holds no lock of the interpreter"


class ResourceContract(ResourceForm):
    """Every rule of a resource type. Override the fixture `table` and the hook `break_it` (see the module)."""

    #: Seconds after its deadline until an operation that does not end by itself is killed.
    slack: ClassVar[float] = 5.0
    #: Where the test has no way to break it: why. The rules concerned are then skipped with that reason.
    no_break: ClassVar[str] = ""

    # ---- overridden by the author of a type
    def break_it(self, table: Table) -> None:
        """It is up: make it fail from outside, as a person or a program that knows nothing of btw would."""
        if self.no_break:
            pytest.skip(self.no_break)
        name = type(self).__name__
        pytest.fail(f"{name} must override break_it(), or say in no_break why its test cannot", pytrace=False)

    def effect(self, table: Table) -> bool | None:
        """Whether anything of it is here, found without the plugin's own code; None: this test cannot tell."""
        return None

    def endless(self, table: Table) -> Table | None:
        """The same with a start that does not come to its end by itself; None: it has none."""
        return None

    # ---- what the rules are written with
    @pytest.fixture(scope="class")
    @classmethod
    def kept(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench | None]:
        """One for all tests where the fixture `table` has the scope "class": most of the time goes into beginning."""
        try:
            table = request.getfixturevalue("table")
        except pytest.fail.Exception:  # it has another scope; or it fails, and is asked for again
            yield None
            return
        with cls._bench(tmp_path_factory.mktemp("kept"), table) as bench:
            yield bench

    @pytest.fixture
    def bench(self, loaded: type[Resource], table: Table, kept: Bench | None, tmp_path: Path) -> Iterator[Bench]:
        """The resource on a node; stopped in the end, whatever happened."""
        with contextlib.ExitStack() as stack:
            bench = kept or stack.enter_context(self._bench(tmp_path, table))
            self.must(not bench.problems, f"it cannot be loaded: {'; '.join(map(str, bench.problems))}")
            yield bench
            bench.clear()

    @classmethod
    def _bench(cls, directory: Path, table: Table) -> Bench:
        return Bench(directory / "btw", table, patience=cls.patience, slack=cls.slack)

    def look(self, bench: Bench, state: dict[str, Any] | None = None) -> ResourceHealth:
        """An answer to a look that tells: CannotTell is asked again."""
        __tracebackhide__ = True
        found = self._ask(bench, state)
        until = time.monotonic() + self.patience
        while (found := self._ask(bench, state)).status is None:
            told = time.monotonic() < until
            self.must(told, f"status could not tell for {self.patience:g} s: {found.detail}", _ANSWERS)
            time.sleep(0.05)
        return found

    def _ask(self, bench: Bench, state: dict[str, Any] | None = None) -> ResourceHealth:
        __tracebackhide__ = True
        try:
            return bench.look(state)
        except BenchLost as error:
            self.must(False, f"in a look was lost {error}", _ANSWERS)
            raise

    def done(self, bench: Bench, verb: Verb, what: str, **how: Any) -> Outcome:
        """An operation that has to succeed."""
        __tracebackhide__ = True
        outcome = self.tried(bench, verb, **how)
        self.must(outcome.ok, f"{what} failed: {outcome.error}{_said(outcome)}")
        return outcome

    def tried(self, bench: Bench, verb: Verb, **how: Any) -> Outcome:
        """An operation, which may fail but has to end."""
        __tracebackhide__ = True
        outcome = bench.operate(verb, **how)
        alive = ", ".join(outcome.lived)
        self.must(not outcome.lived, f"{verb} survives SIGKILL: {alive}", _DIES)
        given = how.get("seconds") or self.patience
        self.must(not outcome.killed, f"{verb} had {given:g} s, and had to be killed{_said(outcome)}", _ENDS)
        return outcome

    def up(self, bench: Bench, table: Table, when: str) -> None:
        __tracebackhide__ = True
        found = self.look(bench)
        self.must(found.status is Status.UP, f"{when} status says {found.status}{_detail(found)}")
        self.must(self.effect(table) is not False, f"{when} status says up, but effect() finds nothing")

    def down(self, bench: Bench, table: Table, when: str, state: dict[str, Any] | None = None) -> None:
        __tracebackhide__ = True
        found = self.look(bench, state)
        self.must(found.status is Status.DOWN, f"{when} status says {found.status}{_detail(found)}")
        self.must(not self.effect(table), f"{when} status says down, but effect() finds something of it")

    def swept(self, bench: Bench, when: str) -> Outcome:
        """As btw does after every stop: whatever still runs is killed."""
        __tracebackhide__ = True
        outcome = bench.operate(Verb.SWEEP)
        self.must(outcome.ok, f"{when}: {outcome.error} {', '.join(outcome.lived)}", _DIES)
        return outcome

    # ---- a life
    def test_what_never_ran_is_down_and_can_be_stopped(self, bench: Bench, table: Table) -> None:
        """Before anything was started status says DOWN, a stop succeeds, and looks change nothing."""
        self.down(bench, table, "before any start")
        self.done(bench, Verb.STOP, "the stop of what was never started")
        for _ in range(3):
            self.down(bench, table, "after a stop of what was never started")

    def test_it_is_up_after_start_and_down_after_stop(self, bench: Bench, table: Table) -> None:
        """start returns when it is UP, stop when it is DOWN, for whatever reason it is stopped, and it lives again;
        what identifies it does not change meanwhile."""
        before = self.read(table).identity()
        for reason in (Reason.USER, Reason.LOCK_LOST):
            self.done(bench, Verb.START, "the start")
            self.up(bench, table, "after start")
            now = self.read(table).identity()
            self.must(now == before, f"identity() is {now} while it is up, was {before} before")
            self.done(bench, Verb.STOP, f"the stop (reason {reason})", reason=reason)
            self.down(bench, table, "after stop")

    def test_start_may_be_repeated(self, bench: Bench, table: Table) -> None:
        """A start of what is up succeeds and starts nothing twice."""
        self.done(bench, Verb.START, "the start")
        once = bench.members()
        self.done(bench, Verb.START, "the start of what is up")
        self.up(bench, table, "after the second start")
        twice = bench.members()
        self.must(len(twice) <= len(once), f"{len(once)} processes run after one start, {len(twice)} after two")
        self.done(bench, Verb.STOP, "one stop after two starts")
        self.down(bench, table, "after one stop of what was started twice")

    def test_stop_may_be_repeated(self, bench: Bench, table: Table) -> None:
        """A stop of what is down succeeds, also with ctx.state as it was before the first stop."""
        self.done(bench, Verb.START, "the start")
        state = dict(bench.state)
        self.done(bench, Verb.STOP, "the stop")
        self.done(bench, Verb.STOP, "the second stop")
        self.done(bench, Verb.STOP, "the second stop, with the state from before the first one", state=state)
        self.down(bench, table, "after three stops")

    def test_status_changes_nothing(self, bench: Bench, table: Table) -> None:
        """However often it is asked, status changes nothing: what is up stays up, what is down stays down, and the
        process that asks keeps no memory, no descriptor and no child of it."""
        self.done(bench, Verb.START, "the start")
        self.up(bench, table, "after start")
        for _ in range(WARM):
            self._ask(bench)
        before = _usage(bench)
        for _ in range(LOOKS):
            self._ask(bench)
        after = _usage(bench)
        grown = (after["memory"] - before["memory"]) / LOOKS
        self.must(grown <= LEAK, f"each status leaves {grown / 1024:.0f} KiB of memory behind, allowed: {LEAK // 1024}")
        for what in ("descriptors", "children"):
            more = after[what] - before[what]
            self.must(more <= 2, f"{LOOKS} looks leave {more} {what} behind")
        self.up(bench, table, f"after {LOOKS} looks")
        self.done(bench, Verb.STOP, "the stop")
        for _ in range(WARM):
            self.down(bench, table, "after stop")

    def test_nothing_is_left_behind(self, bench: Bench, table: Table) -> None:
        """What a start leaves running holds no channel of btw, and after stop nothing runs that btw has to kill."""
        self.done(bench, Verb.START, "the start")
        ours = _sockets(bench.executor.zygote_pid)
        for pid in bench.members():
            shared = _sockets(pid) & ours
            self.must(not shared, f"pid {pid}, which start has left, holds btw's own {', '.join(sorted(shared))}")
        self.done(bench, Verb.STOP, "the stop")
        swept = self.swept(bench, "after stop")
        self.must(not swept.lines, f"after stop btw had to kill: {'; '.join(swept.lines)}")

    def test_another_manager_finds_it(self, bench: Bench, table: Table) -> None:
        """Another life of btw, which has nothing but ctx.state, finds it up and can stop it: an upgrade costs no
        service."""
        self.done(bench, Verb.START, "the start")
        bench.close()
        self.must(self.effect(table) is not False, "it has gone with the processes of btw")
        bench.open()
        self.up(bench, table, "in the next life of btw")
        self.done(bench, Verb.STOP, "the stop in the next life of btw")
        self.down(bench, table, "after stop in the next life of btw")

    # ---- accidents
    def test_start_ends_in_time(self, loaded: type[Resource], table: Table, tmp_path: Path) -> None:
        """A start that cannot come to its end raises Failed before ctx.remaining() is 0, and a stop takes away what it
        has done."""
        endless = self.endless(table)
        with self._bench(tmp_path, table if endless is None else endless) as bench:
            outcome = self.tried(bench, Verb.START, seconds=SHORT)
            self.must(endless is None or not outcome.ok, "the start of endless() succeeded")
            self.done(bench, Verb.STOP, "the stop after a start that ran out of time")
            self.swept(bench, "after that stop")
            self.down(bench, table, "after that stop")

    def test_a_start_that_is_killed_can_be_stopped(self, bench: Bench, table: Table) -> None:
        """A start that is killed by SIGKILL at whatever instant leaves something that stop takes away, with the
        ctx.state from before that start."""
        full = self.done(bench, Verb.START, "the start", strike=0)
        lines = bench.lines()
        self.done(bench, Verb.STOP, "the stop")
        points = [{"strike": 1 + number * max(0, lines - 1) // (LINES - 1)} for number in range(LINES)]
        self._strike(bench, table, Verb.START, [*points, *({"kill_after": part * full.seconds} for part in PARTS)])
        self.done(bench, Verb.START, "a start after all that")
        self.up(bench, table, "after a start after all that")

    def test_a_stop_that_is_killed_can_be_repeated(self, bench: Bench, table: Table) -> None:
        """A stop that is killed by SIGKILL at whatever instant can be done again, with the ctx.state from before it."""
        self.done(bench, Verb.START, "the start")
        self.done(bench, Verb.STOP, "the stop", strike=0)
        lines = bench.lines()
        points = [{"strike": 1 + number * max(0, lines - 1) // (LINES // 2 - 1)} for number in range(LINES // 2)]
        self._strike(bench, table, Verb.STOP, points)

    def _strike(self, bench: Bench, table: Table, verb: Verb, points: Sequence[Mapping[str, Any]]) -> None:
        __tracebackhide__ = True
        for how in points:
            at = f"line {how['strike']} of it" if "strike" in how else f"{how['kill_after']:.3f} s"
            if verb is Verb.STOP:
                self.done(bench, Verb.START, f"the start before a stop that is killed at {at}")
            bench.operate(verb, **how)
            when = f"after a {verb} that was killed at {at}"
            self.done(bench, Verb.STOP, f"the stop {when}")
            self.swept(bench, when)
            self.down(bench, table, f"{when} and stop")

    def test_what_breaks_is_seen(self, bench: Bench, table: Table) -> None:
        """When it fails from outside the next look says so; where the type has `watch`, that tells unasked."""
        self.done(bench, Verb.START, "the start")
        self.up(bench, table, "after start")
        bench.watch()
        watches = hasattr(self.read(table), "watch")
        self._settle(bench)
        since = len(bench.reports)
        self.break_it(table)
        if watches:
            told = bench.wait(lambda: any(each.status is not Status.UP for each in bench.told(since)), self.patience)
            said = [str(each.status) for each in bench.told(since)] or ["nothing"]
            self.must(told, f"watch said {', '.join(said)} within {self.patience:g} s after break_it()")
        self.eventually("status says anything but up after break_it()", lambda: self._ask(bench).status != Status.UP)

    def test_what_broke_is_put_back(self, bench: Bench, table: Table) -> None:
        """After it failed from outside `heal` puts it back and harms nothing when repeated; where there is none, a stop
        and a start do."""
        self.done(bench, Verb.START, "the start")
        self.break_it(table)
        self.eventually("status says anything but up after break_it()", lambda: self._ask(bench).status != Status.UP)
        if hasattr(self.read(table), "heal"):
            self.done(bench, Verb.HEAL, "heal")
            self.up(bench, table, "after heal")
            once = bench.members()
            self.done(bench, Verb.HEAL, "heal of what is up")
            more = len(bench.members()) - len(once)
            self.must(more <= 0, f"heal of what is up started {more} more processes")
        else:
            self.done(bench, Verb.STOP, "the stop of what broke")
            self.down(bench, table, "after the stop of what broke")
            self.done(bench, Verb.START, "the start after that")
        self.up(bench, table, "after it was put back")
        self.done(bench, Verb.STOP, "the stop")
        self.down(bench, table, "after stop")

    def _settle(self, bench: Bench) -> None:
        """The watches stand: orders are obeyed one after the other, and descriptors are made in the pool. A watch that
        reports at once does so now."""
        self._ask(bench)
        bench.wait(lambda: False, 0.3)
        self._ask(bench)


def _said(outcome: Outcome) -> str:
    return f"; it said: {' | '.join(outcome.lines[-5:])}" if outcome.lines else ""


def _detail(found: ResourceHealth) -> str:
    return f" ({found.detail})" if found.detail else ""


def _sockets(pid: int) -> set[str]:
    """The sockets that a process holds, "socket:[123]"."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(link.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    return {each for each in found if each.startswith("socket:")}


def _usage(bench: Bench) -> dict[str, int]:
    """What the observer holds: bytes of anonymous memory, descriptors, and processes beside itself."""
    pids = bench.observers()
    memory = descriptors = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except (FileNotFoundError, ProcessLookupError):  # a command that has just ended
            continue
        memory += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))
    return {"memory": memory, "descriptors": descriptors, "children": len(pids) - 1}
