"""Two machines with a file system that can be made to hang, and beside it, on the first, a package that has nothing to
do with it. Each has devices of its own (device-mapper on a file, a SCSI disk in memory); an NFS server is in a third,
their store's."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import NamedTuple

from btw_core.timing import Timing
from vm.control import LabError
from vm.lab import Lab, Machine, clock
from vm.nodes import LIMIT, STORE, Node, Pids, until

#: The package that hangs; the one that does not.
PACKAGE, BESIDE = "files", "beside"
DIRECTORY = "/srv/files"
DEVICE, IMAGE, SECTORS = "/dev/mapper/lab", "/srv/image", 32 << 11
#: Of device-mapper, on /dev/loop0 (Documentation/admin-guide/device-mapper of the kernel).
LINEAR = f"0 {SECTORS} linear /dev/loop0 0"
FAILING = f"0 {SECTORS} flakey /dev/loop0 0 0 3600"
DUST = f"0 {SECTORS} dust /dev/loop0 0 {1 << 20}"
#: In memory (scsi_debug); there is no other.
SCSI = "/dev/sda"
#: The last number of the address of the NFS server on the wire `lan`; without it there is none.
SERVER = 50

MAKE = "mkfs.ext4 -q -F -E lazy_itable_init=0"

#: Appends to a file and flushes it, for as long as it can.
SERVICE = f"""
import os, time
file = os.open("{DIRECTORY}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
while True:
    os.write(file, b"written\\n")
    os.fsync(file)
    time.sleep(0.1)
"""

#: Every process in state D with its wchan, kernel threads left out (their command line is empty).
WAITING = """
import json
from pathlib import Path
found = []
for place in Path("/proc").glob("[0-9]*"):
    try:
        state = (place / "stat").read_text().rpartition(")")[2].split()[0]
        if state == "D" and (place / "cmdline").read_bytes():
            found.append([int(place.name), (place / "wchan").read_text()])
    except OSError:
        pass
print(json.dumps(found))
"""


class Hanging(NamedTuple):
    """A process in state D, and where in the kernel."""

    pid: int
    wchan: str


@dataclass
class Host(Node):
    """A node. `beside`: it runs the other package as well."""

    package: str = PACKAGE
    beside: bool = False

    @property
    def packages(self) -> list[str]:
        return [PACKAGE, BESIDE] if self.beside else [PACKAGE]

    def write_down(self, lab: Lab, timing: Timing, resource: str, self_fence: str) -> None:
        """`resource`: the parameters of the file system but its directory. It does not run."""
        self.write(lab, timing, self_fence)
        times = (
            f"[package]\npace = {timing.pace:g}\ntimeout = {timing.timeout:g}\n"
            f"start_timeout = {timing.start_timeout:g}\nstop_timeout = {timing.stop_timeout:g}\n"
        )
        words = json.dumps([sys.executable, "-S", "-c", SERVICE])
        service = f'[[resource]]\ntype = "service"\nstop_timeout = 2\ncommand = {words}\n'
        files = f'[[resource]]\ntype = "fs"\ndirectory = "{DIRECTORY}"\ncreate_directory = true\n{resource}\n'
        self.machine.write(f"/etc/btw/packages/{PACKAGE}.toml", times + files + service)
        reporter = f'[[resource]]\ntype = "service"\ncommand = {json.dumps(lab.reporter(BESIDE))}\n'
        self.machine.write(f"/etc/btw/packages/{BESIDE}.toml", times + reporter)

    def begin(self) -> None:
        if self.pids() is None:
            self.machine.run("modprobe", "softdog", "nowayout=0")
            self.machine.run("btw", "run", "-d", *self.packages, timeout=LIMIT)

    def end(self) -> None:
        if self.halves():
            self.machine.run("btw", "stop", *self.packages, check=False, timeout=LIMIT)
            until(lambda: not self.halves(), f"btw has ended on {self.name}")

    def is_(self, state: str, package: str = PACKAGE) -> bool:
        return f"{package} {state}" in self.said()

    def status(self) -> str:
        """What `btw status` says to a person."""
        return self.machine.run("btw", "status", self.package, check=False, timeout=LIMIT).out

    def hanging(self) -> set[Hanging]:
        return {Hanging(*each) for each in json.loads(self.machine.python(WAITING))}

    def shell(self, *lines: str) -> None:
        self.machine.run("sh", "-ec", "\n".join(lines), timeout=LIMIT)

    def device(self, table: str) -> None:
        """A new device with a new file system."""
        self.shell(
            "modprobe -a loop dm-mod dm-flakey dm-dust",
            "dmsetup remove lab 2>/dev/null || true",
            "losetup -d /dev/loop0 2>/dev/null || true",
            f"rm -f {IMAGE}; truncate -s {SECTORS * 512} {IMAGE}",
            f"losetup /dev/loop0 {IMAGE}",
            f"dmsetup create --noudevsync lab --table '{table}'; dmsetup mknodes lab",
            f"{MAKE} {DEVICE}",
        )

    def plug(self) -> None:
        """The SCSI disk, with a new file system."""
        self.shell(
            "modprobe -a sd_mod",
            f"modprobe scsi_debug dev_size_mb={SECTORS >> 11}",
            f"until test -b {SCSI}; do sleep 0.1; done",
            f"{MAKE} {SCSI}",
        )

    def unplug(self) -> None:
        """It is gone while it is in use."""
        self.shell(f"echo 1 > /sys/block/{SCSI.removeprefix('/dev/')}/device/delete")

    def swap(self, table: str) -> None:
        """What the device is made of changes while it is mounted."""
        self.shell(
            "dmsetup suspend --noflush --nolockfs lab",
            f"dmsetup load lab --table '{table}'",
            "dmsetup resume lab",
        )


class Server:
    """An NFS server, with its files in memory."""

    def __init__(self, lab: Lab) -> None:
        self.machine: Machine = lab[STORE]
        self.address = lab.wires.address("lan", SERVER)
        self.machine.write("/etc/exports", "/exported *(rw,no_root_squash,no_subtree_check,fsid=0)\n")

    def start(self) -> None:
        """NFS 4 only, which needs no portmapper."""
        lines = [
            "modprobe nfsd",
            "mkdir -p /exported; mount -t tmpfs tmpfs /exported",
            "mount -t nfsd nfsd /proc/fs/nfsd",
            "exportfs -ra",
            "rpc.mountd -N 2 -N 3",
            "rpc.nfsd --grace-time 10 --lease-time 10 -N 3 2",
        ]
        self.machine.run("sh", "-ec", "\n".join(lines), timeout=LIMIT)
        self.revive()

    def kill(self) -> None:
        """It says nothing any more, to anybody."""
        self._address("del")

    def revive(self) -> None:
        self._address("replace")

    def _address(self, verb: str) -> None:
        self.machine.run("ip", "address", verb, f"{self.address}/24", "dev", "lan")


class Hosts:
    """n2 and n3; n2 has the package beside."""

    def __init__(self, lab: Lab, timing: Timing) -> None:
        self.lab, self.timing = lab, timing
        first, second = [Host(machine) for machine in lab if machine.name != STORE]
        first.beside = True
        self.first, self.second = first, second
        self.server = Server(lab)
        self.nodes = (first, second)
        self.store_is_new = True

    def set_up(self, resource: str, table: str = "", self_fence: str = "none") -> None:
        """The package runs at the first node, and the second one listens. `table`: on a new device."""
        for node in self.nodes:
            node.machine.join()
            until(node.ready, f"{node.name} is ready")
            node.machine.run("dmsetup", "resume", "lab", check=False)
            node.end()
            if table:
                node.device(table)
            node.write_down(self.lab, self.timing, resource, self_fence)
            node.machine.run("sync", timeout=LIMIT)
        if self.store_is_new:
            self.first.machine.run("btw", "init", timeout=LIMIT)
            self.store_is_new = False
        for node in self.nodes:
            node.begin()
            until(lambda: all(self.first.is_("running", each) for each in (PACKAGE, BESIDE)), "both packages run")
        until(lambda: "taken here when" in self.second.status(), f"{self.second.name} listens", pause=0.5)

    def lives_beside(self, since: float) -> set[str]:
        """Processes of the package beside that were heard of since then."""
        return {each.life for each in self.lab.referee.reports(BESIDE) if each.at >= since}

    def gap_beside(self, since: float) -> float:
        """The longest silence of the package beside since then."""
        times = [each.at for each in self.lab.referee.reports(BESIDE) if each.at >= since] + [clock()]
        return max(after - before for before, after in zip([since, *times], times, strict=False))

    def told(self) -> str:
        """Everything, for a test that failed."""
        lines = []
        for node in self.nodes:
            try:
                lines += [f"{node.name} {json.dumps(event)}" for event in node.events()[-60:]]
                lines.append(node.machine.run("dmesg").out[-3000:])
            except LabError as error:
                lines.append(f"{node.name}: {error}")
        return "\n".join(lines)


def replaced(node: Host, before: Pids) -> bool:
    """There is another manager, of the same keeper."""
    now = node.pids()
    return now is not None and now.manager != before.manager and now.keeper == before.keeper
