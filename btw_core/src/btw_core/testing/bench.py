"""One resource on a node without a manager: operations, looks and watches as the core does them, in processes of their
own, driven by a test that waits for each.

    with Bench(tmp_path, {"type": "flag", "path": "/tmp/flag"}) as bench:
        assert bench.operate(Verb.START).ok
        assert bench.look().status is Status.UP

Everything is started by the calling thread, so what runs is in its namespaces. Standard library and btw-core only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..clock import boottime
from ..containment import OBSERVER, containment, find_cgroup_root, home_of
from ..executor import RealExecutor
from ..explain import processes
from ..parameters import literal
from ..peer import Patience
from ..ports import ExecutorLost, Logged, Look, Looked, Operation, OperationEnded, Report, ResourceHealth
from ..resource import Problem
from ..types import Reason, Verb
from .strikes import LINES, STRIKE

R = TypeVar("R", bound=Report)
#: Name of the package, and of the node.
PACKAGE, NODE = "kit", "kit"
#: Seconds after SIGKILL until an operation counts as one that cannot be killed.
DEAD = 5.0
_NEVER = "never ended"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an operation ended."""

    verb: Verb
    error: str  # "" when it went well
    killed: bool = False  # it had not ended by itself when its time was over
    lived: tuple[str, ...] = ()  # the processes that even SIGKILL did not end
    seconds: float = 0.0
    lines: tuple[str, ...] = ()  # for the journal

    @property
    def ok(self) -> bool:
        return not self.error


class BenchLost(Exception):
    """The process that asks for status, or the one that forks operations, came to its end."""


