"""The control socket of a manager: one JSON line asks, one or more JSON lines answer.

    {"command": "ping" | "status"}   {"command": "halt" | "enable", "package": NAME, "cause": TEXT}
    of a daemon, instead of halt:    {"command": "cluster" | "reload"}
    {"command": "ask", "words": WORDS, "by": WHO, "why": TEXT}   (see `rehearsal.FAULTS`)
    {"command": "maintenance", "package": NAME, "on": BOOL, "by": WHO, "why": TEXT}   {"command": "reset", ...}

Paths of sockets end after 108 bytes (unix(7)), so both sides go through a descriptor of the directory.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

Request = dict[str, Any]
Answer = dict[str, Any]
#: Who may ask, besides the manager's own user, where this group exists and the manager is root's.
GROUP = "btw"
#: Bytes of one line.
LARGEST = 4 * 1024 * 1024
#: Seconds that the other side may take to send its request or to read an answer.
SLOW = 5.0
#: Who ask at one time at most: what a broken client keeps open must not cost the manager its descriptors.
MOST = 300
#: Seconds between two looks whether the socket still has its name.
LOOK = 1.0


class NoAnswer(Exception):
    """Nobody listens there, or the answer did not come in time."""


class Control:
    """The manager's side. `answer(request)` gives the lines; what it raises as ValueError is answered as an error."""

    def __init__(self, path: Path, answer: Callable[[Request], AsyncIterator[Answer]]) -> None:
        self.path = path
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._bound = (0, 0)  # device and inode
        self._keeping: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """The caller holds the lock on the slot's state file, so what has the name and does not answer is a former
        manager's. From then on the socket is made again whenever its name goes, with all of RUN or alone. Raises
        OSError: the directory, or somebody answers there."""
        import asyncio

        await self._listen()
        self._keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        import asyncio

        while True:
            await asyncio.sleep(LOOK)
            if self._gone():
                former = self._server
                with contextlib.suppress(OSError):  # tried again with the next look
                    await self._listen()
                    if former is not None:
                        former.close()

    def _gone(self) -> bool:
        try:
            there = self.path.lstat()
        except OSError:  # whatever the reason, nobody gets there
            return True
        return (there.st_dev, there.st_ino) != self._bound

    async def _listen(self) -> None:
        import asyncio

        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(NoAnswer):
            pid = next(ask(self.path, {"command": "ping"}, 1.0), {}).get("pid", "?")
            raise OSError(f"control socket {self.path}: pid {pid} answers there already; end it first")
        self.path.unlink(missing_ok=True)
        with _directory(self.path) as name:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            os.fchmod(listener.fileno(), 0o600)  # bind(2) gives the file this mode: no moment in which others may ask
            listener.bind(name)
        _share(self.path)
        there = self.path.lstat()
        self._bound = there.st_dev, there.st_ino
        listener.setblocking(False)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LARGEST, backlog=MOST)

    async def close(self) -> None:
        """Let answers that are under way end, for at most a second, and remove the socket."""
        import asyncio

        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait((self._keeping,))
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import asyncio

        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if len(self._tasks) > MOST:
                raise TimeoutError  # the others have SLOW
            line = await asyncio.wait_for(reader.readline(), SLOW)
            async for answer in self._answers(line):
                writer.write(json.dumps(answer, default=str).encode() + b"\n")
                await asyncio.wait_for(writer.drain(), SLOW)
        except (OSError, TimeoutError, ValueError):  # the asker is gone, or slow, or sent more than a line may have
            writer.transport.abort()  # who does not read would keep it open
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _answers(self, line: bytes) -> AsyncIterator[Answer]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError(f"found {request!r}, allowed: an object")
            async for answer in self._answer(request):
                yield answer
        except ValueError as error:
            yield {"error": str(error)}
        except RecursionError:
            yield {"error": "nested too deeply"}


def ask(path: Path, request: Request, deadline: float) -> Iterator[Answer]:
    """Every answer line. Blocks at most `deadline` seconds in all. Raises NoAnswer; ValueError for an error that was
    answered."""
    end = time.monotonic() + deadline
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        try:
            channel.settimeout(deadline)
            _connect(channel, path, end)
            channel.sendall(json.dumps(request).encode() + b"\n")
            buffer = b""
            while data := _read(channel, end):
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise ValueError(answer["error"])
                    yield answer
        except TimeoutError:
            raise NoAnswer(f"the manager at {path} did not answer within {deadline:g} s") from None
        except OSError as error:
            raise NoAnswer(f"no manager answers at {path}: {error.strerror}") from error


def _connect(channel: socket.socket, path: Path, end: float) -> None:
    """Raises OSError."""
    with _directory(path) as name:
        while True:
            try:
                channel.connect(name)
                return
            except BlockingIOError:  # more wait to be heard than the kernel keeps (unix(7))
                if time.monotonic() > end:
                    raise TimeoutError from None
                time.sleep(0.02)


def sockets(run: Path, node: str | None = None) -> list[Path]:
    """Control sockets of managers on this computer, of one node or of all. Some may be a dead manager's."""
    return sorted(run.glob(f"{node or '*'}/*.sock"))


def _read(channel: socket.socket, end: float) -> bytes:
    channel.settimeout(max(0.001, end - time.monotonic()))
    return channel.recv(65536)


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[str]:
    """A short name for `path`."""
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def _share(path: Path) -> None:
    """root's managers may be asked by the members of GROUP."""
    if os.geteuid() != 0:
        return
    try:
        group = grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return
    for directory in (path.parent.parent, path.parent):  # RUN and RUN/NODE: to be passed, not listed by others
        os.chown(directory, -1, group)
        directory.chmod(directory.stat().st_mode | 0o050)
    os.chown(path, -1, group)
    path.chmod(0o660)
