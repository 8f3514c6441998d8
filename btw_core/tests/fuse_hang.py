"""A mounted directory in which every look-up hangs in an uninterruptible way, for tests (root only).

    with hanging_mount(directory) as mount:
        # open(directory / "anything") now waits in state D, and survives SIGKILL
        mount.wait_hung()

The server is a process of its own that speaks just enough of the FUSE protocol (Linux: include/uapi/linux/fuse.h,
Documentation/filesystems/fuse.rst "Interrupting filesystem operations"): a request that it has read and never answers
cannot be interrupted by anything but the end of the connection, which comes with the end of the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_LOOKUP, _FORGET, _GETATTR, _INIT, _INTERRUPT, _BATCH_FORGET = 1, 2, 3, 26, 36, 42
_IN, _OUT = struct.Struct("=IIQQIIII"), struct.Struct("=IiQ")
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


class HangingMount:
    """`server` is the pid of the process that holds the connection."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        self.path, self._process, self.server = path, process, process.pid

    def wait_hung(self, seconds: float = 20.0) -> None:
        """Until somebody hangs in it. Raises TimeoutError."""
        if self._said(seconds) != b"h":
            raise TimeoutError(f"nobody looked into {self.path} for {seconds} s")

    def _said(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return os.read(self._process.stdout.fileno(), 1) if ready else b""

    def release(self) -> None:
        """End the server: everybody who hangs gets ECONNABORTED, and dies if it was killed. May be repeated."""
        self._process.kill()
        self._process.wait(20)


@contextlib.contextmanager
def hanging_mount(path: Path) -> Iterator[HangingMount]:
    """Mount it on the directory `path`. Raises OSError where that is not possible."""
    command = [sys.executable, __file__, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        mount = HangingMount(path, process)
        try:
            if mount._said(20) != b"m":
                raise OSError(f"cannot mount fuse on {path}; see what the server printed")
            yield mount
        finally:
            mount.release()
            _libc.umount2(os.fsencode(path), _MNT_DETACH)


def serve(path: str) -> None:
    """Mount and answer until standard input ends: m is said when mounted, h for each request that hangs."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    if _libc.mount(b"btw-hang", os.fsencode(path), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount", path)
    os.write(1, b"m")
    while True:
        ready, _, _ = select.select([device, 0], [], [])
        if 0 in ready:
            return
        request = os.read(device, 1 << 17)
        _, opcode, unique, _, _, _, _, _ = _IN.unpack_from(request)
        if opcode == _LOOKUP:
            os.write(1, b"h")
        elif opcode == _INIT:
            _answer(device, unique, struct.pack("=IIIIHHII36x", 7, 31, 0, 0, 8, 8, 4096, 1))
        elif opcode == _GETATTR:
            attributes = struct.pack("=6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
            _answer(device, unique, struct.pack("=QII", 3600, 0, 0) + attributes)
        elif opcode not in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            _answer(device, unique, b"", -errno.ENOSYS)


def _answer(device: int, unique: int, data: bytes, error: int = 0) -> None:
    os.write(device, _OUT.pack(_OUT.size + len(data), error, unique) + data)


if __name__ == "__main__":
    serve(sys.argv[1])
