"""Heralds that are forks of others: one for each address, in the place of its own operation, sharing their memory."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from vip_lan import GENEROUS, Computer, lan
from vip_steps import V4, eth0

from btw_core.containment import Cgroups, find_cgroup_root
from btw_core.testing import FakeContext
from btw_core.types import Verb
from btw_vip import heralds, packets
from btw_vip.voice import tell

ADDRESS = ip_address(V4.split("/")[0])
ROOT = find_cgroup_root(f"heralds-{os.getpid()}")
if ROOT is not None:
    Path(ROOT).rmdir()
pytestmark = pytest.mark.skipif(ROOT is None or os.geteuid() != 0, reason="needs root, and cgroup v2 to write to")


@pytest.fixture
def node() -> Iterator[Computer]:
    with lan("a") as net:
        yield net["a"]


@pytest.fixture
def places() -> Iterator[Cgroups]:
    here = Cgroups(Path(str(ROOT)))
    yield here
    for package in ("p", "q"):
        place = here.place(package, "op")
        here.kill(place)
        soon(lambda place=place: here.empty(place))  # type: ignore[misc]
        here.remove(place)
    here.remove(str(ROOT))


def soon(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + GENEROUS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def leave(here: Cgroups, package: str) -> dict[str, Any]:
    """As an operation of that package does; then wait until it listens (a start does not)."""
    place = here.place(package, "op")
    here.create(place)
    here.enter(place)
    ctx = FakeContext(Verb.START, package=package, operation="op")
    heralds.leave(ctx, "eth0")
    herald: dict[str, Any] = ctx.state["herald"]
    soon(lambda: herald["name"] in heralds.there())
    return herald


def heard(name: str) -> int:
    """How many frames are sent when that herald is told to."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ears:
        ears.bind(("eth0", 3))
        ears.settimeout(0.5)
        assert tell(name, eth0(), ADDRESS, 1)
        found = 0
        while True:
            try:
                claim = packets.claim(ears.recv(2048))
                found += claim is not None and claim.ip == ADDRESS
            except TimeoutError:
                return found


def own_memory(pid: int) -> int:
    """KB that are nobody else's."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_a_twin(node: Computer, places: Cgroups) -> None:
    """The second is a fork of the first, in its own place; the first one's end is not its own."""
    first = node.call(leave, places, "p")
    alone = own_memory(first["pid"])
    second = node.call(leave, places, "q")
    members = {package: list(places.own(package).values()) for package in ("p", "q")}
    assert members == {"p": [[first["pid"]]], "q": [[second["pid"]]]}
    assert first["name"] != second["name"]
    assert os.getsid(second["pid"]) == second["pid"]
    assert own_memory(second["pid"]) < alone / 2
    assert [node.call(heard, each["name"]) for each in (first, second)] == [2, 2]
    places.kill(places.place("p", "op"))
    soon(lambda: node.processes() == [second["pid"]])
    assert node.call(heard, second["name"]) == 2


def test_nobody_listens(node: Computer, places: Cgroups) -> None:
    """A frozen herald forks none, neither at once nor when it wakes: there is another program then."""
    first = node.call(leave, places, "p")
    os.kill(first["pid"], signal.SIGSTOP)
    second = node.call(leave, places, "q")
    assert second["pid"] in node.processes()
    os.kill(first["pid"], signal.SIGCONT)
    assert node.call(heard, first["name"]) == 2  # it has read all that it was asked before
    assert sorted(node.processes()) == sorted([first["pid"], second["pid"]])


def test_only_its_own_user(node: Computer, places: Cgroups) -> None:
    """Nobody else makes it fork."""
    first = node.call(leave, places, "p")
    node.call(as_nobody, first["name"], places.place("p", "op"))
    assert node.call(heard, first["name"]) == 2
    assert node.processes() == [first["pid"]]


def as_nobody(name: str, place: str) -> None:
    from btw_core.clock import boottime
    from btw_vip import herald

    asked = herald.request(boottime(), "another", "eth0", place)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mouth:
        os.setresuid(65534, 65534, 65534)
        mouth.bind("")
        mouth.sendto(asked, f"\0{name}")
