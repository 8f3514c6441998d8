"""Two machines that share a disk with a file system, on which whoever is active writes records for a client outside; a
third is their store, and `storage` has the disk: at the end it is read there."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from dataclasses import dataclass
from typing import Any

from btw_core.timing import Timing
from vm import records
from vm.control import MachineGone
from vm.disks import PATHS, PAUSE, Writer
from vm.lab import STORAGE, Lab, LabError, Machine
from vm.nodes import LIMIT, STORE, until
from vm.wires import HOST

#: With lock and reservation, and without: the terms of one say nothing about the other.
PACKAGE, CONTROL = "ledger", "control"
DIRECTORY = "/srv/ledger"
FILE = f"{DIRECTORY}/records"
#: In the control nobody writes before this is there: both mount first, for what is written to may not let itself be.
GO = "/run/go"
#: The disk's own file in `storage`, and where it is mounted there.
IMAGE, THERE = "/srv/disk", "/mnt"
#: Records that a new holder has to have acknowledged before the next thing happens to it.
ENOUGH = 20


@dataclass
class Clerk(Writer):
    """A node whose package is the reservation, the file system and the program that writes; not `guarded` there is no
    reservation, the lock is one of the node's own, and the program waits for GO."""

    package: str = PACKAGE

    def write_down(self, lab: Lab, timing: Timing, *, guarded: bool) -> None:
        """It does not run."""
        self.package = PACKAGE if guarded else CONTROL
        store = ",".join(endpoint.removeprefix("http://") for endpoint in lab.endpoints)
        lock = f"etcd://{store}/btw" if guarded else "local:/var/lib/btw/local.db"
        self.machine.write("/etc/btw/btw.toml", f'cluster = "lab"\nnode = "{self.name}"\nlock = "{lock}"\n')
        reservation = f'[[resource]]\ntype = "scsi_pr"\ndevices = ["{PATHS[0]}"]\n' if guarded else ""
        client = [lab.wires.address("lab", HOST), str(records.PORT)]
        words = [sys.executable, "-S", records.__file__, "write", FILE, *client, *([] if guarded else [GO])]
        self.machine.run("rm", "-f", GO)
        self.machine.write(
            f"/etc/btw/packages/{self.package}.toml",
            f"[package]\npace = {timing.pace:g}\ntimeout = {timing.timeout:g}\n"
            f"start_timeout = {timing.start_timeout:g}\nstop_timeout = {timing.stop_timeout:g}\n{reservation}"
            f'[[resource]]\ntype = "fs"\ndevice = "{PATHS[0]}"\ndirectory = "{DIRECTORY}"\nfstype = "ext4"\n'
            "create_directory = true\n"
            f'[[resource]]\ntype = "service"\ncommand = {json.dumps(words)}\n',
        )

    def reset(self) -> None:
        """The machine boots anew at once, without having flushed anything."""
        boot = self.machine.boot_id()
        with contextlib.suppress(LabError):  # it has no time for an answer
            self.machine.run("sh", "-c", "echo b > /proc/sysrq-trigger", timeout=10)
        until(lambda: self.machine.boot_id() != boot, f"{self.name} boots anew")

    def read(self) -> dict[str, Any]:
        """What is on the file system, as this node reads it."""
        return read(self.machine, FILE)


def read(machine: Machine, file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine.run(sys.executable, "-S", records.__file__, "read", file).out)
    return found


class Ledger:
    """Nodes run btw when they are told to. Close it."""

    def __init__(self, lab: Lab, timing: Timing) -> None:
        self.lab, self.timing = lab, timing
        self.nodes = [Clerk(machine) for machine in lab if machine.name not in (STORE, STORAGE)]
        listening = lab.wires.socket(socket.SOCK_DGRAM)
        listening.bind((lab.wires.address("lab", HOST), records.PORT))
        self.client = records.Client(listening)
        self.guarded: bool | None = None

    def close(self) -> None:
        self.client.close()

    @property
    def storage(self) -> Machine:
        return self.lab[STORAGE]

    def make(self, *, guarded: bool) -> None:
        """A disk with nothing on it, and nobody registered: an orderly stop leaves the reservation where it is."""
        for node in self.nodes:
            self.mend(node)
            node.end()
        first = self.nodes[0].machine
        first.run("btw", "scsi-pr", "clear", "--force", PATHS[0], timeout=LIMIT)
        first.run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", PATHS[0], timeout=LIMIT)
        first.run("blockdev", "--flushbufs", PATHS[0], timeout=LIMIT)
        for node in self.nodes:
            node.write_down(self.lab, self.timing, guarded=guarded)
            node.machine.run("sync", timeout=LIMIT)
        if guarded:
            first.run("btw", "init", timeout=LIMIT)
        self.client.forget()
        self.guarded = guarded

    def mend(self, node: Clerk) -> None:
        """Power on, if it is off."""
        if not node.machine.control.is_open:
            node.machine.power_off()
            node.machine.start()
        until(node.ready, f"{node.name} is ready")

    def run(self) -> tuple[Clerk, Clerk]:
        """Both run btw. Returns the one that is active, which writes, and the other, which listens to it."""
        for node in self.nodes:
            self.mend(node)
        before = self.client.acknowledged()
        for node in self.nodes:
            with contextlib.suppress(MachineGone):
                node.begin()
        until(lambda: any(node.said_of("running") for node in self.nodes), "the package runs", 2 * LIMIT, PAUSE)
        (active,) = [node for node in self.nodes if node.said_of("running")]
        (other,) = [node for node in self.nodes if node is not active]
        until(lambda: "taken here when" in other.status(), f"{other.name} listens", pause=PAUSE)
        count = sum(map(len, before.values()))
        until(lambda: sum(map(len, self.client.acknowledged().values())) >= count + ENOUGH, "records", pause=PAUSE)
        return active, other

    def taken(self, by: Clerk, known: dict[str, set[int]]) -> float:
        """Waits until it has acknowledged records in a life that is none of those. When the first of them was."""
        limit = self.timing.worst_failover() + LIMIT
        return self.client.wait(by.name, new=known, count=ENOUGH, timeout=limit)[1]

    def on_the_disk(self, *, repaired: bool = False) -> dict[str, Any]:
        """What its own machine reads with the file system mounted read-only; `repaired`: whatever is wrong with it was
        mended before, as far as e2fsck can. Nobody else has it mounted."""
        run, image = self.storage.run, IMAGE
        if repaired:
            image = f"{IMAGE}-repaired"
            run("cp", "--sparse=always", IMAGE, image, timeout=LIMIT)
            print(run("e2fsck", "-f", "-y", image, check=False, timeout=LIMIT).out[-300:])
        run("modprobe", "loop")
        run("mount", "-t", "ext4", "-o", "ro,loop", image, THERE, timeout=LIMIT)
        try:
            there = run("test", "-e", f"{THERE}/records", check=False).code == 0
            return read(self.storage, f"{THERE}/records") if there else {"lives": {}, "broken": []}
        finally:
            run("umount", THERE, timeout=LIMIT)

    def told(self) -> str:
        """Everything, for a test that failed."""
        lines = []
        for node in self.nodes:
            with contextlib.suppress(LabError):  # it is off
                lines += [f"{node.name} {json.dumps(event)}" for event in node.events()[-40:]]
        return "\n".join(lines)
