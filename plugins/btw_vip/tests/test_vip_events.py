"""What the observer sees: one dump, then events; who else claims an address; announcements through the herald."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from vip_lan import GENEROUS, Computer, lan
from vip_steps import STATE, V4, V6, Observed, announce, eth0, ip, perform, start, stop, vip

from btw_core.testing import FakeContext
from btw_core.types import Verb
from btw_vip import monitor, packets
from btw_vip.herald import STALE
from btw_vip.kernel import Kernel
from btw_vip.monitor import Monitor
from btw_vip.voice import Voices, tell

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
Lan = dict[str, Computer]


@pytest.fixture
def net() -> Iterator[Lan]:
    with lan("a", "b") as computers:
        for number, name in enumerate("ab", 1):
            computers[name].ip("address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            computers[name].ip("address", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")
        yield computers


def begun(node: Computer, text: str, **more: Any) -> STATE:
    outcome = start(node, vip(text, **more))
    assert outcome.status == "up", outcome.error
    return outcome.state


@pytest.mark.parametrize("text", [V4, V6])
def test_deleted(net: Lan, text: str) -> None:
    """The deletion of the address is told at once, and so is its return; another address's is not."""

    def within(state: STATE) -> None:
        observed = Observed(vip(text), state)
        assert observed.status() == "up"
        ip("address", "add", "10.77.0.7/24", "dev", "eth0")
        ip("address", "del", "10.77.0.7/24", "dev", "eth0")
        assert not observed.fired(0.3)
        ip("address", "del", text, "dev", "eth0")
        assert observed.news() == "down"
        assert any("is not on eth0 any more" in line for line in observed.lines)
        perform(Verb.HEAL, vip(text), state)
        assert observed.news() == "up"

    net["a"].call(within, begun(net["a"], text))


def test_between_status_and_watch(net: Lan) -> None:
    """What changes after `status` and before the descriptor is armed anew is told by the new one."""

    def within(state: STATE) -> None:
        observed = Observed(vip(V4), state)
        ip("link", "set", "eth0", "down")
        assert observed.fired()
        observed.status()
        ip("link", "set", "eth0", "up")
        time.sleep(0.3)  # the event comes while nobody listens
        observed.arm()
        assert observed.fired()

    net["a"].call(within, begun(net["a"], V4))


def test_deleted_before_the_watch(net: Lan) -> None:
    """A watch that begins when the address has gone already fires at once."""

    def within(state: STATE) -> None:
        ip("address", "del", V4, "dev", "eth0")
        assert Observed(vip(V4), state).news() == "down"

    net["a"].call(within, begun(net["a"], V4))


@pytest.mark.parametrize(("on_carrier_loss", "answer"), [("move", "down"), ("degraded", "degraded")])
def test_carrier(net: Lan, on_carrier_loss: Any, answer: str) -> None:
    """Carrier loss is told at once. `move`: down, so that the heal, which refuses, makes the package move; but only
    while it is watched: afterwards an address that is there is never called down."""
    resource = vip(V4, on_carrier_loss=on_carrier_loss)

    def within(state: STATE, switch: str) -> None:
        observed = Observed(resource, state)
        assert observed.status() == "up"
        subprocess.run(["ip", "-n", switch, "link", "set", "to-a", "down"], check=True)
        assert observed.news() == answer
        assert "no carrier" in perform(Verb.HEAL, resource, state).error
        assert not observed.fired(0.3)  # nothing new: no endless circle
        subprocess.run(["ip", "-n", switch, "link", "set", "to-a", "up"], check=True)
        assert observed.news() == "up"
        subprocess.run(["ip", "-n", switch, "link", "set", "to-a", "down"], check=True)
        assert observed.fired()
        observed.unwatch()
        assert observed.status() == "degraded"

    net["a"].call(within, begun(net["a"], V4, on_carrier_loss=on_carrier_loss), net["switch"].name)


