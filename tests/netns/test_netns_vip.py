"""Virtual addresses for real: a client that pings every millisecond and keeps connections, and a lookout on the bridge
that sees who answers for each address at every moment. Never do two, whatever fails."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from btw_core.clock import boottime

from .cluster import Node
from .conftest import Measured
from .lab import ETHERNET, freeze, send, until
from .vips import V4, V6, VIPS, Field, field


@pytest.fixture(scope="module")
def shared_field() -> Iterator[Field]:
    with field() as made:
        yield made


@pytest.fixture
def ground(shared_field: Field) -> Iterator[Field]:
    """Healed before; afterwards nobody has seen two hosts answer at any moment of the test."""
    shared_field.heal()
    begun = boottime()
    yield shared_field
    assert [shared_field.two(ip, begun) for ip in VIPS] == [0, 0], shared_field.told()


def holder(ground: Field) -> tuple[Node, Node]:
    """Who has the addresses, and who stands by."""
    span = ground.cluster.active()
    return ground.cluster.node(span), ground.cluster.others(span)[0]


def outages(ground: Field, since: float) -> str:
    return ", ".join(f"{1000 * ground.outage(ip, since):.0f} ms" for ip in VIPS)


def unmoved(ground: Field, since: float) -> None:
    """Nobody but the holder has answered, and no connection has ended."""
    name = holder(ground)[0].name
    for ip in VIPS:
        assert {host for held in ground.history(ip) if held.since > since for host in held.hosts} <= {name}
        assert ground.ended(ip, since) == []


@pytest.mark.parametrize("ip", VIPS)
def test_the_lookout_sees_two(shared_field: Field, ip: str) -> None:
    """The control of all the others: an address that another host has as well, for 50 ms, is seen, and for how long."""
    field = shared_field
    field.heal()
    begun = boottime()
    _, other = holder(field)
    options = ["nodad"] if ip == V6 else []
    address = f"{ip}/{64 if ip == V6 else 24}"
    other.host.run("ip", "address", "add", address, "dev", ETHERNET, *options)
    added = boottime()
    time.sleep(0.05)
    deleted = boottime()
    other.host.run("ip", "address", "del", address, "dev", ETHERNET)
    gone = boottime()
    field.alone(holder(field)[0].name)
    assert deleted - added - 0.02 < field.two(ip, begun) < gone - begun + 0.02


def test_a_planned_move(ground: Field, measured: Measured) -> None:
    """`btw stop` on one node: the other has both addresses, and clients find it there."""
    node, other = holder(ground)
    begun = boottime()
    node.btw("stop", "web")
    ground.alone(other.name)
    measured(f"longest gaps {outages(ground, begun)}")
    for ip in VIPS:
        assert ground.ended(ip, begun) != []  # a new holder knows nothing of connections


def test_stopped_everywhere(ground: Field) -> None:
    """Then nobody answers; and what is started again is found by the same client."""
    for node in ground.cluster.nodes:
        node.halt()
    until(lambda: all(ground.answering(ip) == frozenset() for ip in VIPS), "nobody has the addresses")
    ground.heal()


def test_a_killed_manager(ground: Field, measured: Measured) -> None:
    """Another one of the node adopts: the address stays, and so do connections."""
    node, _ = holder(ground)
    span, begun = ground.cluster.active(), boottime()
    manager = node.manager
    send(manager, signal.SIGKILL)
    until(lambda: node.manager not in (0, manager), "another manager")
    ground.cluster.wait_renewals(span)
    ground.cluster.stays(span)
    unmoved(ground, begun)
    ground.reached(boottime())
    measured(f"longest gaps {outages(ground, begun)}")


def test_a_frozen_manager(ground: Field) -> None:
    """Its keeper kills it, and another one adopts."""
    node, _ = holder(ground)
    span, begun = ground.cluster.active(), boottime()
    manager = node.manager
    freeze(lambda: [manager] if node.manager == manager else [])
    until(lambda: node.manager not in (0, manager), "another manager")
    ground.cluster.wait_renewals(span)
    ground.cluster.stays(span)
    unmoved(ground, begun)


def test_a_dead_node(ground: Field, measured: Measured) -> None:
    """Its power is cut: the other has the addresses after the lease."""
    node, other = holder(ground)
    begun = boottime()
    ground.blackout(node.host)
    ground.alone(other.name)
    measured(f"longest gaps {outages(ground, begun)}; the lease is {ground.cluster.timing.lease:.1f} s")


def test_a_node_without_its_cable(ground: Field, measured: Measured) -> None:
    """It gives the addresses up by itself, and does not answer for them when the cable is back."""
    node, other = holder(ground)
    begun = boottime()
    ground.lab.cut(node.host)
    ground.alone(other.name)
    ground.lab.join(node.host)
    ground.reached(boottime())
    measured(f"longest gaps {outages(ground, begun)}")


def test_a_silent_node(ground: Field, measured: Measured) -> None:
    """It reaches its clients, but neither the store nor the other node: it has stopped before the other one starts."""
    node, other = holder(ground)
    begun = boottime()
    for host in (*(member.host for member in ground.cluster.etcd.members), other.host):
        ground.lab.part(node.host, host)
    ground.alone(other.name)
    measured(f"longest gaps {outages(ground, begun)}")


def test_a_deleted_address(ground: Field, measured: Measured) -> None:
    """Put back by the same node; connections go on."""
    node, _ = holder(ground)
    span, begun = ground.cluster.active(), boottime()
    for ip in VIPS:
        node.host.run("ip", "address", "flush", "to", ip)
    ground.alone(node.name)
    unmoved(ground, begun)
    ground.cluster.stays(span)
    measured(f"longest gaps {outages(ground, begun)}")


def test_deleted_again_and_again(ground: Field) -> None:
    """As NetworkManager does it: more than `heals` times within a minute is a failure, and the other node has it."""
    node, other = holder(ground)
    while ground.answering(V4) <= {node.name} and other.name not in ground.answering(V4):
        node.host.run("ip", "address", "flush", "to", V4)
        time.sleep(0.05)
    ground.alone(other.name)
    assert any("was deleted 6 times within a minute, heals = 5" in each["cause"] for each in ground.cluster.read())


@pytest.mark.parametrize("fault", ["down", "deleted"])
def test_the_interface(ground: Field, fault: str, measured: Measured) -> None:
    """Set down, or removed: the other node takes over, when this one has gone silent as well."""
    node, other = holder(ground)
    begun = boottime()
    node.host.run("ip", "link", *(["set", ETHERNET, "down"] if fault == "down" else ["del", ETHERNET]))
    ground.alone(other.name)
    measured(f"longest gaps {outages(ground, begun)}")
    ground.replug(node.host, missing=fault == "deleted")


def test_a_stranger_has_it(ground: Field) -> None:
    """Nobody takes an address that another machine answers for: its MAC address is in the journal, and it stays with
    it; once that one gives it up the package starts."""
    for node in ground.cluster.nodes:
        node.halt()
    stranger = ground.client
    stranger.run("ip", "address", "add", f"{V4}/24", "dev", ETHERNET)
    begun = boottime()
    for node in ground.cluster.nodes:
        node.run()
    mac = ground.mac(stranger)
    until(
        lambda: any(f"{mac} on {ETHERNET} has it" in e["cause"] for e in ground.cluster.read() if e["clock"] > begun),
        "refused, with the address of the stranger",
    )
    assert ground.answering(V4) == {stranger.name}
    stranger.run("ip", "address", "del", f"{V4}/24", "dev", ETHERNET)
    ground.heal()
