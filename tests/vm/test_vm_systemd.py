"""The unit file under a real systemd, in a booted machine: whatever is killed, frozen or upgraded, the package stays.

n3 has systemd and the package, n2 stands by. With -s it says what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from btw_core.timing import Timing, violations
from vm.lab import Lab, LabError, clock
from vm.machine import TESTS
from vm.nodes import LIMIT, PACKAGE, Cluster, Node, Pids, until

#: Generous, for package and watchdog have to outlast each replacement on a busy computer, where systemd and Python take
#: ten seconds for what takes four on a calm one.
TIMES = Timing(pace=1, timeout=60, start_timeout=5, stop_timeout=4, watchdog=30)
#: So that systemd finds it dead before the watchdog does.
WATCHED = "[Service]\nWatchdogSec=3\n"
UNIT = "/etc/systemd/system/btw.service"


@pytest.fixture(scope="module")
def machines() -> Iterator[Cluster]:
    """n3 starts it first, by systemd."""
    assert violations(TIMES) == []
    with Lab(machines=3, etcd=1) as lab:
        cluster = Cluster(lab, TIMES)
        n3 = lab["n3"]
        n3.power_off()
        n3.boot(init="systemd")
        n3.write(UNIT, Path(TESTS.parent, "packaging/systemd/btw.service").read_text())
        n3.write("/etc/btw/service.env", f'BTW="run {PACKAGE}"\n')
        n3.run("sh", "-c", "ln -sf $(command -v btw) /usr/bin/btw; modprobe softdog nowayout=0")
        n3.run("systemctl", "daemon-reload")
        n3.run("systemctl", "start", "btw", timeout=LIMIT)
        lab.referee.wait(PACKAGE, "n3")
        cluster.nodes[0].begin()
        cluster.heal()
        yield cluster


@pytest.fixture
def node(machines: Cluster, request: pytest.FixtureRequest) -> Iterator[Node]:
    """n3, with the package running; afterwards the very same process of the service is active, and nothing began
    elsewhere. A failed test shows all journals."""
    failed = request.session.testsfailed
    begin = clock()
    node = machines.heal()
    assert node.name == "n3"
    boot = node.machine.boot_id()
    lives = {each.life for each in machines.lab.referee.reports(PACKAGE, "n3")}
    yield node
    if request.session.testsfailed > failed:
        print(machines.told())
        print(node.machine.run("journalctl", "-u", "btw", "--no-pager", "-n", "60", check=False).out)
    assert machines.active() is node
    reports = [each for each in machines.lab.referee.reports(PACKAGE) if each.at > begin]
    assert {each.life for each in reports} == lives and {each.node for each in reports} == {"n3"}
    assert node.machine.boot_id() == boot


def unit(node: Node, name: str) -> str:
    """A property of the unit."""
    return node.machine.run("systemctl", "show", "btw", "--value", "-p", name, "--timestamp=unix").out.strip()


def until_replaced(node: Node, before: Pids, keeper: bool, manager: bool) -> float:
    """Waits until exactly what should be new is new, the package is seen running, and systemd content; when."""
    found: list[Pids | None] = []

    def look() -> bool:
        found[:] = [node.pids()]
        now = found[0]
        return now is not None and (now.keeper != before.keeper, now.manager != before.manager) == (keeper, manager)

    until(look, f"another {'keeper' * keeper} {'manager' * manager} than {before}")
    at = clock()
    until(lambda: node.said() == f"{PACKAGE} running", "the package is seen running")
    until(lambda: unit(node, "ActiveState") == "active", "systemd says active")
    now = found[0]
    assert now is not None and int(unit(node, "MainPID")) == now.keeper
    return at


def causes(node: Node, event: str, seen: int = 0) -> list[str]:
    """Of all events of that name in its journal, but the first `seen` of all."""
    return [each.get("cause", "") for each in node.events()[seen:] if each["event"] == event]


def test_active_when_the_manager_answers(node: Node) -> None:
    """`systemctl start` returned, and systemd said active, only after the manager had begun."""
    (began,) = [each for each in node.events() if each["event"] == "began"]
    at = datetime.fromisoformat(began["at"]).timestamp()
    active = float(unit(node, "ActiveEnterTimestamp").removeprefix("@"))
    assert int(at) <= active, "active before there was a manager that answers"
    assert int(unit(node, "MainPID")) == node.both().keeper
    assert unit(node, "StatusText") == f"{PACKAGE} running"


def test_the_keeper_killed(node: Node, strike: int) -> None:
    """systemd starts another one, which looks after the manager that lives."""
    before, restarts = node.both(), int(unit(node, "NRestarts"))
    at = clock()
    node.signal("KILL", before.keeper)
    print(f"\nkeeper killed: another one after {until_replaced(node, before, True, False) - at:.2f} s")
    assert int(unit(node, "NRestarts")) == restarts + 1


def test_the_manager_killed(node: Node, strike: int) -> None:
    """The keeper starts another one, which goes on with the package."""
    before, seen = node.both(), len(node.events())
    at = clock()
    node.signal("KILL", before.manager)
    print(f"\nmanager killed: another one after {until_replaced(node, before, False, True) - at:.2f} s")
    assert any("adopted" in cause for cause in causes(node, "transition", seen))


def test_the_manager_hangs(node: Node, strike: int) -> None:
    """Without a beat the keeper kills it, and starts another one before the lock is lost."""
    before, seen = node.both(), len(node.events())
    at = clock()
    node.signal("STOP", before.manager)
    print(f"\nmanager hangs: another one after {until_replaced(node, before, False, True) - at:.2f} s")
    assert any("no beat" in cause for cause in causes(node, "manager_killed", seen))


def test_the_keeper_hangs(node: Node, strike: int) -> None:
    """The manager ends it, systemd starts another one, and the watchdog does not fire meanwhile."""
    before = node.both()
    at = clock()
    node.signal("STOP", before.keeper)
    print(f"\nkeeper hangs: another one after {until_replaced(node, before, True, False) - at:.2f} s")


def test_an_upgrade_in_place(node: Node, strike: int) -> None:
    """`systemctl reload`: the same process is the new keeper, another manager adopts, nothing is started or stopped."""
    before, seen = node.both(), len(node.events())
    at = clock()
    node.machine.run("systemctl", "reload", "btw")
    print(f"\nupgrade: another manager after {until_replaced(node, before, False, True) - at:.2f} s")
    assert causes(node, "upgrade", seen)
    said = causes(node, "transition", seen)
    assert any("adopted" in cause for cause in said), said
    assert not {"starting", "halting", "failing"} & {each.get("state") for each in node.events()[seen:]}


def test_both_hang(node: Node, strike: int) -> None:
    """WatchdogSec: systemd ends the keeper; the next one ends the manager that hangs, and starts another one."""
    node.machine.write(f"{UNIT}.d/watched.conf", WATCHED)
    node.machine.run("systemctl", "daemon-reload")
    node.signal("KILL", node.both().keeper)  # what is watched is said when it is started
    until(lambda: node.pids() is not None and unit(node, "WatchdogUSec") == "3s", "watched more closely")
    until(lambda: unit(node, "ActiveState") == "active", "active")
    before = node.both()
    at = clock()
    node.signal("STOP", *before)
    print(f"\nboth hang: others after {until_replaced(node, before, True, True) - at:.2f} s")
    assert "Watchdog timeout" in node.machine.run("journalctl", "-u", "btw", "--no-pager").out


def test_stop(machines: Cluster) -> None:
    """`systemctl stop` halts the package in order, and returns when it is down; the other node takes it at once. The
    machine lives on: the watchdog is closed. Nothing of btw is left, and systemd does not start it again."""
    node = machines.heal()
    boot, seen = node.machine.boot_id(), len(node.events())
    at = clock()
    node.machine.run("systemctl", "stop", "btw", timeout=LIMIT)
    taken = clock() - at
    reports = machines.lab.referee.reports(PACKAGE, "n3")
    first = machines.lab.referee.wait(PACKAGE, "n2", after=at).at
    print(f"\nstopped in {taken:.2f} s; {first - reports[-1].at:.2f} s from the end of the service to its start at n2")
    assert first - reports[-1].at < TIMES.timeout, "not released, but run out"
    assert "halted" in {each.get("state") for each in node.events()[seen:]}
    assert unit(node, "ActiveState") == "inactive"
    with pytest.raises(LabError, match="exit 1"):
        node.machine.run("pgrep", "-f", "btw_core")
    until(lambda: clock() > at + TIMES.watchdog + 1, "the watchdog would have fired")
    assert node.machine.boot_id() == boot
    assert unit(node, "ActiveState") == "inactive"
    assert machines.lab.referee.overlaps(PACKAGE) == []
