"""What systemd wants to hear of the keeper, and does for it: sd_notify(3), systemd.exec(5). Standard library only."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

_MINE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Service:
    """`environment` is this process's. `served`: a service manager starts another keeper when this one ends."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._status: str | None = None
        self._watched = "WATCHDOG_USEC" in environment
        self.served = bool(self._address) or environment.get("SYSTEMD_EXEC_PID") == str(os.getpid())
        #: For the manager, which is not the one that has to notify.
        self.environment = {key: value for key, value in environment.items() if key not in _MINE}

    def notify(self, *lines: str) -> None:
        """Does not block, and does nothing where nobody wants to hear it."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # one that does not listen is no reason to wait, nor to fail: what it then does, it does
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, contextlib.suppress(OSError):
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), address)

    def ready(self, status: str) -> None:
        """READY=1 the first time, and whenever the status is another one."""
        if status != self._status:
            self._status = status
            self.notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")

    def forget(self) -> None:
        """What was said: `ready` says it again, after RELOADING=1."""
        self._status = None

    def alive(self) -> None:
        """WatchdogSec= starts anew."""
        if self._watched:
            self.notify("WATCHDOG=1")
