"""System calls that Python has not, and small questions to the kernel. All of it is Linux; sources are man pages."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .mountinfo import Number, Table, parse

MNT_FORCE, UMOUNT_NOFOLLOW = 1, 8  # umount2(2)
_AT_FDCWD, _AT_NO_AUTOMOUNT, _AT_STATX_DONT_SYNC = -100, 0x800, 0x4000
_STATX_MNT_ID = 0x1000  # Linux 5.8
_CLONE_NEWNS = 0x20000
_BLKFLSBUF, _BLKGETSIZE64, _LOOP_CLR_FD = 0x1261, 0x80081272, 0x4C01  # linux/fs.h, linux/loop.h
#: Readings of mountinfo until one is not torn.
TRIES = 200
_CHUNK = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


# ---- mountinfo
class Reader:
    """One open mountinfo. `changed` and `read` must not be called by two threads at a time. Close it."""

    def __init__(self, path: str = "/proc/self/mountinfo") -> None:
        """Raises OSError."""
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)
        self.torn = 0  # readings that were thrown away

    def fileno(self) -> int:
        """For poll(2): POLLPRI and POLLERR when mounts have changed (proc(5)); it is always readable."""
        return self._file

    def close(self) -> None:
        os.close(self._file)

    def changed(self) -> bool:
        """Something was mounted, unmounted or given other options since this or `read` was called last. Does not see a
        file system that turned read-only by itself."""
        return bool(self._poll.poll(0))

    def read(self) -> Table:
        """A reading in pieces of a list that changes may miss lines (resource-agents issue 1337): it is done again
        until nothing has changed meanwhile. Raises OSError, EAGAIN when it never stands still."""
        for _ in range(TRIES):
            self.changed()
            os.lseek(self._file, 0, os.SEEK_SET)
            data = b"".join(iter(lambda: os.read(self._file, _CHUNK), b""))
            if not self.changed():
                return Table(parse(data))
            self.torn += 1
        raise OSError(errno.EAGAIN, f"the mounts changed during each of {TRIES} readings")


def table(path: str = "/proc/self/mountinfo") -> Table:
    """The mounts now. Raises OSError."""
    reader = Reader(path)
    try:
        return reader.read()
    finally:
        reader.close()


# ---- files and mounts
class Where(NamedTuple):
    """Where a file lives."""

    mount: int
    number: Number


def where(path: str) -> Where:
    """Follows links, those of /proc too; asks no server (AT_STATX_DONT_SYNC), mounts nothing. Yet the way there may
    block on a dead network mount (revalidation). Raises OSError."""
    answer = ctypes.create_string_buffer(256)
    flags = _AT_STATX_DONT_SYNC | _AT_NO_AUTOMOUNT
    if _libc.statx(_AT_FDCWD, os.fsencode(path), flags, _STATX_MNT_ID, answer):
        _refused(path)
    (mask,) = struct.unpack_from("=I", answer, 0)
    major, minor, mount = struct.unpack_from("=IIQ", answer, 136)
    return Where(mount if mask & _STATX_MNT_ID else -1, (major, minor))


def unmount(point: str, *, force: bool = False) -> None:
    """umount2(2) of the uppermost mount there, never a lazy one. May block for long. Raises OSError."""
    if _libc.umount2(os.fsencode(point), UMOUNT_NOFOLLOW | (MNT_FORCE if force else 0)):
        _refused(point)


def enter(pid: int) -> None:
    """From here on this process is in the mount namespace of `pid`, with its root. Only for a process that has one
    thread. Raises OSError."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    if _libc.setns(namespace, _CLONE_NEWNS):
        _refused(f"mount namespace of pid {pid}")
    os.fchdir(root)
    os.chroot(".")


def _refused(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), what)


# ---- block devices
def held(device: str) -> bool:
    """Something on this computer has claimed the block device for itself: a mounted file system, device-mapper, swap,
    fsck (open(2), O_EXCL). Until this is false something may write. False as well when the device has gone. Raises
    OSError for everything else."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        if error.errno not in (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM):
            raise
    return False


def size(device: str) -> int:
    """Bytes of a block device. Raises OSError."""
    with _opened(device) as descriptor:
        (found,) = struct.unpack("Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))
    return int(found)


def flush(device: str) -> None:
    """Forget what this computer has cached of it: another one has written meanwhile. Raises OSError."""
    with _opened(device) as descriptor:
        fcntl.ioctl(descriptor, _BLKFLSBUF, 0)


def detach(device: str) -> None:
    """Take a loop device off its file; one that is still used goes when it is not (LOOP_CLR_FD, loop(4)). Raises
    OSError."""
    with _opened(device) as descriptor:
        fcntl.ioctl(descriptor, _LOOP_CLR_FD)


@contextlib.contextmanager
def _opened(device: str) -> Iterator[int]:
    descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# ---- what the kernel says
def swaps() -> dict[str, str]:
    """Swap space that is on: path -> "partition" or "file" (proc_swaps(5))."""
    lines = [line.split() for line in Path("/proc/swaps").read_bytes().splitlines()[1:]]
    return {os.fsdecode(path): kind.decode() for path, kind, *_ in lines}


def listen() -> Callable[[str, str], str]:
    """From now on: the function returned gives what the kernel has logged since about a device or a type, " | " between
    lines; "" when it may not be read. mount(2) has one number for many troubles; these lines have the words."""
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(log, 0, os.SEEK_END)
    except OSError:
        return lambda device, fstype: ""

    def said(device: str, fstype: str) -> str:
        names = [f"{fstype}: "] if fstype else []
        if device:
            names += [f"({device})", f"device {device}", f"({device} ", f"dev {disk_of(device)},"]
        found = []
        try:
            while True:
                try:
                    line = os.read(log, 8192).decode(errors="replace").partition(";")[2].split("\n")[0]
                except BrokenPipeError:  # overwritten meanwhile: the next one is the oldest there is
                    continue
                if any(name.lower() in line.lower() for name in names):
                    found.append(line)
        except OSError:  # EAGAIN: no more
            pass
        finally:
            os.close(log)
        return " | ".join(found[-4:])

    return said


def disk_of(device: str) -> str:
    """The disk of a partition, by their names; of anything else itself."""
    place = Path("/sys/class/block", device)
    return place.resolve().parent.name if (place / "partition").exists() else device


def node(number: Number) -> str:
    """The kernel's own name of a block device, such as /dev/sda1. Raises OSError when it has gone."""
    return f"/dev/{sysfs(number).resolve(strict=True).name.replace('!', '/')}"


def sysfs(number: Number) -> Path:
    """The directory of a block device; not there when the device has gone."""
    return Path(f"/sys/dev/block/{number[0]}:{number[1]}")