class Bench:
    """`table` is what a package file says below [[resource]]. `state` is the resource's, kept from one operation to the
    next as the core keeps it. `patience` bounds every answer in seconds. `slack`: how long after its deadline an
    operation that does not end is killed."""

    def __init__(
        self, directory: Path, table: Mapping[str, Any], *, patience: float = 30.0, slack: float = 5.0
    ) -> None:
        self.directory, self.patience, self.slack = directory, patience, slack
        self.state: dict[str, Any] = {}
        self.reports: list[Report] = []
        self.problems: tuple[Problem, ...] = ()
        self.resource = ""
        self._ids = count(1)
        self._touched = False
        write_package(directory, table)
        self._home = home_of(NODE, directory / "state")
        self._cgroup = find_cgroup_root(self._home) or ""
        self._here = containment(self._home, self._cgroup)
        self._loop = asyncio.new_event_loop()
        self._news = asyncio.Event()
        self._executor: RealExecutor | None = None

    def __enter__(self) -> Bench:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.clear()
        finally:
            self.close()
            self._loop.close()

    def clear(self) -> None:
        """As new: what is up is stopped if that can be done, every process of it is killed, all is forgotten."""
        if self._executor is None or self.lost:
            self.close()
            self.reports.clear()
            self.open()
        if self._touched and self.resource:
            try:
                with contextlib.suppress(BenchLost):
                    self.operate(Verb.STOP, seconds=5.0)
            finally:
                for place in self._here.members(PACKAGE):
                    with contextlib.suppress(OSError):  # nothing more can be done about it
                        self._here.kill(place)
        self.unwatch()
        self.reports.clear()
        self.state, self._touched = {}, False
        (self.directory / STRIKE).unlink(missing_ok=True)

    # ---- the processes
    def open(self) -> None:
        """A manager begins: nothing is known but `state`. Raises OSError or TimeoutError when nothing can be loaded."""
        self._executor = RealExecutor(
            home=self._home,
            cgroup=self._cgroup,
            deliver=self._deliver,
            loader="btw_core.testing.strikes:load",
            arguments=[str(self.directory), "", "", "", "", PACKAGE],
            environment={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            patience=Patience(answer=min(10.0, self.patience), ping=min(2.0, self.patience / 4)),
        )
        loaded = self._loop.run_until_complete(self._executor.start())
        self.problems = loaded.problems
        self.resource = loaded.packages[0].resources[0].name if loaded.packages else ""

    def close(self) -> None:
        """The manager ends; what it has started stays up."""
        if self._executor is not None:
            self._loop.run_until_complete(self._executor.close())
            self._executor = None

    @property
    def lost(self) -> str:
        """How one of the processes came to its end, "" while all are there."""
        found = (each for each in self.reports if isinstance(each, ExecutorLost))
        return next((f"the {each.what}: {each.cause}" for each in found), "")

    @property
    def executor(self) -> RealExecutor:
        assert self._executor is not None, "open() comes first"
        return self._executor

    # ---- operations
    def operate(
        self,
        verb: Verb,
        *,
        seconds: float | None = None,
        reason: Reason = Reason.NONE,
        kill_after: float | None = None,
        strike: int | None = None,
        state: dict[str, Any] | None = None,
    ) -> Outcome:
        """One operation from begin to end; it has `seconds` (default: `patience`). It is killed by btw `kill_after`
        seconds, or kills itself at its line number `strike` (0: counts them, see `lines`). Raises BenchLost."""
        self._touched = self._touched or verb in (Verb.START, Verb.HEAL)
        if strike is not None:
            (self.directory / STRIKE).write_text(f"{verb} {strike}")
        limit = self.patience if seconds is None else seconds
        begun, first, id = boottime(), len(self.reports), f"{self._home}-{os.getpid()}.{next(self._ids)}"
        operation = Operation(
            id=id,
            package=PACKAGE,
            verb=verb,
            resource="" if verb is Verb.SWEEP else self.resource,
            term=1,
            reason=reason,
            deadline=begun + limit,
            state=self.state if state is None else state,
        )
        self.executor.operate(operation)
        ended, overran = self._ended(id, limit + self.slack if kill_after is None else kill_after), False
        if ended is None:
            overran = kill_after is None
            self.executor.kill(id)
            ended = self._ended(id, DEAD)
        if ended is None:
            left = processes(pid for pids in self._here.members(PACKAGE).values() for pid in pids)
            return Outcome(verb=verb, error=_NEVER, killed=overran, lived=left or (_NEVER,))
        if ended.state is not None:
            self.state = ended.state
        return Outcome(
            verb=verb,
            error=ended.error or ("" if ended.ok else "failed without a word"),
            killed=overran,
            seconds=boottime() - begun,
            lines=tuple(each.text for each in self.reports[first:] if isinstance(each, Logged)),
        )

    def lines(self) -> int:
        """How many lines the operation executed that was begun with `strike=0`."""
        return int((self.directory / LINES).read_text())

    def members(self) -> list[int]:
        """What runs now of all operations."""
        return [pid for pids in self._here.members(PACKAGE).values() for pid in pids]

    # ---- observation
    def look(self, state: dict[str, Any] | None = None) -> ResourceHealth:
        """One question for the status. Raises BenchLost."""
        number = next(self._ids)
        known = {self.resource: self.state if state is None else state}
        self.executor.look(Look(id=number, package=PACKAGE, term=1, state=known))
        return self._report(Looked, lambda each: each.id == number, "an answer to a look").results[0]

    def watch(self) -> None:
        self.executor.watch(PACKAGE, 1, {self.resource: self.state})

    def unwatch(self) -> None:
        self.executor.unwatch(PACKAGE)

    def told(self, since: int) -> list[ResourceHealth]:
        """What the watch has said since there were so many `reports`."""
        return [each.results[0] for each in self.reports[since:] if isinstance(each, Looked) and each.id == 0]

    def wait(self, condition: Callable[[], object], seconds: float) -> bool:
        """Until it is true, asked again after each report and now and then. Raises BenchLost."""
        return bool(self._loop.run_until_complete(self._until(condition, seconds)))

    def observers(self) -> list[int]:
        """The observer, and what runs on its behalf."""
        return [pid for pids in self._here.members(OBSERVER).values() for pid in pids]

    # ---- waiting
    def _deliver(self, report: Report) -> None:
        self.reports.append(report)
        self._news.set()

    async def _until(self, condition: Callable[[], object], seconds: float) -> object:
        end = boottime() + seconds
        while not (value := condition()):
            if self.lost:
                raise BenchLost(self.lost)
            if boottime() >= end:
                return value
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), 0.02)
        return value

    def _ended(self, id: str, seconds: float) -> OperationEnded | None:
        def find() -> OperationEnded | None:
            found = (each for each in reversed(self.reports) if isinstance(each, OperationEnded) and each.id == id)
            return next(found, None)

        self.wait(find, seconds)
        return find()

    def _report(self, kind: type[R], wanted: Callable[[R], bool], what: str) -> R:
        def find() -> R | None:
            return next((each for each in reversed(self.reports) if isinstance(each, kind) and wanted(each)), None)

        self.wait(find, self.patience)
        found = find()
        if found is None:
            raise BenchLost(f"{what} did not come within {self.patience:g} s")
        return found


def write_package(directory: Path, table: Mapping[str, Any]) -> Path:
    """A btw directory with one package of one resource; the file of the package. The lock is written down, as types
    with `shared` demand; nothing opens it."""
    (directory / "packages").mkdir(parents=True, exist_ok=True)
    (directory / "btw.toml").write_text(f'node = "{NODE}"\nlock = "local:lock.db"\n')
    file = directory / "packages" / f"{PACKAGE}.toml"
    file.write_text("\n".join(["[package]", "pace = 1", "", "[[resource]]", *rows(table)]) + "\n")
    return file


def rows(table: Mapping[str, Any]) -> list[str]:
    """As TOML writes it."""
    return [f"{key} = {literal(value)}" for key, value in table.items()]