def test_link_down_takes_ipv6_away(net: Lan) -> None:
    """The kernel removes IPv6 addresses of an interface that is set down. With on_carrier_loss = degraded that is
    degraded, and down (to be healed) once the interface is up again."""
    resource = vip(V6, on_carrier_loss="degraded")

    def within(state: STATE) -> None:
        observed = Observed(resource, state)
        ip("link", "set", "eth0", "down")
        status = ""
        while not any("has no carrier, and has lost the address" in line for line in observed.lines):
            status = observed.news()  # the link's comes before the address's, perhaps
        assert status == "degraded"
        ip("link", "set", "eth0", "up")
        while observed.status() != "down":
            observed.fired(0.2)
            observed.arm()

    net["a"].call(within, begun(net["a"], V6, on_carrier_loss="degraded"))


def test_interface_deleted(net: Lan) -> None:
    """Critical when no interface can carry it: as long as it is watched; down once it is not, as after a stop."""
    resource = vip(V4, interface="eth0")

    def within(state: STATE) -> None:
        observed = Observed(resource, state)
        ip("link", "del", "eth0")
        while (answer := observed.news()) != "critical":
            assert answer == "down"  # the addresses go before the link
        assert any("no interface of this node can carry it" in line for line in observed.lines)
        observed.unwatch()
        assert observed.status() == "down"

    net["a"].call(within, begun(net["a"], V4, interface="eth0"))


def test_150_addresses(net: Lan) -> None:
    """However many there are: everything is read from the kernel once, and a change is told to the one it concerns."""

    def within() -> tuple[int, float]:
        kernel, link = Kernel(), eth0()
        resources = [vip(f"10.77.1.{number}/16") for number in range(1, 151)]
        for each in resources:
            kernel.add(link, each.address, label="", scope="global", route=False, source=False, detect=False)
        watched = [Observed(each, {"interface": "eth0"}, f"package{each.address}") for each in resources]
        reads = FakeContext(None).shared(Monitor).reads
        begun = time.perf_counter()
        for _ in range(10):
            assert {each.status() for each in watched} == {"up"}
        spent = (time.perf_counter() - begun) / 1500
        assert FakeContext(None).shared(Monitor).reads == reads
        ip("address", "del", str(resources[7].address), "dev", "eth0")
        assert watched[7].news() == "down"
        assert [each.package for each in watched if each.fired(0)] == []
        return reads, spent

    reads, spent = net["a"].call(within)
    assert reads == 1
    print(f"one status: {1000 * spent:.3f} ms")
    assert spent < 0.02  # generous; a dump of 150 addresses alone takes 5 ms, and then there would be 1500 of them


def test_lost_events(net: Lan) -> None:
    """When the kernel drops events (ENOBUFS) everything is read anew and everybody is told to look."""

    def within(state: STATE) -> int:
        monitor._ROOM = 2048
        observed = Observed(vip(V4), state)
        kept = FakeContext(None).shared(Monitor)
        with kept._lock:  # the thread cannot follow
            for number in range(2, 200):
                for verb in ("add", "del"):
                    ip("address", verb, f"10.77.2.{number}/16", "dev", "eth0")
            ip("address", "del", V4, "dev", "eth0")
        assert observed.news() == "down"
        return kept.reads

    assert net["a"].call(within, begun(net["a"], V4)) >= 2


def test_another_claims_it(net: Lan) -> None:
    """Somebody else's announcement is told at once and journalled with its MAC address; our own is not."""

    def within(states: list[STATE], other: Computer) -> list[str]:
        four, six = (Observed(vip(text), state, text) for text, state in zip((V4, V6), states, strict=True))
        time.sleep(0.2)  # its sockets are opened by its thread
        announce(V4, V6)
        assert not four.fired(0.3) and not six.fired(0)
        other.call(announce, V4, V6)
        assert four.news() == "up" and six.news() == "up"
        return four.lines + six.lines

    lines = net["a"].call(within, [begun(net["a"], text) for text in (V4, V6)], net["b"])
    assert len(lines) == 2
    assert all(f"{net['b'].mac} on eth0 claims it as well" in line for line in lines)


