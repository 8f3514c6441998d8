"""A relay between a store and a member, which can lose what goes through it. No pytest in here."""

from __future__ import annotations

import contextlib
import socket
import threading
from enum import Enum


class Way(Enum):
    """What becomes of the bytes of all connections."""

    OPEN = "both ways"
    SWALLOW_ANSWERS = "requests arrive; when the answer comes the connection is closed instead"
    SWALLOW_REQUESTS = "requests do not arrive; the connection is closed instead"
    DEAD = "nothing arrives anywhere, and no connection is closed"


class Relay:
    """`with Relay(port) as relay:` listens on 127.0.0.1:`relay.port` for the member at 127.0.0.1:`port`."""

    def __init__(self, port: int) -> None:
        self.way = Way.OPEN
        self.passed = 0  # bytes that have come through to the member
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sockets.append(self._listener)
        self.cut()

    def cut(self) -> None:
        """Close all connections; new ones go to `target`."""
        while self._sockets:
            each = self._sockets.pop()
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the end of the test
            while True:
                client, _ = self._listener.accept()
                member = socket.create_connection(("127.0.0.1", self.target))
                self._sockets += [client, member]
                for pair in ((client, member, True), (member, client, False)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, request: bool) -> None:
        lost = Way.SWALLOW_REQUESTS if request else Way.SWALLOW_ANSWERS
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.way is Way.DEAD:
                    continue
                if self.way is lost:
                    break
                sink.sendall(data)
                self.passed += len(data) if request else 0
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
