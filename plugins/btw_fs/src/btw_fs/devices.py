"""Block devices by path, UUID or label: which one is meant, and waiting for it to appear."""

from __future__ import annotations

import contextlib
import os
import select
import stat
from pathlib import Path
from typing import NamedTuple

from btw_core import CannotTell, Context, Failed

from . import kernel
from .mountinfo import Number
from .target import Device, unique

#: Seconds between two looks when no event comes: links are made by udevd, which may not be there.
PAUSE, SLOW = 0.1, 1.0
#: Characters that udev leaves as they are in the names of links (libudev, udev_util_encode_string).
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789#+-.:=@_")


class Block(NamedTuple):
    """A block device that is there."""

    path: str  # the kernel's own name of it
    number: Number

    @property
    def name(self) -> str:
        return Path(self.path).name


def find(device: Device, ctx: Context) -> Block | None:
    """The one that is meant, None when there is none. A tag without udev's links costs a run of blkid(8). Raises
    Failed (in status: CannotTell) when it is no block device, or two have the tag."""
    if device.tag is None:
        return _block(device, ctx)
    kind, value = device.tag
    link = f"/dev/disk/by-{kind.lower()}/{_encoded(value)}"
    if (found := _block(link, ctx)) is not None:
        return found
    done = ctx.run(["blkid", "-c", "/dev/null", "-o", "device", "-t", f"{kind}={value}"], ok=(0, 2))
    names = [line for line in done.output.split("\n") if line.startswith("/dev/")]
    blocks = [block for block in (_block(name, ctx) for name in names) if block is not None]
    free = [block for block in blocks if not above(block.number)]  # the others are parts, such as paths of multipath
    if not blocks:
        return None
    try:
        wanted = unique([block.path for block in free or blocks], str(device))
    except ValueError as error:
        raise (CannotTell if ctx.verb is None else Failed)(str(error)) from None
    return next(block for block in blocks if block.path == wanted)


def appear(device: Device, ctx: Context) -> Block:
    """Wait for it by events of udev and the kernel, and without them by looking, until shortly before the deadline.
    Raises Failed."""
    with contextlib.closing(Events()) as events:  # before the first look: nothing falls between
        told = False
        while True:
            found = find(device, ctx)
            if found is not None and _has_medium(found):
                return found
            if ctx.remaining() <= SLOW:
                what = "is not there" if found is None else "is there, but has no medium (size 0)"
                raise Failed(f"{device}: {what}; connect its storage (see `lsblk`), or raise start_timeout")
            if not told:
                ctx.log(f"{device} is not there yet: waiting for it")
                told = True
            events.wait(min(PAUSE if device.tag is None else SLOW, ctx.remaining() - SLOW / 2))


def above(number: Number) -> list[str]:
    """Names of devices that are made of this one: device-mapper, md."""
    try:
        return sorted(each.name for each in (kernel.sysfs(number) / "holders").iterdir())
    except OSError:  # it is a partition of an old kernel, or has gone
        return []


def owner(block: Block) -> str:
    """Who has claimed a device that no mount here is of, in words."""
    if stacked := above(block.number):
        return f"{', '.join(stacked)} is made of it (device-mapper, md): name that device instead"
    if block.path in kernel.swaps():
        return f"it is swap space: swapoff {block.path}"
    return "it may be mounted in another mount namespace (a container), or be checked right now: see `lsof`, `lsblk`"


class Events:
    """Events of block devices. Without libudev or netlink there are none, and `wait` only waits. Close it."""

    def __init__(self) -> None:
        import pyudev  # type: ignore[import-untyped]

        self._monitors = []
        with contextlib.suppress(ImportError, OSError):  # no libudev.so.1; no netlink here
            context = pyudev.Context()
            for source in ("udev", "kernel"):
                monitor = pyudev.Monitor.from_netlink(context, source=source)
                monitor.filter_by("block")
                monitor.start()
                self._monitors.append(monitor)

    def filenos(self) -> list[int]:
        """Readable when there is an event; then `drain`."""
        return [monitor.fileno() for monitor in self._monitors]

    def drain(self) -> set[Number]:
        """The devices of the events that wait. Does not block."""
        found = set()
        for monitor in self._monitors:
            while (device := monitor.poll(0)) is not None:
                number = device.device_number
                found.add((os.major(number), os.minor(number)))
        return found

    def wait(self, seconds: float) -> None:
        """Blocks until there is an event, at most so long."""
        if select.select(self.filenos(), [], [], max(0.0, seconds))[0]:
            self.drain()

    def close(self) -> None:
        self._monitors.clear()


def _block(path: str, ctx: Context) -> Block | None:
    try:
        found = Path(path).stat()
    except OSError:  # not there, or a link that leads nowhere yet
        return None
    if not stat.S_ISBLK(found.st_mode):
        text = f"{path} is no block device; a file needs a loop device first: losetup --find --show {path}"
        raise (CannotTell if ctx.verb is None else Failed)(text)
    return Block(os.path.realpath(path), (os.major(found.st_rdev), os.minor(found.st_rdev)))


def _has_medium(block: Block) -> bool:
    try:
        return kernel.size(block.path) > 0
    except OSError:  # it is going or coming
        return False


def _encoded(value: str) -> str:
    return "".join(
        char if char in _PLAIN or ord(char) > 127 else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for char in value
    )
