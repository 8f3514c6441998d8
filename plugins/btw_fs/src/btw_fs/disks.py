"""Which disks a block device is made of, and which of them other computers can reach: read from sysfs."""

from __future__ import annotations

import os
from pathlib import Path

from .mountinfo import Number

#: Part of the path of a disk's device in sysfs -> how it is connected, where more than one computer can be.
_WAYS = {"/session": "iSCSI", "/rport-": "Fibre Channel", "/nbd": "network block device", "/rbd": "Ceph"}
_NVME = {"tcp", "rdma", "fc"}


def disks(number: Number, sys: Path = Path("/sys")) -> set[Path]:
    """The whole disks at the bottom: below partitions, device-mapper and md; directories of /sys/devices."""
    try:
        here = (sys / f"dev/block/{number[0]}:{number[1]}").resolve(strict=True)
    except OSError:
        return set()
    if (here / "partition").exists():
        here = here.parent
    below = sorted((here / "slaves").iterdir()) if (here / "slaves").is_dir() else []
    if not below:
        return {here}
    found = set()
    for each in below:
        major, _, minor = (each / "dev").read_text().strip().partition(":")
        found |= disks((int(major), int(minor)), sys)
    return found


def reached_by_others(disk: Path) -> str:
    """ "iSCSI" and the like, "" when nothing says that another computer can reach it."""
    path = str(disk)
    for part, way in _WAYS.items():
        if part in path:
            return way
    for controller in disk.resolve().parents:
        transport = controller / "transport"
        if transport.is_file() and (kind := transport.read_text().strip()) in _NVME:
            return f"NVMe over {kind}"
    return ""


def number_of(path: str) -> Number | None:
    """Of a block device, None when there is none at this path."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    number = found.st_rdev
    return (os.major(number), os.minor(number)) if number else None
