"""Two machines that run btw with one package, a third that is their store, and the referee.

The store's machine is never struck, so that a take-over takes as long as btw makes it, and not an election.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from btw_core.journal import parse
from btw_core.timing import Timing
from vm.control import MachineGone
from vm.lab import Lab, LabError, Machine, clock
from vm.machine import TESTS

PACKAGE = "svc"
STORE = "n1"
#: Seconds for anything that has to happen: generous, for these computers are busy.
LIMIT = 180.0
#: Seconds that starting and being heard may take beyond the bounds of `timing`.
MARGIN = 3.0
#: Seconds after which a machine that said that it resets itself, and has not come back, hangs; how often to try again.
HUNG, TRIES = 45.0, 3
RESETTING = ("sysrq: Resetting", "softdog: Initiating system reboot", "SIGSEGV handler, aborting stack trace!")
#: A service is active now if the referee heard of it so many seconds ago.
NOW = 0.3
#: Directory in which whoever looks up a name hangs; where its server says that one does (fuse_hang.py); and the file
#: that makes the package's stop one of them. Who is killed while he hangs there is in state D, and the stop says so on
#: the console, which outlives the machine.
HANG, SAID, ARMED = "/mnt/hang", "/run/hang-said", "/run/stop-hangs"
IN_D = "the stop hangs in state D"
HANGING = (
    f"{{ cat {HANG}/file & until grep -q h {SAID}; do sleep 0.05; done; kill -9 $!; "
    "until read -r pid name state rest < /proc/$!/stat && test $state = D; do sleep 0.05; done; "
    f"echo '<3>{IN_D}' > /dev/kmsg; wait; }}"
)

PULSE = """
import json, sys
from pathlib import Path
from btw_core.clock import boot_id
from btw_core.pulse import Pulse, start_of
path = Path(sys.argv[1])
pulse = Pulse.open(path, boot_id()) if path.exists() else None
halves = [half for half in (pulse and pulse.manager(), pulse and pulse.keeper()) if half]
print(json.dumps([half._asdict() for half in halves if half.pid and start_of(half.pid) == half.start]))
"""


class Pids(NamedTuple):
    """Of a node's btw."""

    keeper: int
    manager: int


@dataclass
class Node:
    """A machine with btw and the package."""

    machine: Machine
    package: str = PACKAGE

    @property
    def name(self) -> str:
        return self.machine.name

    def write(self, lab: Lab, timing: Timing, self_fence: str) -> None:
        """Its btw.toml, and the package: what reports to the referee, and something whose stop may hang before it."""
        store = ",".join(endpoint.removeprefix("http://") for endpoint in lab.endpoints)
        watchdog = f'watchdog = "/dev/watchdog1"\nwatchdog_timeout = {timing.watchdog:g}\n'
        self.machine.write(
            "/etc/btw/btw.toml",
            f'cluster = "lab"\nnode = "{self.name}"\nlock = "etcd://{store}/btw"\nself_fence = "{self_fence}"\n'
            + (watchdog if self_fence == "watchdog" else ""),
        )
        words = json.dumps(lab.reporter(self.package))
        self.machine.write(
            f"/etc/btw/packages/{self.package}.toml",
            f"[package]\npace = {timing.pace:g}\ntimeout = {timing.timeout:g}\n"
            f"start_timeout = {timing.start_timeout:g}\nstop_timeout = {timing.stop_timeout:g}\n"
            f'[[resource]]\ntype = "service"\ncommand = {words}\n'
            '[[resource]]\nname = "hook"\ntype = "exec"\nstart = "touch /run/hook"\nstatus = "test -e /run/hook"\n'
            f'stop = "rm -f /run/hook; test ! -e {ARMED} || {HANGING}"\n',
        )

    def ready(self) -> bool:
        """It is on, and set up."""
        control = self.machine.control
        return control.is_open and bool(control.lives) and control.life.ready is not None

    # ---- btw
    def begin(self) -> None:
        """`btw run` in the background, unless it runs. Returns when it answers."""
        if self.pids() is None:
            # closed in order it lets the node live, unlike with this kernel's default
            self.machine.run("modprobe", "softdog", "nowayout=0")
            self.machine.run("btw", "run", "-d", self.package, timeout=LIMIT)

    def halves(self) -> list[dict[str, Any]]:
        """What lives of manager and keeper, in this order, as it is in the pulse."""
        found: list[dict[str, Any]] = json.loads(
            self.machine.python(PULSE, f"/run/btw/{self.name}/{self.package}.pulse", timeout=LIMIT)
        )
        return found

    def pids(self) -> Pids | None:
        """None: one of the two does not live."""
        halves = self.halves()
        return Pids(halves[1]["pid"], halves[0]["pid"]) if len(halves) == 2 else None

    def both(self) -> Pids:
        """As `pids`, when both have to live."""
        pids = self.pids()
        assert pids is not None, f"btw does not run on {self.name}"
        return pids

    def hard(self) -> float:
        """H of the package by the host's clock."""
        (_, hard) = self.halves()[0]["leases"][self.package]
        return float(hard) + self.machine.clock()[0]

    def signal(self, name: str, *pids: int) -> None:
        """All at once."""
        self.machine.run("kill", f"-{name}", *map(str, pids))

    def said(self) -> str:
        """Its package and the state of it, such as "svc running"; "" when no manager lives."""
        halves = self.halves()
        return str(halves[0]["said"]) if len(halves) == 2 else ""

    def status(self) -> str:
        """What `btw status` says, as JSON."""
        return self.machine.run("btw", "status", self.package, "--json", check=False, timeout=LIMIT).out

    def events(self) -> list[dict[str, Any]]:
        """Its journal, but for a line that a power cut has left half written."""
        try:
            text = self.machine.read(f"/var/lib/btw/{self.name}/journal.jsonl")
        except LabError:
            return []
        return [event for line in text.splitlines() if (event := parse(line.encode())) is not None]

    # ---- what hangs
    def arm(self) -> None:
        """From now on the package's stop hangs in state D before the service is stopped."""
        server = TESTS.parent / "btw_core/tests/fuse_hang.py"
        self.machine.run("modprobe", "fuse")
        self.machine.run("mkdir", "-p", HANG)
        self.machine.spawn("sh", "-c", f"sleep infinity | exec {sys.executable} {server} {HANG} > {SAID}")
        until(lambda: self.machine.run("cat", SAID, check=False).out == "m", "a file system that hangs")
        self.machine.write(ARMED, "")


