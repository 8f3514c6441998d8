"""The log file of a package: what its commands print, for people and for other tools.

A package never fails or waits for its log: what cannot be written is left out, and said once. The file is opened anew
for each piece of output, so it may be renamed (rotated) at any moment.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

#: Bytes of one line; what is longer is continued in the next.
LINE = 8192


def open_log(path: str) -> int:
    """A descriptor to append to. Raises OSError, also where it is no regular file: a pipe that nobody reads blocks."""
    # NONBLOCK: without a reader a named pipe is refused at once (open(2)); NOCTTY: nor does a terminal become ours
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags, 0o640)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "is no regular file", path)


class ScriptLog:
    """The output of one command, line by line, each with the time and `who` ("n1 start web"). `trouble` is called once,
    with the reason, when nothing more can be written."""

    def __init__(self, path: str, who: str, trouble: Callable[[str], None]) -> None:
        self._path, self._who, self._trouble = path, who, trouble
        self._partial = b""

    def feed(self, data: bytes) -> None:
        *whole, self._partial = (self._partial + data).split(b"\n")
        while len(self._partial) > LINE:
            whole.append(self._partial[:LINE])
            self._partial = self._partial[LINE:]
        self._write(whole)

    def end(self) -> None:
        """The command has ended; nothing more comes."""
        self._write([self._partial] if self._partial else [])

    def _write(self, lines: list[bytes]) -> None:
        if not (lines and self._path):
            return
        head = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self._who}: ".encode()
        data = b"".join(head + line + b"\n" for line in lines)
        try:
            # not kept open: the command may unmount what the log is on
            with open(open_log(self._path), "wb", buffering=0) as file:
                while data:
                    data = data[file.write(data) :]
        except OSError as error:  # ENOSPC, EDQUOT: no reason to fail
            self._trouble(f"log {self._path}: {error.strerror}; the output is in the journal only")
            self._path = ""
