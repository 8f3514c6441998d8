"""The manager's end: what it says when things end, hang or do not begin."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from zygote_stock import SOON, manager, run

from btw_core import wire
from btw_core.clock import boottime
from btw_core.command import alive, proc_stat
from btw_core.executor import RealExecutor
from btw_core.peer import Patience, Restarts
from btw_core.ports import ExecutorLost, Look, Looked, Operation
from btw_core.resource import Process
from btw_core.types import Status, Verb

QUICK = Patience(answer=1.0, ping=0.2)


def test_zygote_that_hangs(tmp_path: Path) -> None:
    """A zygote that does not answer while operations run is killed, and what ran is ended by its successor."""

    async def test() -> None:
        packages = {"p": {"r": {"on_start": "hangs"}, "good": {}}}
        async with manager(tmp_path, packages, patience=QUICK) as m:
            id = m.begin(Verb.START)
            await m.until((tmp_path / "hangs").exists)
            os.kill(m.executor.zygote_pid, signal.SIGSTOP)
            ended = await m.ended(id)
            assert not ended.ok
            assert "has not answered for " in ended.error
            assert not m.running("daemon")
            assert (await m.do(Verb.START, "good")).ok

    run(test)


def test_requests_without_a_zygote(tmp_path: Path) -> None:
    """Operations and looks that come while there is no zygote are done by the next one, unless killed before."""

    async def test() -> None:
        async with manager(tmp_path, {"p": {"r": {"on_status": "still_up"}, "s": {}}}) as m:
            os.kill(m.executor.zygote_pid, signal.SIGKILL)
            await m.report(ExecutorLost, what="zygote")
            kept, dropped = m.begin(Verb.START), m.begin(Verb.START, "s")
            m.executor.kill(dropped)
            m.executor.look(Look(id=1, package="p", resources=("r",)))
            assert (await m.ended(dropped)).error == "killed before it began"
            assert (await m.ended(kept)).ok
            assert (await m.report(Looked, id=1)).results[0].status is Status.UP

    run(test)


def test_watch_survives_the_observer(tmp_path: Path) -> None:
    """A new observer watches what the former one did."""

    async def test() -> None:
        os.mkfifo(tmp_path / "fifo")
        packages = {"p": {"r": {"on_watch": "watch_fifo"}}, "q": {"bad": {"on_status": "vanishes"}}}
        async with manager(tmp_path, packages) as m:
            m.executor.watch("p", 1, {})
            await m.look(1, "q")
            await m.report(ExecutorLost, what="observer")
            await m.look(2, "p")
            descriptor = await m.until(lambda: _open_for_writing(tmp_path / "fifo"), "it is watched again")
            os.write(descriptor, b"x")
            await m.report(Looked, id=0)
            os.close(descriptor)

    run(test)


def _open_for_writing(fifo: Path) -> int:
    """0: nobody reads it."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return 0


def test_operation_that_cannot_begin(tmp_path: Path) -> None:
    """An operation for which no place can be made has failed with the reason."""

    async def test() -> None:
        async with manager(tmp_path, {"p": {"r": {}}}) as m:
            ended = await m.do(Verb.START, id="line\nbreak")
            assert not ended.ok
            assert ended.error.startswith("cannot begin: ")
            assert (await m.do(Verb.START)).ok

    run(test)


def test_many_and_large(tmp_path: Path) -> None:
    """300 operations at once with state that no socket buffer holds all end well, and so does one larger than it."""

    async def test() -> None:
        async with manager(tmp_path, {"p": {"r": {"on_start": "nothing"}}}) as m:
            ids = [m.begin(Verb.START, state={"text": "x" * 50_000}) for _ in range(300)]
            big = m.begin(Verb.START, state={"text": "y" * 1_000_000})
            for id in [*ids, big]:
                assert (await m.ended(id)).ok

    run(test)


def test_close_ends_what_runs(tmp_path: Path) -> None:
    """After `close` neither zygote nor running operation is there, but services are."""

    async def test() -> None:
        packages = {"p": {"r": {"on_start": "hangs"}, "s": {"on_start": "spawns"}}}
        async with manager(tmp_path, packages) as m:
            assert (await m.do(Verb.START, "s")).ok
            m.begin(Verb.START)
            await m.until((tmp_path / "hangs").exists)
            stat = proc_stat(m.executor.zygote_pid)
            assert stat is not None
            zygote = Process(pid=m.executor.zygote_pid, start_time=stat.start_time)
            await m.executor.close()
            assert not alive(zygote)
            assert not m.running("child")
            assert not m.running("daemon")
            assert m.running("service")

    run(test)


