"""Judges from outside of btw whether two services of one package were ever active at once.

A service connects to a Unix socket, which all hosts of a lab share, says `PACKAGE NODE`, and begins its work once it is
told `go`; it is active until the last descriptor of its connection is closed. The kernel closes it, however the process
ends; while it is frozen it stays open, and a child that was forked keeps it open as well. Before `go` is said, every
other connection is looked at anew: what has ended by then ended before the new work began, so the order is exact.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from btw_core.clock import boottime

#: A service: `SERVICE SOCKET` with BTW_PACKAGE and BTW_NODE in the environment.
SERVICE = [sys.executable, "-IS", str(Path(__file__).with_name("service.py"))]


@dataclass
class Span:
    """A service from its `go` to its end, on CLOCK_BOOTTIME; still active while `stop` is None."""

    package: str
    node: str
    pid: int
    start: float
    stop: float | None = None

    def __str__(self) -> str:
        end = "now" if self.stop is None else f"{self.stop:.3f}"
        return f"{self.package} on {self.node}, pid {self.pid}, {self.start:.3f} to {end}"


class Referee:
    """Listens on `path` until the end of its context."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = threading.Condition()
        self._spans: list[Span] = []
        self._violations: list[str] = []
        self._open: dict[socket.socket, Span | None] = {}  # None: has not yet said who it is
        self._ring, self._bell = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._work, name="referee")

    def __enter__(self) -> Referee:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ring.close()
        self._thread.join()
        for each in (self._listener, self._bell, *self._open):
            each.close()
        self._selector.close()

    # ---- what it saw
    @property
    def violations(self) -> list[str]:
        with self._changed:
            return list(self._violations)

    def spans(self, package: str) -> list[Span]:
        """All so far, in the order of their starts."""
        with self._changed:
            return [span for span in self._spans if span.package == package]

    def active(self, package: str) -> list[Span]:
        return [span for span in self.spans(package) if span.stop is None]

    def wait_active(self, package: str, *, limit: float, after: int = 0) -> Span:
        """The one that is active, or becomes so, and is not among the first `after` spans. Raises AssertionError."""
        def fits() -> Span | None:
            spans = [span for span in self._spans if span.package == package]
            return next((span for span in spans[after:] if span.stop is None), None)

        with self._changed:
            span = self._changed.wait_for(fits, limit)
        assert span is not None, f"no service of {package} became active within {limit:g} s{self._told(package)}"
        return span

    def wait_stopped(self, span: Span, *, limit: float) -> float:
        """The instant of its end. Raises AssertionError."""
        with self._changed:
            self._changed.wait_for(lambda: span.stop is not None, limit)
        assert span.stop is not None, f"{span}: still active after {limit:g} s{self._told(span.package)}"
        return span.stop

    def _told(self, package: str) -> str:
        return "".join(f"\n  {span}" for span in self.spans(package)) or "\n  nothing was ever active"

    # ---- its thread
    def _work(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._bell:
                    return
                if key.fileobj is self._listener:
                    connection, _ = self._listener.accept()
                    self._open[connection] = None
                    self._selector.register(connection, selectors.EVENT_READ)
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._open:
                    self._look(key.fileobj)

    def _look(self, connection: socket.socket) -> None:
        """Take note of what it says, or of its end."""
        try:
            said = connection.recv(1024, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:  # it ended without reading what it was told
            said = b""
        if not said:
            self._selector.unregister(connection)
            span = self._open.pop(connection)
            connection.close()
            if span is not None:
                with self._changed:
                    span.stop = boottime()
                    self._changed.notify_all()
        elif self._open[connection] is None:
            self._begin(connection, *said.decode().split())

    def _begin(self, connection: socket.socket, package: str, node: str) -> None:
        for other, span in list(self._open.items()):
            if span is not None:
                self._look(other)
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        new = Span(package, node, pid, boottime())
        with self._changed:
            rivals = [span for span in self._spans if span.package == package and span.stop is None]
            self._violations += [f"two at once: {new} begins during {rival}" for rival in rivals]
            self._spans.append(new)
            self._open[connection] = new
            self._changed.notify_all()
        try:
            connection.send(b"go\n", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BrokenPipeError:
            return  # its end is the next thing to be seen
