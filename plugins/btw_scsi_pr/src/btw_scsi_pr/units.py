"""Disks as sysfs shows them: all paths of one logical unit, and every block device that is on top of it."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .path import Transport
from .sgio import SgIo

BLKFLSBUF = 0x1261  # linux/fs.h
#: What in the place of a device in sysfs shows that other machines may reach the disk as well.
_FABRICS = {"/session": "iSCSI", "/rport-": "Fibre Channel", "/end_device-": "SAS"}


class NotFound(Exception):
    """A device is not there, or is no SCSI disk; the text says which and why."""


class Way(NamedTuple):
    """A path: `name` is sda, `address` its H:C:T:L, `state` what the kernel thinks of it."""

    name: str
    address: str
    state: str

    @property
    def alive(self) -> bool:
        """Commands are sent at once, and not queued until the other end is back."""
        return self.state == "running"


class Unit(NamedTuple):
    """A logical unit. `stack`: names of all block devices on top of it, itself and its partitions included."""

    wwid: str
    ways: tuple[Way, ...]
    stack: tuple[str, ...]
    multipath: bool


class Sysfs:
    """Below `root`, with the devices in `dev`."""

    def __init__(self, root: Path = Path("/sys"), dev: Path = Path("/dev")) -> None:
        self._root, self._dev = root, dev

    def units(self, devices: Iterable[str]) -> tuple[Unit, ...]:
        """The logical units that these devices (paths, or patterns of such) are on. Blocks on sysfs only. Raises
        NotFound."""
        wwids: dict[str, None] = {}
        for device in devices:
            found = sorted(glob.glob(device)) if glob.has_magic(device) else [device]  # noqa: PTH207 - of a whole path
            if not found:
                raise NotFound(f"no device fits {device}")
            for each in found:
                for disk in self._disks(self._block(each), each):
                    wwids[self._wwid(disk, each)] = None
        return tuple(self._unit(wwid) for wwid in wwids)

    def fabric(self, disk: str) -> str:
        """What connects it to more than this machine: "iSCSI", "Fibre Channel", "SAS"; "": nothing that can be seen."""
        place = str((self._root / "block" / disk / "device").resolve())
        return next((name for mark, name in _FABRICS.items() if mark in place), "")

    def flush(self, names: Iterable[str]) -> None:
        """Write what these devices have cached, then forget it (BLKFLSBUF). Blocks on the disk. Raises OSError."""
        for name in names:
            with contextlib.suppress(FileNotFoundError), _opened(self._dev / name) as descriptor:
                fcntl.ioctl(descriptor, BLKFLSBUF)

    def number(self, device: str) -> str:
        """ "8:16". Raises NotFound."""
        try:
            found = Path(device).stat()
        except OSError as error:
            raise NotFound(f"{device}: {error.strerror}") from error
        if not stat.S_ISBLK(found.st_mode):
            raise NotFound(f"{device} is no block device")
        return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"

    def transport(self, name: str) -> Transport:
        """Which sends commands on this path. Raises OSError."""
        return SgIo(self._dev / name)

    # ---- inside
    def _block(self, device: str) -> Path:
        """Its directory in sysfs; a partition's is that of its disk."""
        directory = (self._root / "dev/block" / self.number(device)).resolve()
        return directory.parent if (directory / "partition").exists() else directory

    def _disks(self, block: Path, asked: str) -> Iterator[str]:
        """Names of the SCSI disks at the bottom."""
        slaves = sorted(each.name for each in (block / "slaves").glob("*"))
        for slave in slaves:
            below = (self._root / "class/block" / slave).resolve()
            yield from self._disks(below.parent if (below / "partition").exists() else below, asked)
        if not slaves:
            if not (block / "device/scsi_level").exists():
                raise NotFound(f"{asked}: {block.name} is no SCSI disk: nothing can be reserved there")
            yield block.name

    def _wwid(self, disk: str, asked: str) -> str:
        wwid = self._said(disk, "wwid")
        if not wwid:
            raise NotFound(f"{asked}: {disk} does not say which logical unit it is (VPD page 83h)")
        return wwid

    def _said(self, disk: str, attribute: str) -> str:
        with contextlib.suppress(OSError):  # it has just gone, or does not have it
            return (self._root / "block" / disk / "device" / attribute).read_text().strip()
        return ""

    def _unit(self, wwid: str) -> Unit:
        disks = sorted(each.name for each in (self._root / "block").iterdir() if self._said(each.name, "wwid") == wwid)
        ways, stack = [], dict[str, None]()
        for disk in disks:
            address = (self._root / "block" / disk / "device").resolve().name
            ways.append(Way(disk, address, self._said(disk, "state") or "gone"))
            for name in self._above(self._root / "block" / disk):
                stack[name] = None
        multipath = any(self._is_multipath(name) for name in stack)
        return Unit(wwid, tuple(ways), tuple(stack), multipath)

    def _above(self, block: Path) -> Iterator[str]:
        yield block.name
        parts = [each for each in sorted(block.glob("*")) if (each / "partition").exists()]
        for part in parts:
            yield from self._above(part)
        for holder in sorted((block / "holders").glob("*")):
            yield from self._above((self._root / "class/block" / holder.name).resolve())

    def _is_multipath(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            return (self._root / "class/block" / name / "dm/uuid").read_text().startswith("mpath-")
        return False


@contextlib.contextmanager
def _opened(device: Path) -> Iterator[int]:
    descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