def test_zygote_that_cannot_load() -> None:
    """A zygote that ends instead of loading is an error with its end; one that takes too long is a TimeoutError."""

    async def test() -> None:
        def deliver(report: object) -> None:
            raise AssertionError(report)

        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        ends: dict[str, Any] = {"home": "n", "cgroup": "", "deliver": deliver, "environment": environment}
        with pytest.raises(OSError, match="the zygote ended: exit code 3"):
            await RealExecutor(loader="zygote_stock:exit_when_loading", **ends).start()
        hanging = RealExecutor(loader="zygote_stock:hang_when_loading", patience=Patience(load=1, close=0.5), **ends)
        with pytest.raises(TimeoutError):
            await hanging.start()
        assert hanging.zygote_pid == 0 or proc_stat(hanging.zygote_pid) is None

    run(test)


def test_peer_that_does_not_read() -> None:
    """Sending never blocks; somebody who does not read is given up when too much waits for him."""

    async def test() -> None:
        from btw_core.peer import QUEUE, Peer

        lost: list[str] = []
        peer = Peer(lambda message: None, lambda peer, cause: lost.append(cause))
        other = socket.socket(fileno=peer.there)
        for _ in range(QUEUE + 5000):
            peer.send(wire.Ping())
        await asyncio.sleep(0)
        assert lost == [f"has not read {QUEUE} messages"]
        assert not peer.open
        other.close()

    run(test)


def test_peer_that_talks_nonsense() -> None:
    """What is no message is said to be so, and ends the conversation."""

    async def test() -> None:
        from btw_core.peer import Peer

        lost: list[str] = []
        peer = Peer(lambda message: None, lambda peer, cause: lost.append(cause))
        with socket.socket(fileno=peer.there) as other:
            other.send(b'{"type":"Nonsense"}')
            end = boottime() + SOON
            while not lost and boottime() < end:
                await asyncio.sleep(0.001)
        assert lost[0].startswith("has sent what is no message: Invalid value 'Nonsense'")

    run(test)


def test_restarts_slow_down() -> None:
    """The first time at once, then ever later up to a bound, and at once again after a long life."""
    restarts = Restarts(Patience(steady=60, most=5))
    now, delays = 1000.0, []
    for _ in range(6):
        restarts.began(now)
        now += 1
        delays.append(restarts.delay(now))
    assert delays == [0, 1, 2, 4, 5, 5]
    restarts.began(now)
    assert restarts.delay(now + 60) == 0


def test_large_message_goes_through_memory() -> None:
    """A message of some megabytes arrives whole; one beyond the limit is refused; who is gone is noticed."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        before = len(list(Path("/proc/self/fd").iterdir()))
        operation = Operation(id="o", package="p", verb=Verb.START, state={"text": "x" * 5_000_000})
        assert wire.send(here, wire.Operate(operation=operation), SOON)
        message, descriptors = wire.receive(there, wire.TO_ZYGOTE)
        assert message == wire.Operate(operation=operation)
        assert descriptors == ()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        with pytest.raises(BlockingIOError):
            wire.receive(there, wire.TO_ZYGOTE)
        huge = msgspec.structs.replace(operation, state={"text": "x" * wire.LARGEST})
        with pytest.raises(ValueError, match="at most 16777216 can be sent"):
            wire.pack(wire.Operate(operation=huge))
        here.close()
        with pytest.raises(wire.Closed):
            wire.receive(there, wire.TO_ZYGOTE)


def test_send_does_not_wait_for_ever() -> None:
    """False when nobody reads in time."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        line = wire.Line(package="p", resource="r", text="x" * 2000)
        sent = 0
        while wire.send(here, line, 0.0):
            sent += 1
            assert sent < 100_000
        assert sent > 0


def test_texts_are_bounded_and_encodable() -> None:
    """A long text is cut with a mark, an undecodable byte does not break the message."""
    assert wire.bounded("x" * 3000) == "x" * 1999 + "…"
    assert wire.bounded("file \udcff") == "file ?"
