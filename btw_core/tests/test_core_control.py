"""The control socket, both sides."""

from __future__ import annotations

import asyncio
import grp
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from btw_core.control import Answer, Control, NoAnswer, Request, ask, sockets

T = TypeVar("T")


async def answers(request: Request) -> AsyncIterator[Answer]:
    match request["command"]:
        case "count":
            for number in range(3):
                yield {"number": number}
        case "large":
            yield {"text": "x" * 1_000_000}
        case "hang":
            await asyncio.sleep(3600)
        case "refuse":
            raise ValueError("allowed: something else")


def with_control(path: Path, asker: Callable[[], T]) -> T:
    """Run `asker` in a thread beside a control socket."""

    async def both() -> T:
        control = Control(path, answers)
        await control.start()
        try:
            return await asyncio.to_thread(asker)
        finally:
            await control.close()

    return asyncio.run(both())


def test_every_line_of_an_answer_arrives(tmp_path: Path) -> None:
    """One request, any number of lines, of any length."""
    path = tmp_path / "n1" / "web.sock"
    assert with_control(path, lambda: list(ask(path, {"command": "count"}, 30))) == [{"number": n} for n in range(3)]
    (large,) = with_control(path, lambda: list(ask(path, {"command": "large"}, 30)))
    assert len(large["text"]) == 1_000_000
    assert not path.exists()


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    """unix(7) allows 108 bytes; a directory of any depth works."""
    path = tmp_path / ("d" * 100) / ("e" * 100) / "web.sock"
    path.parent.mkdir(parents=True)
    assert with_control(path, lambda: next(ask(path, {"command": "count"}, 30))) == {"number": 0}


def test_only_the_owner_may_ask(tmp_path: Path) -> None:
    """The socket's mode is right from its first moment on, whatever the umask."""
    path = tmp_path / "n1" / "web.sock"
    former = os.umask(0)
    try:
        mode = with_control(path, lambda: path.stat().st_mode)
    finally:
        os.umask(former)
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) in (0o600, 0o660)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become other users")
def test_a_member_of_the_group_may_ask_and_a_stranger_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """By connecting, as they would."""
    nobody, strange = 65534, 65533
    group = next(each for each in grp.getgrall() if each.gr_gid not in (0, strange))
    monkeypatch.setattr("btw_core.control.GROUP", group.gr_name)
    with tempfile.TemporaryDirectory() as top:
        Path(top).chmod(0o755)
        path = Path(top) / "run" / "n1" / "web.sock"
        asked = with_control(path, lambda: [connects(path, nobody, gid) for gid in (group.gr_gid, strange)])
    assert asked == [True, False]


def connects(path: Path, uid: int, gid: int) -> bool:
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            with socket.socket(socket.AF_UNIX) as channel:
                channel.connect(str(path))
            code = 0
        except PermissionError:
            code = 1
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 1)
    return code == 0


def test_refusals_and_silence_are_told_apart(tmp_path: Path) -> None:
    """An error that was answered is a ValueError; no answer in time, and nobody there, are NoAnswer."""
    path = tmp_path / "n1" / "web.sock"
    with pytest.raises(ValueError, match="allowed: something else"):
        with_control(path, lambda: list(ask(path, {"command": "refuse"}, 30)))
    with pytest.raises(NoAnswer, match=r"did not answer within 0\.2 s"):
        with_control(path, lambda: list(ask(path, {"command": "hang"}, 0.2)))
    with pytest.raises(NoAnswer, match="no manager answers"):
        list(ask(path, {"command": "count"}, 30))


def test_what_is_no_request_harms_nobody(tmp_path: Path) -> None:
    """Garbage is answered as an error, and the next one is served."""
    path = tmp_path / "web.sock"

    def asker() -> tuple[bytes, Answer]:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(30)
            channel.connect(str(path))
            channel.sendall(b"[1]\n")
            said = channel.recv(1000)
        return said, next(ask(path, {"command": "count"}, 30))

    said, after = with_control(path, asker)
    assert b"error" in said and after == {"number": 0}


def test_a_dead_managers_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    """What does not answer is removed; who answers keeps the name."""
    path = tmp_path / "n1" / "web.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert sockets(tmp_path) == [path] and sockets(tmp_path, "n2") == []
    assert with_control(path, lambda: next(ask(path, {"command": "count"}, 30))) == {"number": 0}

    async def two() -> None:
        first = Control(path, answers)
        await first.start()
        try:
            await asyncio.to_thread(_start_another, path)
        finally:
            await first.close()

    with pytest.raises(OSError, match="answers there already"):
        asyncio.run(two())


def _start_another(path: Path) -> None:
    start: Callable[[], Awaitable[None]] = Control(path, answers).start
    asyncio.run(_awaited(start))


async def _awaited(start: Callable[[], Awaitable[None]]) -> None:
    await start()


def test_a_socket_whose_name_is_gone_is_made_again(tmp_path: Path) -> None:
    """Somebody tidied RUN, or removed the socket: people can ask again a second later."""
    path = tmp_path / "run" / "n1" / "web.sock"

    def lose() -> list[Answer]:
        path.unlink()
        first = _patiently(path)
        shutil.rmtree(tmp_path / "run")
        return [first, _patiently(path)]

    assert with_control(path, lose) == [{"number": 0}] * 2


def _patiently(path: Path) -> Answer:
    end = time.monotonic() + 30
    while True:
        try:
            return next(ask(path, {"command": "count"}, 30))
        except (NoAnswer, FileNotFoundError):
            assert time.monotonic() < end, "nobody answers"
            time.sleep(0.02)
