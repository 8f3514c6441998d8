"""Persistent reservation commands on one path of a disk, repeated where the disk only needs a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from . import cdb, sense
from .cdb import Capabilities, In, Keys, Out, Registration, Reservation
from .sense import Reply

#: How often, and how many seconds apart, a command is repeated that met a unit attention, or a disk that is busy.
TRIES, PAUSE = 10, 0.1
T = TypeVar("T")


class Trouble(Exception):
    """Base: a command did not do what it should; the text names path and command."""


class Conflict(Trouble):
    """Reservation conflict: the registration or the reservation is not as this command expects."""


class Refused(Trouble):
    """The disk has answered, and will not do it. `unsupported`: it does not know the command."""

    def __init__(self, text: str, *, unsupported: bool = False) -> None:
        super().__init__(text)
        self.unsupported = unsupported


class Unreachable(Trouble):
    """No answer on this path."""


class Transport(Protocol):
    """What sends a command: `sgio.SgIo`."""

    def execute(self, command: bytes, out: bytes, room: int, timeout: float) -> Reply: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


class PrPath:
    """`name` for people, `address` (H:C:T:L) for the memory of what is registered. `timeout` seconds for one command;
    `before()` is called right before each command that changes something, and may raise to keep it from being sent.
    Every method blocks for at most TRIES * (timeout + PAUSE) seconds and what the kernel's error handling takes, and
    raises Conflict, Refused, Unreachable."""

    def __init__(
        self,
        name: str,
        address: str,
        transport: Transport,
        *,
        timeout: float,
        before: Callable[[], None] = lambda: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name, self.address = name, address
        self._transport, self._timeout, self._before, self._pause = transport, timeout, before, pause

    # ---- asking
    def keys(self) -> Keys:
        return self._ask(In.READ_KEYS, cdb.keys)

    def reservation(self) -> Reservation | None:
        return self._ask(In.READ_RESERVATION, cdb.reservation)

    def capabilities(self) -> Capabilities | None:
        """None: the disk does not know this question (it came with SPC-3)."""
        try:
            return self._ask(In.REPORT_CAPABILITIES, cdb.capabilities)
        except Refused as error:
            if error.unsupported:
                return None
            raise

    def full_status(self) -> tuple[Registration, ...]:
        return self._ask(In.READ_FULL_STATUS, cdb.full_status)

    # ---- changing
    def register(self, key: int, *, persist: bool) -> None:
        """Whatever key this path had before."""
        self._do(Out.REGISTER_AND_IGNORE, 0, 0, key, persist=persist)

    def unregister(self, key: int) -> None:
        """Conflict: this path is not registered with that key."""
        self._do(Out.REGISTER, 0, key, 0)

    def reserve(self, key: int, kind: int) -> None:
        self._do(Out.RESERVE, kind, key, 0)

    def release(self, key: int, kind: int) -> None:
        self._do(Out.RELEASE, kind, key, 0)

    def clear(self, key: int) -> None:
        """Everybody's registrations, and the reservation."""
        self._do(Out.CLEAR, 0, key, 0)

    def preempt(self, key: int, other: int, kind: int, *, abort: bool) -> None:
        """Conflict: this path is not registered with `key`, or nobody with `other`."""
        self._do(Out.PREEMPT_AND_ABORT if abort else Out.PREEMPT, kind, key, other)

    def reset(self) -> None:
        """End every task in the logical unit."""
        self._before()
        try:
            self._transport.reset()
        except OSError as error:
            raise Refused(f"{self.name}: reset of the logical unit: {error.strerror or error}") from error

    def close(self) -> None:
        self._transport.close()

    # ---- inside
    def _ask(self, action: In, parse: Callable[[bytes], T]) -> T:
        what = action.name.replace("_", " ")
        reply = self._execute(what, cdb.reserve_in(action), b"", cdb.ROOM)
        try:
            return parse(reply.data)
        except ValueError as error:
            raise Refused(f"{self.name}: {what}: {error}") from error

    def _do(self, action: Out, kind: int, own: int, other: int, *, persist: bool = False) -> None:
        command, listed = cdb.reserve_out(action, kind, own, other, persist=persist)
        self._execute(action.words, command, listed, 0)

    def _execute(self, what: str, command: bytes, out: bytes, room: int) -> Reply:
        for attempt in range(TRIES + 1):
            if attempt:
                self._pause(PAUSE)
            if out:
                self._before()
            try:
                reply = self._transport.execute(command, out, room, self._timeout)
            except OSError as error:
                raise Unreachable(f"{self.name}: {what}: {error.strerror or error}") from error
            if sense.good(reply):
                return reply
            if not sense.again(reply):
                break
        text = f"{self.name}: {what}: {sense.words(reply)}"
        if sense.conflict(reply):
            raise Conflict(text)
        if sense.lost(reply):
            raise Unreachable(text)
        raise Refused(text, unsupported=sense.unsupported(reply))
