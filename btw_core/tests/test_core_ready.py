"""A process that is kept ready for the next operation of a package: real ones."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from test_core_zygote import both, one
from zygote_stock import Manager, manager, read_pid, run, wait_until

from btw_core.clock import boottime
from btw_core.command import alive
from btw_core.ports import ExecutorLost, OperationEnded
from btw_core.resource import Process
from btw_core.types import Verb

MARKS = {"on_prepare": "marks", "on_start": "marks"}


async def waits(m: Manager, id: str, package: str = "p") -> Process:
    """The process that is kept for the operation `id`, once it waits."""
    (m.dir / "pid-ready").unlink(missing_ok=True)
    m.executor.prepare(package, id)
    await m.until((m.dir / "pid-ready").exists)
    return read_pid(m.dir / "pid-ready")


@both
def test_it_is_the_operation(tmp_path: Path, cgroups: bool) -> None:
    """What was opened in advance is there when it is ordered, and the one who waits for the next is another."""

    async def test() -> None:
        async with manager(tmp_path, one(**MARKS), cgroups=cgroups) as m:
            ready = await waits(m, "x.1")
            assert (await m.ended(m.begin(Verb.START, id="x.1"))).ok
            assert read_pid(tmp_path / "pid-start") == ready
            assert (await m.do(Verb.START)).ok
            assert read_pid(tmp_path / "pid-start") != ready

    run(test)


def test_it_asks_for_the_lock_when_it_is_ordered(tmp_path: Path) -> None:
    """However long it has waited."""

    async def test() -> None:
        async with manager(tmp_path, one(**MARKS), cgroups=False) as m:
            await waits(m, "x.1")
            late = await m.ended(m.begin(Verb.START, id="x.1", not_after=boottime()))
            assert late.error.startswith("the lock has run out")
            assert not (tmp_path / "pid-start").exists()

    run(test)


@both
def test_it_ends_without_a_word(tmp_path: Path, cgroups: bool) -> None:
    """Replaced, not wanted any more, or in the way of a sweep: it has done nothing, so nobody hears of it."""

    async def test() -> None:
        async with manager(tmp_path, one(**MARKS), cgroups=cgroups) as m:
            first = await waits(m, "x.1")
            second = await waits(m, "x.2")
            wait_until(lambda: not alive(first))
            m.executor.prepare("p", "")
            wait_until(lambda: not alive(second))
            third = await waits(m, "x.3")
            swept = await m.do(Verb.SWEEP)
            assert swept.ok and swept.survivors == ()
            wait_until(lambda: not alive(third))
            assert (await m.do(Verb.SWEEP)).ok
            ended = [report.id for report in m.reports if isinstance(report, OperationEnded)]
            assert not [id for id in ended if id.startswith("x.")]
            assert not [line for line in m.lines() if "left behind" in line]

    run(test)


@both
@pytest.mark.parametrize("on_prepare", ["marks", "vanishes", "defect", "system_exit"])
def test_whatever_becomes_of_it_the_operation_goes_on(tmp_path: Path, cgroups: bool, on_prepare: str) -> None:
    """Somebody ends it, or what it opens in advance fails: a start and a stop are carried out all the same."""

    async def test() -> None:
        async with manager(tmp_path, one(on_prepare=on_prepare), cgroups=cgroups) as m:
            if on_prepare == "marks":
                ready = await waits(m, "x.1")
                os.kill(ready.pid, signal.SIGKILL)
                wait_until(lambda: not alive(ready))
            else:
                m.executor.prepare("p", "x.1")
            await persists(m, Verb.START, "x.1")
            assert (tmp_path / "up").exists()
            m.executor.prepare("p", "x.2")
            await persists(m, Verb.STOP, "x.2")
            assert not (tmp_path / "up").exists()

    run(test)


async def persists(m: Manager, verb: Verb, id: str) -> None:
    """As the manager does: what has ended without an answer is ordered once more, under another id."""
    ended = await m.ended(m.begin(verb, id=id))
    if not ended.answered:
        ended = await m.do(verb)
    assert ended.ok, ended


@both
def test_it_ends_with_the_zygote(tmp_path: Path, cgroups: bool) -> None:
    """Another one does not know it, and forks what is ordered."""

    async def test() -> None:
        async with manager(tmp_path, one(**MARKS), cgroups=cgroups) as m:
            ready = await waits(m, "x.1")
            os.kill(m.executor.zygote_pid, signal.SIGKILL)
            wait_until(lambda: not alive(ready))
            await m.report(ExecutorLost, what="zygote")
            assert (await m.ended(m.begin(Verb.START, id="x.1"))).ok

    run(test)


@both
def test_it_is_killed_like_any_operation(tmp_path: Path, cgroups: bool) -> None:
    """With what it has started."""

    async def test() -> None:
        packages: dict[str, Any] = one(on_prepare="marks", on_start="hangs")
        async with manager(tmp_path, packages, cgroups=cgroups) as m:
            await waits(m, "x.1")
            id = m.begin(Verb.START, id="x.1")
            await m.until((tmp_path / "hangs").exists)
            m.executor.kill(id)
            assert (await m.ended(id)).error == "killed, as it was told to end"
            assert not m.running("child") and not m.running("daemon")

    run(test)
