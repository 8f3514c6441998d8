"""One life of a manager, as its keeper sees it. Standard library only."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence

from .clock import boottime
from .pulse import ManagerHalf, start_of


class Life:
    """`process` None: it is another keeper's child, and its exit code is only what it has written."""

    def __init__(self, pid: int, process: subprocess.Popen[bytes] | None = None) -> None:
        """Raises ProcessLookupError."""
        self.pid, self.started = pid, boottime()
        self.pidfd = os.pidfd_open(pid)
        self.start = start_of(pid)
        self.killed = ""  # why the keeper killed it
        self.told: set[int] = set()  # signals that were passed on to it
        self._process = process
        self.ready = False  # it answers, and can be told to halt

    @classmethod
    def begin(cls, command: Sequence[str], environment: Mapping[str, str]) -> Life:
        """Raises OSError."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C at the terminal is for the keeper alone, which passes it on
        )
        return cls(process.pid, process)

    def wrote(self, half: ManagerHalf) -> bool:
        """This half is this manager's, not its predecessor's."""
        return (half.pid, half.start) == (self.pid, self.start)

    def saw(self, half: ManagerHalf) -> None:
        self.ready = self.ready or (half.ready and self.wrote(half))

    def over(self) -> bool:
        return bool(select.select([self.pidfd], [], [], 0)[0])

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended: the next look sees that
            signal.pidfd_send_signal(self.pidfd, number)
        self.told.add(number)

    def reap(self, half: ManagerHalf) -> tuple[int | None, str]:
        """Once it is over: its exit code (None: nobody knows), and that in words."""
        os.close(self.pidfd)
        code = None if self._process is None else self._process.wait()
        if self.wrote(half) and half.ended is not None:
            code = half.ended  # what came after it wrote that, such as a thread that kept it from ending, is no news
        if self.killed:
            how = f"killed: {self.killed}"
        elif code is None:
            how = "ended without a word"
        else:
            how = f"ended with exit code {code}" if code >= 0 else f"killed by signal {-code}"
        return code, f"pid {self.pid} {how}"
