"""Three machines on one disk, each of which can run btw with a package that writes to it raw; a fourth is their store,
and a fifth, `storage`, has the disk: what really reached it is read there."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from btw_core.timing import Timing
from vm import raw_disk
from vm.control import MachineGone
from vm.lab import STORAGE, Lab, LabError, Machine, clock
from vm.machine import TESTS
from vm.nodes import LIMIT, STORE, Node, until

PACKAGE = "raw"
FOUND = "/run/found"
#: Seconds between two questions that take a machine some work to answer.
PAUSE = 0.5
PATHS = ("/dev/lab/path1", "/dev/lab/path2")
#: In a machine: the plugins that break the rules, as if they were installed; where a program of theirs says its pid.
HOSTILE = """
import shutil, sys, sysconfig
from pathlib import Path
from btw_core.scaffold.layout import Project
site = Path(sysconfig.get_path("purelib"))
project = Project(Path(sys.argv[1]))
if not list(site.glob("btw_hostile*")):
    project.lay_out(site)
    shutil.copytree(project.sources, site, dirs_exist_ok=True)
"""
LIES = "/run/lies"


@dataclass
class Writer(Node):
    """A node whose package is a reservation, if `fenced`, and the program that writes; `lying`: that is in the hands of
    a plugin that only says that it has stopped it."""

    package: str = PACKAGE

    @property
    def number(self) -> int:
        """Of its area on the disk: 1 is the first machine that is not the store."""
        return int(self.name.removeprefix("n")) - 1

    def set_up(self, lab: Lab, timing: Timing, *, fenced: bool, lying: bool = False) -> None:
        store = ",".join(endpoint.removeprefix("http://") for endpoint in lab.endpoints)
        # who is not fenced by its disk has to be trusted, or nobody would take over
        trust = "none" if fenced else "stop"
        self.machine.write(
            "/etc/btw/btw.toml",
            f'cluster = "lab"\nnode = "{self.name}"\nlock = "etcd://{store}/btw"\nself_fence = "{trust}"\n',
        )
        reservation = f'[[resource]]\ntype = "scsi_pr"\ndevices = ["{PATHS[0]}"]\n' if fenced else ""
        words = [sys.executable, "-S", raw_disk.__file__, "write", PATHS[0], str(self.number), FOUND]
        program = 'type = "service"'
        if lying:
            self.machine.python(HOSTILE, str(TESTS / "hostile"), timeout=LIMIT)
            self.machine.run("sync", timeout=LIMIT)  # the power may be cut
            self.machine.run("mkdir", "-p", LIES)
            program = f'type = "lying_daemon"\ndir = "{LIES}"'
        self.machine.write(
            f"/etc/btw/packages/{self.package}.toml",
            f"[package]\npace = {timing.pace:g}\ntimeout = {timing.timeout:g}\n"
            f"start_timeout = {timing.start_timeout:g}\nstop_timeout = {timing.stop_timeout:g}\n"
            f"{reservation}[[resource]]\n{program}\ncommand = {json.dumps(words)}\n",
        )

    def begin(self) -> None:
        """`btw run` in the background, unless it runs."""
        if not self.halves():
            self.machine.run("btw", "run", "-d", self.package, timeout=LIMIT)

    def end(self) -> None:
        """`btw stop`, if it runs; returns when all of it has ended."""
        if self.halves():
            self.machine.run("btw", "stop", self.package, check=False, timeout=LIMIT)
            until(lambda: not self.halves(), f"btw has ended on {self.name}", pause=PAUSE)

    def found(self) -> dict[str, Any] | None:
        """What the program read first in the present boot, if it ever ran."""
        try:
            told: dict[str, Any] = json.loads(self.machine.read(FOUND))
        except LabError:
            return None
        return told

    def writes(self, path: str = PATHS[0]) -> bool:
        """A write to the last block of the disk is taken now."""
        words = ["if=/dev/zero", f"of={path}", "bs=4096", "count=1", "seek=16000", "oflag=direct"]
        return self.machine.run("dd", *words, check=False, timeout=LIMIT).code == 0

    def said_of(self, word: str) -> bool:
        return word in self.said()


@dataclass(frozen=True)
class Take:
    """One node took over from another."""

    former: Writer
    holder: Writer
    seconds: float
    found: dict[str, Any]

    def of(self, node: Writer) -> dict[str, Any]:
        """The node's area as the new holder read it first."""
        area: dict[str, Any] = self.found["disk"][node.number - 1]
        return area