@dataclass(frozen=True)
class Story:
    """What a fault led to. Instants by the host's clock."""

    node: Node  # that was struck
    other: Node  # that took over
    at: float  # when it was struck
    last: float  # the last that was heard of the service there before it was active at the other
    first: float  # the first that was heard of it at the other
    boot: str  # of the struck machine, when it was struck


class Cluster:
    """n2 and n3 with btw and the package; n1 is the store."""

    def __init__(self, lab: Lab, timing: Timing, self_fence: str = "watchdog") -> None:
        self.lab, self.timing = lab, timing
        self._settled = ""  # the reporter that the last story ended with
        self.nodes = [Node(machine) for machine in lab if machine.name != STORE]
        for node in self.nodes:
            node.write(lab, timing, self_fence)
            # what was written when it was booted for the first time, such as its machine id, outlives a reset only then
            node.machine.run("sync", timeout=LIMIT)
        self.nodes[0].machine.run("btw", "init", timeout=LIMIT)

    def configure(self, timing: Timing, self_fence: str) -> None:
        """Other settings on both nodes. The package is halted, and its stop does not hang."""
        self.heal()
        self.timing, self._settled = timing, ""
        for node in self.nodes:
            node.machine.run("rm", "-f", ARMED)
            node.machine.run("btw", "stop", PACKAGE, timeout=LIMIT)
        for node in self.nodes:
            until(lambda node=node: not node.halves(), f"btw has ended on {node.name}")  # type: ignore[misc]
            node.write(self.lab, timing, self_fence)

    @property
    def bound(self) -> float:
        """Seconds from a fault until the service is heard of elsewhere."""
        return self.timing.worst_failover() + MARGIN

    def active(self) -> Node:
        """Where the service is active now. AssertionError when that is not exactly one node."""
        time.sleep(NOW)
        names = {each.node for each in self.lab.referee.reports(PACKAGE) if each.at > clock() - NOW}
        assert len(names) == 1, f"active at {sorted(names) or 'no node'}"
        return next(node for node in self.nodes if node.name in names)

    def other(self, node: Node) -> Node:
        return next(each for each in self.nodes if each is not node)

    def heal(self) -> Node:
        """Undo every fault; wait until the package runs and the other node knows. Returns where it is active, which is
        where the last story ended: a node that comes back moves nothing."""
        for node in self.nodes:
            try:
                self._mend(node)
            except MachineGone:  # it stood still, and was reset by its watchdog when it went on; that happens once
                self._mend(node)
        self.lab.referee.wait(PACKAGE, after=clock(), timeout=self.bound + LIMIT)
        node = self.active()
        until(lambda: node.said() == f"{PACKAGE} running", f"{node.name} runs the package")
        other = self.other(node)
        until(lambda: "taken here when nothing is heard" in other.status(), f"{other.name} listens to {node.name}")
        life = self.lab.referee.reports(PACKAGE)[-1].life
        assert self._settled in ("", life), f"the service moved, or was started again: {self._settled}, now {life}"
        return node

    def _mend(self, node: Node) -> None:
        with contextlib.suppress(LabError):  # it is off
            node.machine.resume()
        node.machine.join()
        if not node.machine.control.is_open:
            node.machine.power_off()
            node.machine.start()
        until(node.ready, f"{node.name} is ready")
        node.begin()

    def strike(self, fault: Callable[[Node], float | None]) -> Story:
        """Let it happen to the node that is active, and wait for the other. `fault` may say when it happened."""
        node = self.heal()
        self._settled = ""
        other, boot, at = self.other(node), node.machine.boot_id(), clock()
        at = fault(node) or at
        first = self.lab.referee.wait(PACKAGE, other.name, after=at, timeout=self.bound + LIMIT).at
        last = max(each.at for each in self.lab.referee.reports(PACKAGE, node.name) if each.at < first)
        return Story(node, other, at, last, first, boot)

    def reset(
        self, fault: Callable[[Node], float | None], then: Callable[[Story], None] = lambda _: None
    ) -> tuple[Story, float]:
        """`strike`, `then`, and when the struck machine's kernel began its new life. Where it hangs in its reset, what
        has happened is judged, the machine is switched off and on, and the fault strikes once more."""
        for _ in range(TRIES):
            story = self.strike(fault)
            then(story)
            try:
                return story, rebooted(story)
            except HungReset:
                self.judge(story)
                print(f"\n{story.node.name} hangs in its reset: switched off and on, and struck again")
                story.node.machine.power_off()
                story.node.machine.start()
        raise LabError(f"{TRIES} machines in a row hung in their reset")

    def heard(self, story: Story) -> list[float]:
        """When the service was active at the struck node after it was at the other, in the life that was struck."""
        reports = self.lab.referee.reports(PACKAGE, story.node.name)
        return [each.at for each in reports if each.life.startswith(story.boot) and each.at >= story.first]

    def judge(self, story: Story) -> None:
        """Never two; in time; and the other's machine and service are the same ones all the time since."""
        assert self.lab.referee.overlaps(PACKAGE) == []
        assert story.first - story.at < self.bound
        lives = {each.life for each in self.lab.referee.reports(PACKAGE, story.other.name) if each.at >= story.first}
        assert len(lives) == 1, f"more than one start: {lives}"
        (self._settled,) = lives
        assert self.active() is story.other

    def told(self) -> str:
        """Everything, for a test that failed."""
        lines = []
        for node in self.nodes:
            with contextlib.suppress(LabError):
                lines += [f"{node.name} {json.dumps(event)}" for event in node.events()[-40:]]
            lines.append(f"---- console of {node.name}:\n{node.machine.console()[-1500:]}")
        return "\n".join([*lines, *map(str, self.lab.referee.overlaps(PACKAGE))])


class HungReset(Exception):
    """The kernel said that it resets the machine, and its process spins ever since: a defect of User Mode Linux that
    comes about once in fifty resets. Nothing of the machine's life is left in it."""


def rebooted(story: Story) -> float:
    """When the struck machine's kernel began its new life. Waits for it. Raises HungReset."""
    machine = story.node.machine
    hung = clock() + HUNG

    def again() -> bool:
        if machine.boot_id() != story.boot:
            return story.node.ready()
        if clock() > hung and machine.console().rstrip().endswith(RESETTING):
            raise HungReset
        return False

    until(again, "ready after a reboot")
    return machine.clock()[0]


def until(condition: Callable[[], bool], what: str, limit: float = LIMIT, pause: float = 0.1) -> None:
    end = clock() + limit
    while not condition():
        assert clock() < end, f"not within {limit:g} s: {what}"
        time.sleep(pause)
