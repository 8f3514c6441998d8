"""Disks of the Linux target in this very machine (tcm_loop): two units, each with two paths by two initiators."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

TARGET = Path("/sys/kernel/config/target")
SIZE = 4 << 20
#: Seconds for a device to appear.
LIMIT = 30.0


def set_up() -> list[list[str]]:
    """Names of the paths of each unit, such as [["sda", "sdc"], ["sdb", "sdd"]]. Once in a boot. Blocks."""
    Path("/etc/target/pr").mkdir(parents=True, exist_ok=True)
    for module in ("scsi_mod", "sd_mod", "sg", "configfs", "target_core_mod", "target_core_file", "tcm_loop"):
        subprocess.run(["modprobe", module], check=True)
    subprocess.run(["mount", "-t", "configfs", "none", "/sys/kernel/config"], check=True)
    units = [_unit(number) for number in (1, 2)]
    for nexus in (1, 2):
        group = TARGET / f"loopback/naa.600140500000000{nexus}/tpgt_1"
        group.mkdir(parents=True)
        (group / "nexus").write_text(f"naa.500140500000000{nexus}")
        for number, unit in enumerate(units):
            lun = group / f"lun/lun_{number}"
            lun.mkdir()
            (lun / "port0").symlink_to(unit)
    end = time.monotonic() + LIMIT
    while True:
        found: dict[str, list[str]] = {}
        for disk in sorted(Path("/sys/block").glob("sd*")):
            if Path("/dev", disk.name).exists():
                found.setdefault((disk / "device/wwid").read_text(), []).append(disk.name)
        if [len(each) for each in found.values()] == [2, 2]:
            return [sorted(each) for each in found.values()]
        if time.monotonic() > end:
            raise TimeoutError(f"the disks are not there after {LIMIT:g} s: {found}")
        time.sleep(0.05)


def _unit(number: int) -> Path:
    file = Path(f"/run/loop{number}")
    with open(file, "wb") as stream:
        stream.truncate(SIZE)
    unit = TARGET / f"core/fileio_{number}/loop{number}"
    unit.mkdir(parents=True)
    (unit / "control").write_text(f"fd_dev_name={file},fd_dev_size={SIZE}")
    (unit / "enable").write_text("1")
    (unit / "wwn/vpd_unit_serial").write_text(f"loop000{number}")
    return unit
