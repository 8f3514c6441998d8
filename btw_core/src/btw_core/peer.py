"""The manager's end of one channel, on asyncio: bounded, never blocking, with a question for who hangs."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable

import msgspec

from . import wire

#: Messages that may wait to be read by the other side.
QUEUE = 10_000


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    load: float = 60.0  # until the zygote has loaded everything
    answer: float = 10.0  # until zygote or observer counts as hanging
    ping: float = 2.0  # between two questions whether it still answers
    steady: float = 60.0  # what lives so long is replaced at once when it ends
    most: float = 30.0  # between two attempts
    close: float = 3.0  # until the zygote has to be gone


class Peer:
    """`take(message)` for everything that comes; `lost(cause)` once when it cannot be talked to any more, from the loop
    and never from within a method here; cause "" when it has closed its end."""

    def __init__(self, take: Callable[[wire.ToManager], None], lost: Callable[[Peer, str], None]) -> None:
        self._here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.there: int = there.detach()  # to be given away
        self._take, self._lost = take, lost
        self._queue: deque[wire.Packet] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._here, self.read)
        self._heard = self._loop.time()
        self._asked: float | None = None  # a Ping is under way since
        self.open = True

    @property
    def backlog(self) -> int:
        """Messages that wait to be read by the other side."""
        return len(self._queue)

    def send(self, message: wire.Message, descriptor: int | None = None) -> None:
        """Does not block. `descriptor` is given away. Nothing when it is lost already."""
        packet = wire.pack(message, descriptor)
        if not self.open:
            packet.close()
            return
        self._queue.append(packet)
        self._write()
        if len(self._queue) > QUEUE:
            self._fail(f"has not read {QUEUE} messages")

    def _write(self) -> None:
        try:
            while self._queue:
                self._queue[0].send(self._here)
                self._queue.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._here, self._write)
        except ConnectionError:
            self._fail("")
        else:
            self._loop.remove_writer(self._here)

    def read(self) -> bool:
        """Take so many messages at once that one who floods does not starve the loop. False: there are no more."""
        try:
            for _ in range(64):
                if not self.open:
                    return False
                message, _ = wire.receive(self._here, wire.TO_MANAGER)
                self._heard, self._asked = self._loop.time(), None
                self._take(message)
        except BlockingIOError:
            return False
        except wire.Closed:
            self._fail("")
        except ValueError as error:
            self._fail(f"has sent what is no message: {error}")
        return self.open

    def tend(self, patience: Patience) -> None:
        """To be called now and then while an answer is expected."""
        now = self._loop.time()
        if self._asked is not None and now - self._asked > patience.answer:
            self._fail(f"has not answered for {now - self._heard:.1f} s")
        elif self._asked is None and now - self._heard > patience.ping:
            self._asked = now
            self.send(wire.Ping())

    def _fail(self, cause: str) -> None:
        if self.open:
            self.close()
            self._loop.call_soon(self._lost, self, cause)

    def close(self) -> None:
        """`lost` is not called any more."""
        if self.open:
            self.open = False
            self._loop.remove_reader(self._here)
            self._loop.remove_writer(self._here)
            self._here.close()
            for packet in self._queue:
                packet.close()
            self._queue.clear()

    def given(self) -> None:
        """The other end has been inherited."""
        os.close(self.there)


class Restarts:
    """When to try again: at once after a long life, else after 0, 1, 2, 4 ... seconds."""

    def __init__(self, patience: Patience) -> None:
        self._patience, self._began, self._delay = patience, 0.0, 0.0

    def began(self, now: float) -> None:
        self._began = now

    def delay(self, now: float) -> float:
        """Seconds to wait, now that it has ended."""
        delay = 0.0 if now - self._began >= self._patience.steady else self._delay
        self._delay = min(self._patience.most, max(1.0, 2 * delay))
        return delay
