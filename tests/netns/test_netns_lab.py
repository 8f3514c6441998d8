"""The laboratory and the referee themselves: what they promise the other tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import holder
from .lab import Host, Lab, freeze_tree, kill_tree, resume_tree, until
from .referee import SERVICE, Referee

MACHINE = "from btw_core import containment, clock; print(containment.machine_id(), clock.boot_id())"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def reaches(one: Host, address: str) -> bool:
    """Nobody listens there: a refusal is an answer."""
    program = "import socket, sys; sys.exit(socket.socket(int(sys.argv[2])).connect_ex((sys.argv[1], 9)) != 111)"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    words = ("timeout", "1", sys.executable, "-IS", "-c", program, address, str(int(family)))
    return one.run(*words, check=False).returncode == 0


def test_cut_and_parted_hosts_do_not_reach_each_other(lab: Lab) -> None:
    """A cut host reaches nobody, parted ones only not each other, by IPv4 and IPv6; afterwards all is as before."""
    a, b, c = (lab.host(name, number) for number, name in enumerate("abc", 21))
    for address in (b.v4, b.v6, c.v4, lab.hub.v4):
        assert reaches(a, address)
    lab.part(a, b)
    assert not reaches(a, b.v4) and not reaches(b, a.v4) and not reaches(a, b.v6) and not reaches(b, a.v6)
    assert reaches(a, c.v4) and reaches(b, c.v6)
    lab.mend(a, b)
    assert reaches(a, b.v4) and reaches(b, a.v6)
    lab.cut(a)
    assert not reaches(a, b.v4) and not reaches(c, a.v4) and reaches(b, c.v4)
    lab.join(a)
    until(lambda: reaches(a, b.v4) and reaches(c, a.v6), "joined again")


def test_each_host_is_a_computer_of_its_own_to_btw(lab: Lab) -> None:
    """Machine and boot id differ between hosts and from this computer's; a crash changes the boot id only."""
    a, b = lab.host("a", 21), lab.host("b", 22)

    def identity(host: Host) -> list[str]:
        return host.run(sys.executable, "-c", MACHINE).stdout.split()

    here = subprocess.run([sys.executable, "-c", MACHINE], capture_output=True, text=True, check=True).stdout.split()
    first = [identity(a), identity(b), here]
    assert len({machine for machine, _ in first}) == len({boot for _, boot in first}) == 3
    a.crash(reboot=False)
    assert identity(a) == first[0]
    a.crash()
    assert identity(a)[0] == first[0][0] and identity(a)[1] != first[0][1]
    assert "eth0" in a.run("ls", "/sys/class/net").stdout.split()
    cgroups = Path("/sys/fs/cgroup")
    assert a.run("ls", str(cgroups)).stdout.split() == sorted(path.name for path in cgroups.iterdir())


def test_nothing_of_a_lab_is_left_after_a_failure(tmp_path: Path) -> None:
    """Processes that ignore signals, are frozen or have left their session end with the lab, and so do its files."""
    with pytest.raises(KeyboardInterrupt), Lab() as lab:
        a = lab.host("a", 21)
        directory = lab.directory
        process = a.start("sh", "-c", "trap '' TERM INT; setsid sleep 1000 & sleep 1000", log=tmp_path / "log")
        until(lambda: len(a.processes()) == 3, "all are running")
        pids = a.processes()
        a.freeze()
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL
    assert [pid for pid in pids if holder.network(pid) is not None] == []
    assert not directory.exists()


def test_a_lab_ends_with_the_process_that_made_it(tmp_path: Path) -> None:
    """Tests that are killed leave no process behind: the holders see the end of their pipe."""
    program = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from netns.lab import Lab
with Lab(keep=True) as lab:
    a = lab.host("a", 21)
    sleep = a.start("sleep", "1000", log=Path(sys.argv[2]))
    print(a.pid, sleep.pid, flush=True)
    print(lab.directory, flush=True)
    time.sleep(1000)