@dataclass
class Disks:
    """`timing` of the package. Nodes run btw when they are told to."""

    lab: Lab
    timing: Timing
    nodes: list[Writer] = field(init=False)
    fenced: bool = field(init=False)
    lying: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.nodes = [Writer(machine) for machine in self.lab if machine.name not in (STORE, STORAGE)]
        self.set_up(fenced=False)
        for node in self.nodes:
            node.machine.run("sync", timeout=LIMIT)
        self.nodes[0].machine.run("btw", "init", timeout=LIMIT)

    @property
    def storage(self) -> Machine:
        return self.lab[STORAGE]

    def set_up(self, *, fenced: bool, lying: bool = False) -> None:
        """Nobody runs it, and nobody writes."""
        for node in self.nodes:
            if self.lying:  # nothing else is known to end what writes
                node.machine.power_off()
            self.mend(node)
            node.end()
        for node in self.nodes:
            node.set_up(self.lab, self.timing, fenced=fenced, lying=lying)
        self.fenced, self.lying = fenced, lying

    def areas(self) -> list[dict[str, Any]]:
        """What is on the disk, as its own machine reads it."""
        found: list[dict[str, Any]] = json.loads(
            self.storage.run(sys.executable, "-S", raw_disk.__file__, "read", "/srv/disk").out
        )
        return found

    def area(self, node: Writer) -> dict[str, Any]:
        return self.areas()[node.number - 1]

    def clear(self) -> None:
        """Nobody is registered."""
        self.nodes[0].machine.run("btw", "scsi-pr", "clear", "--force", PATHS[0], timeout=LIMIT)

    def mend(self, node: Writer) -> None:
        """Undo whatever was done to the machine."""
        with contextlib.suppress(LabError):  # it is off
            node.machine.resume()
        for wire in ("lan", "path1", "path2"):
            node.machine.join(wire)
        if not node.machine.control.is_open:
            node.machine.power_off()
            node.machine.start()
        until(node.ready, f"{node.name} is ready")

    def run(self, *nodes: Writer) -> Writer:
        """All of them run btw, the others do not. Returns the active one, which writes."""
        for node in self.nodes:
            self.mend(node)
            if node not in nodes:
                node.end()
        for node in nodes:
            with contextlib.suppress(MachineGone):
                node.begin()
        running: list[Writer] = []

        def runs() -> bool:
            running[:] = [node for node in nodes if node.said_of("running")]
            return bool(running)

        until(runs, "the package runs", 2 * LIMIT, PAUSE)
        (active,) = running
        number = self.area(active)["number"]
        until(lambda: bool(self.area(active)["number"] != number), f"{active.name} writes")
        for node in nodes:
            if node is not active:
                self.listens(node)
        return active

    def listens(self, node: Writer) -> None:
        """It knows the holder, and will take over from it."""
        until(lambda: "taken here when" in node.status(), f"{node.name} listens", pause=PAUSE)

    @contextlib.contextmanager
    def taken(self, former: Writer, others: list[Writer]) -> Iterator[list[Take]]:
        """Something happens to the former holder inside; afterwards another has the disk, and has read it."""
        before = {node.name: (node.found() or {"term": 0})["term"] for node in others}
        takes: list[Take] = []
        at = clock()
        yield takes

        def newer() -> Writer | None:
            for node in others:
                found = node.found()
                if found is not None and found["term"] > before[node.name]:
                    return node
            return None

        until(lambda: newer() is not None, "another node has the disk", self.timing.worst_failover() + LIMIT)
        holder = newer()
        assert holder is not None
        found = holder.found()
        assert found is not None
        takes.append(Take(former, holder, clock() - at, found))

    def judge(self, take: Take, what: str) -> None:
        """Since the new holder's first read nothing of any other node has reached the disk; its own writes do."""
        areas = self.areas()
        for node in self.nodes:
            if node is not take.holder:
                assert areas[node.number - 1] == take.of(node), f"{node.name} wrote after {take.holder.name} had read"
        assert not any(area["broken"] for area in areas)
        assert take.found["cached"] == take.found["disk"], "the cache of the new holder was not flushed"
        number = areas[take.holder.number - 1]["number"]
        until(lambda: bool(self.area(take.holder)["number"] > number), f"{take.holder.name} writes")
        print(f"\n{what}: read by {take.holder.name} {take.seconds:.2f} s after it, term {take.found['term']}")

    def told(self) -> str:
        """Everything, for a test that failed."""
        lines = []
        for node in self.nodes:
            with contextlib.suppress(LabError):
                lines += [f"{node.name} {json.dumps(event)}" for event in node.events()[-40:]]
        with contextlib.suppress(LabError, StopIteration):
            node = next(node for node in self.nodes if node.ready())
            lines.append(node.machine.run("btw", "scsi-pr", "show", PATHS[0], check=False).out)
        return "\n".join([*lines, *map(str, self.areas())])
