"""A computer with paths to disks: the files of sysfs as the kernel makes them, and `scsi_pr_disk` behind them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scsi_pr_disk import Disk

from btw_scsi_pr.path import Transport
from btw_scsi_pr.units import NotFound, Sysfs

ISCSI = "devices/platform/host{host}/session{host}/target{host}:0:0/{host}:0:0:0"
INTERNAL = "devices/pci0000:00/ata{host}/host{host}/target{host}:0:0/{host}:0:0:0"


class Host(Sysfs):
    """`flushed`: which devices were flushed, and whether this computer could write to the disk then."""

    def __init__(self, directory: Path, node: str = "n1") -> None:
        super().__init__(directory / "sys", directory / "dev")
        self.sys, self.node = directory / "sys", node
        self.disks: dict[str, Disk] = {}
        self.flushed: list[tuple[tuple[str, ...], bool]] = []
        self._numbers: dict[str, str] = {}
        for name in ("block", "class/block", "dev/block"):
            (self.sys / name).mkdir(parents=True)

    # ---- building
    def path(self, name: str, disk: Disk, *, wwid: str = "naa.6001", host: int = 1, place: str = ISCSI) -> Path:
        """A SCSI disk `name` (sda), one path to `disk`."""
        device = self.sys / place.format(host=host)
        device.mkdir(parents=True)
        (device / "wwid").write_text(wwid + "\n")
        (device / "state").write_text("running\n")
        (device / "scsi_level").write_text("6\n")
        self.disks[name] = disk
        block = self._block_device(name, device / "block" / name)
        (block / "device").symlink_to(device)
        return block

    def partition(self, name: str, disk: str) -> Path:
        """sda1 on sda."""
        block = self._block_device(name, (self.sys / "block" / disk).resolve() / name)
        (block / "partition").write_text("1\n")
        return block

    def mapped(self, name: str, uuid: str, *slaves: str) -> Path:
        """dm-0 on others."""
        block = self._block_device(name, self.sys / "devices/virtual/block" / name)
        (block / "dm").mkdir()
        (block / "dm/uuid").write_text(uuid + "\n")
        for slave in slaves:
            below = (self.sys / "class/block" / slave).resolve()
            (block / "slaves" / slave).symlink_to(below)
            (below / "holders" / name).symlink_to(block)
        return block

    def state(self, name: str, state: str) -> None:
        """Of a path: running, transport-offline."""
        (self.sys / "block" / name / "device/state").write_text(state + "\n")

    def _block_device(self, name: str, block: Path) -> Path:
        for part in ("slaves", "holders"):
            (block / part).mkdir(parents=True)
        number = self._numbers[name] = f"8:{16 * len(self._numbers)}"
        (self.sys / "class/block" / name).symlink_to(block)
        (self.sys / "dev/block" / number).symlink_to(block)
        if block.parent.name == "block":
            (self.sys / "block" / name).symlink_to(block)
        return block

    # ---- in place of the kernel
    def nexus(self, name: str) -> str:
        return f"{self.node}.{name}"

    def number(self, device: str) -> str:
        name = device.removeprefix("/dev/")
        if name not in self._numbers:
            raise NotFound(f"{device}: No such file or directory")
        return self._numbers[name]

    def transport(self, name: str) -> Transport:
        return self.disks[name].transport(self.nexus(name))

    def flush(self, names: Iterable[str]) -> None:
        names = tuple(names)
        disk = self.disks[names[0]]
        self.flushed.append((names, any(disk.takes_write(self.nexus(name)) for name in self.disks)))