"""
    words = [sys.executable, "-c", program, str(Path(__file__).parent.parent), str(tmp_path / "log")]
    maker = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    try:
        pids = [int(word) for word in maker.stdout.readline().split()]
        left = Path(maker.stdout.readline().strip())
        alive = [holder.network(pid) is not None for pid in pids]
    finally:
        maker.kill()
        maker.communicate()
    shutil.rmtree(left)
    assert alive == [True, True]
    until(lambda: all(holder.network(pid) is None for pid in pids), "holder and sleep end")


def test_a_tree_is_frozen_resumed_and_killed_as_a_whole(lab: Lab, tmp_path: Path) -> None:
    """Also what was forked by children."""
    a = lab.host("a", 21)
    process = a.start("sh", "-c", "sh -c 'sleep 1000 & wait' & wait", log=tmp_path / "log")
    until(lambda: len(a.processes()) == 3, "all are running")
    pids = a.processes()

    def states() -> set[str]:
        return {Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids}

    freeze_tree(process.pid)
    assert states() == {"T"}
    resume_tree(process.pid)
    until(lambda: states() == {"S"}, "resumed")
    kill_tree(process.pid)
    until(lambda: a.processes() == [], "killed")


# ---- the referee ------------------------------------------------------------------------------------------------
@pytest.fixture
def referee(lab: Lab) -> Iterator[Referee]:
    with Referee(lab.directory / "referee") as referee:
        yield referee


def serve(host: Host, referee: Referee, *before: str) -> subprocess.Popen[bytes]:
    environment = {"BTW_PACKAGE": "web", "BTW_NODE": host.name}
    return host.start(*before, *SERVICE, str(referee.path), log=host.directory / "log", env=environment)


def test_two_services_at_once_are_a_violation(lab: Lab, referee: Referee) -> None:
    """The referee bites: one after the other is fine, two at once is not, whether on two hosts or on one."""
    a, b = lab.host("a", 21), lab.host("b", 22)
    for host in (a, b, a):
        process = serve(host, referee)
        span = referee.wait_active("web", limit=60)
        assert (span.node, span.pid, referee.violations) == (host.name, process.pid, [])
        process.terminate()
        assert referee.wait_stopped(span, limit=60) >= span.start
    for number, host in enumerate((a, b, b)):
        serve(host, referee)
        referee.wait_active("web", after=3 + number, limit=60)
    assert len(referee.violations) == 1 + 2
    assert "web on b" in referee.violations[0] and "during web on a" in referee.violations[0]


def test_frozen_and_forked_services_are_still_active(lab: Lab, referee: Referee) -> None:
    """Only what cannot run any more has stopped: a frozen process has not, nor has one whose child lives on."""
    a, b = lab.host("a", 21), lab.host("b", 22)
    process = serve(a, referee)
    span = referee.wait_active("web", limit=60)
    os.kill(process.pid, signal.SIGSTOP)
    serve(b, referee)
    second = referee.wait_active("web", after=1, limit=60)
    assert span.stop is None and len(referee.violations) == 1
    process.kill()
    referee.wait_stopped(span, limit=60)
    b.crash()
    referee.wait_stopped(second, limit=60)

    fork = "import os, sys, socket; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.send(b'web a\\n')\n"
    fork += "s.recv(9)\nif os.fork(): sys.exit()\nos.setsid(); import signal; signal.pause()"
    parent = a.start(sys.executable, "-c", fork, str(referee.path), log=a.directory / "log")
    third = referee.wait_active("web", after=2, limit=60)
    assert parent.wait(60) == 0
    assert third.pid == parent.pid and referee.active("web") == [third]
    a.crash()
    referee.wait_stopped(third, limit=60)


def test_a_successor_of_a_service_just_killed_is_no_violation(lab: Lab, referee: Referee) -> None:
    """The end of the former one is seen before the next is told to begin, however close they are."""
    a, b = lab.host("a", 21), lab.host("b", 22)
    current = serve(a, referee)
    for number, host in enumerate((b, a, b, a, b)):
        referee.wait_active("web", after=number, limit=60)
        current.kill()
        current.wait(60)
        current = serve(host, referee)
    referee.wait_active("web", after=5, limit=60)
    assert referee.violations == [] and len(referee.spans("web")) == 6
