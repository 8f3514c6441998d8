"""The observer: what hangs, crashes or lies costs nobody else anything."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from zygote_stock import manager, run, wait_until

from btw_core.clock import boottime
from btw_core.observer import Pool
from btw_core.peer import Patience
from btw_core.ports import ExecutorLost, Look, Looked
from btw_core.types import Status

QUICK = Patience(answer=2.0, ping=0.2)


def test_look(tmp_path: Path) -> None:
    """A look is answered for every resource in order, whatever they do; or only for those named."""

    async def test() -> None:
        how = {
            "up": {"on_status": "still_up"},
            "down": {},
            "unsure": {"on_status": "unsure"},
            "defect": {"on_status": "defect"},
            "exits": {"on_status": "system_exit"},
            "silent": {"on_status": "nothing"},
        }
        async with manager(tmp_path, {"p": how}) as m:
            seen = await m.look(1)
            assert list(seen) == list(how)
            assert seen["up"] == (Status.UP, "")
            assert seen["down"] == (Status.DOWN, "")
            assert seen["unsure"] == (None, "it does not say")
            assert seen["defect"][0] is None
            assert seen["defect"][1].startswith("defect in plugin probe: KeyError: 'colour' (zygote_stock.py:")
            assert seen["exits"][1].startswith("defect in plugin probe: SystemExit: enough")
            assert seen["silent"] == (None, "defect in plugin: status returned None, which is no Status")
            m.executor.look(Look(id=2, package="p", resources=("down", "gone")))
            some = (await m.report(Looked, id=2)).results
            assert [each.resource for each in some] == ["down", "gone"]
            assert some[1].detail == "resource gone of package p is not loaded"

    run(test)


def test_hanging_status(tmp_path: Path) -> None:
    """A status that hangs is named, the resources after it and other packages are answered; when it comes back, that
    is told without being asked."""

    async def test() -> None:
        os.mkfifo(tmp_path / "fifo")
        packages: dict[str, Any] = {
            "p": {"first": {}, "hung": {"on_status": "opens"}, "last": {"on_status": "still_up"}},
            "q": {"r": {"on_status": "still_up"}},
        }
        async with manager(tmp_path, packages) as m:
            m.executor.look(Look(id=1, package="p"))
            assert await m.look(2, "q") == {"r": (Status.UP, "")}
            answer = await m.report(Looked, id=1)
            assert [each.status for each in answer.results] == [Status.DOWN, None, Status.UP]
            assert answer.results[1].detail.startswith("status of hung has not answered for ")
            again = await m.look(3)
            assert again["hung"][0] is None
            assert again["last"][0] is Status.UP
            (tmp_path / "fifo").open("w").close()
            news = await m.report(Looked, id=0)
            assert [(each.resource, each.status) for each in news.results] == [("hung", Status.UP)]

    run(test)


def test_late_answer_of_a_former_state_is_dropped(tmp_path: Path) -> None:
    """What a status says that began before the package was watched anew is not told: a start may lie between."""

    async def test() -> None:
        os.mkfifo(tmp_path / "fifo")
        async with manager(tmp_path, {"p": {"r": {"on_status": "opens"}}}) as m:
            assert (await m.look(1))["r"][0] is None
            m.executor.watch("p", 1, {})
            assert (await m.look(2))["r"][0] is None
            (tmp_path / "fifo").open("w").close()
            m.executor.look(Look(id=3, package="p"))
            await m.until(lambda: _poke(tmp_path / "fifo") or any(getattr(each, "id", 0) == 3 for each in m.reports))
            assert [report for report in m.reports if isinstance(report, Looked) and report.id == 0] == []

    run(test)


def _poke(fifo: Path) -> bool:
    """Let go who waits for a writer, if anybody does. Always False."""
    with contextlib.suppress(OSError):
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    return False


def test_watch(tmp_path: Path) -> None:
    """A watch descriptor that fires makes an unasked answer, again and again, until it is unwatched."""

    async def test() -> None:
        os.mkfifo(tmp_path / "fifo")
        how = {"r": {"on_watch": "watch_fifo"}, "other": {}}
        async with manager(tmp_path, {"p": how}) as m:
            m.executor.watch("p", 1, {})
            for count in (1, 2):
                with (tmp_path / "fifo").open("w") as fifo:  # waits until it is watched
                    fifo.write("x")
                    fifo.flush()
                    await m.until(lambda count=count: _unasked(m.reports) >= count)  # type: ignore[misc]
            news = await m.report(Looked, id=0)
            assert [each.resource for each in news.results] == ["r"]
            m.executor.unwatch("p")
            await m.look(1)
            with pytest.raises(OSError, match="No such device"):  # nobody has it open for reading
                await m.until(lambda: os.close(os.open(tmp_path / "fifo", os.O_WRONLY | os.O_NONBLOCK)))

    run(test)


def _unasked(reports: list[Any]) -> int:
    return sum(isinstance(report, Looked) and report.id == 0 for report in reports)


def test_watch_that_is_broken(tmp_path: Path) -> None:
    """A watch that raises, or returns what is not open, is told once, and looks go on."""

    async def test() -> None:
        how = {"bad": {"on_watch": "defect"}, "closed": {"on_watch": "watch_nothing"}}
        async with manager(tmp_path, {"p": how}) as m:
            m.executor.watch("p", 1, {})
            await m.until(lambda: len(m.lines()) == 2)
            assert any(line.startswith("not watched: defect in plugin probe: KeyError") for line in m.lines())
            assert "watch returned descriptor 999, which is not open" in m.lines()
            assert len(await m.look(1)) == 2

    run(test)


@pytest.mark.parametrize(
    ("how", "cause"), [("vanishes", "exit code 3"), ("segfault", "killed by SIGSEGV"), ("system_exit", "")]
)
def test_observer_that_ends(tmp_path: Path, how: str, cause: str) -> None:
    """A status that ends the observer's process: it is said, another observer begins, the look is answered, and
    operations and other packages go on. SystemExit ends nothing."""

    async def test() -> None:
        packages = {"p": {"r": {"on_status": how}}, "q": {"r": {"on_status": "still_up"}}}
        async with manager(tmp_path, packages) as m:
            zygote = m.executor.zygote_pid
            seen = await m.look(1)
            assert seen["r"][0] is None
            if cause:
                assert (await m.report(ExecutorLost, what="observer")).cause == cause
                assert seen["r"][1] == f"the observer was lost: {cause}"
            assert await m.look(2, "q") == {"r": (Status.UP, "")}
            assert m.executor.zygote_pid == zygote

    run(test)


def test_observer_that_holds_the_interpreter(tmp_path: Path) -> None:
    """A status that keeps every thread from running is found out by its silence, and the observer is replaced."""

    async def test() -> None:
        packages = {"p": {"r": {"on_status": "holds_the_lock"}}, "q": {"r": {"on_status": "still_up"}}}
        async with manager(tmp_path, packages, patience=QUICK) as m:
            seen = await m.look(1)
            assert seen["r"][0] is None
            lost = await m.report(ExecutorLost, what="observer")
            assert lost.cause.startswith("has not answered for ")
            assert await m.look(2, "q") == {"r": (Status.UP, "")}

    run(test)


def test_events(tmp_path: Path) -> None:
    """Every event reaches every hook in order; one that raises is told and stops nobody."""

    async def test() -> None:
        async with manager(tmp_path, {"p": {"r": {}}}) as m:
            for number in range(50):
                m.executor.event({"event": "test", "number": number})
            file = tmp_path / "events"
            await m.until(lambda: file.exists() and file.read_text().count("\n") == 50)
            assert [json.loads(line)["number"] for line in file.read_text().splitlines()] == list(range(50))
            assert "extension broken failed: ValueError: cannot bear events" in m.lines()

    run(test)


def test_pool_grows_while_threads_are_stuck() -> None:
    """Work is done though every thread hangs, up to a bound; then the pool says that it is hopeless."""
    pool, release, done = Pool(threads=1, most=3, hopeless=1.0), threading.Event(), threading.Event()

    def hang() -> None:
        release.wait()

    try:
        pool.submit(hang)
        pool.submit(hang)
        pool.submit(done.set)
        wait_until(lambda: pool.tend() and done.is_set())
        pool.submit(hang)  # the third thread
        pool.submit(hang)  # waits for ever
        began = boottime()
        wait_until(lambda: not pool.tend())
        assert boottime() - began >= 1.0
    finally:
        release.set()