def heard(ears: socket.socket, seconds: float) -> list[packets.Claim]:
    """Claims of the addresses of these tests."""
    found, end = [], time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([ears], [], [], left)[0] and (claim := packets.claim(ears.recv(2048))):
            found.append(claim)
    return [each for each in found if f"{each.ip}" in (V4.split("/")[0], V6.split("/")[0])]


@pytest.mark.parametrize("text", [V4, V6])
def test_the_herald_speaks(net: Lan, text: str) -> None:
    """With a steady manager the herald announces when it is due; after a gap longer than `timeout` it is silent."""
    resource = vip(text, refresh=10.0)

    def within(state: STATE, switch: Computer) -> tuple[int, int, int]:
        observed = Observed(resource, state)
        voice = FakeContext(None).shared(Voices).of(("test", "resource"), state["since"])

        def ask(since_last: float) -> int:
            voice.pulse._last -= since_last  # time passes
            voice._spoken -= since_last
            observed.status()
            return len(heard(ears, 0.4))

        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ears:
            ears.bind(("eth0", 3))
            quiet = ask(1.0)
            loud = ask(10.0)
            frozen = ask(31.0)
        return quiet, loud, frozen

    quiet, loud, frozen = net["a"].call(within, begun(net["a"], text), net["switch"])
    assert (quiet, frozen) == (0, 0)
    assert loud == (2 if text == V4 else 1)


def test_a_thread_that_ends(net: Lan) -> None:
    """Should the thread end by an error, everybody is told to look, asks the kernel, and with the next watch it runs
    again."""

    def within(state: STATE) -> None:
        observed = Observed(vip(V4), state)
        kept: Any = FakeContext(None).shared(Monitor)
        kept._apply = lambda message: 1 / 0
        ip("address", "del", V4, "dev", "eth0")
        assert observed.fired()
        while kept._events is not None:
            time.sleep(0.01)
        del kept._apply
        assert observed.news() == "down"
        ip("address", "add", V4, "dev", "eth0")
        assert observed.news() == "up"

    net["a"].call(within, begun(net["a"], V4))


def test_a_frozen_herald(net: Lan) -> None:
    """What it was told while it was frozen it does not say when it wakes; stop ends it frozen or not."""
    state = begun(net["a"], V4)
    pid = state["herald"]["pid"]

    def within() -> tuple[int, int]:
        link, address = eth0(), ip_address(V4.split("/")[0])
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ears:
            ears.bind(("eth0", 3))
            assert tell(state["herald"]["name"], link, address, 1)
            awake = len(heard(ears, 0.5))
            os.kill(pid, signal.SIGSTOP)
            assert tell(state["herald"]["name"], link, address, 1)
            time.sleep(STALE + 0.1)
            os.kill(pid, signal.SIGCONT)
            woken = len(heard(ears, 0.5))
            os.kill(pid, signal.SIGSTOP)
        return awake, woken

    assert net["a"].call(within) == (2, 0)
    assert stop(net["a"], vip(V4), state).status == "down"
    assert net["a"].processes() == []


def test_no_herald(net: Lan) -> None:
    """A herald that somebody killed is missed once an announcement is due, and that is said."""
    state = begun(net["a"], V4, refresh=0.1)

    def within() -> list[str]:
        observed = Observed(vip(V4, refresh=0.1), state)
        os.kill(state["herald"]["pid"], 9)
        end = time.monotonic() + GENEROUS
        while not observed.lines:
            assert time.monotonic() < end
            assert observed.status() == "up"
            time.sleep(0.05)
        return observed.lines

    assert any("the herald has ended" in line for line in net["a"].call(within))
