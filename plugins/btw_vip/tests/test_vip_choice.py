"""Addresses, routes and the interface that is chosen."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from btw_core.parameters import convert, fields
from btw_vip.address import Address, Destination, Subnet
from btw_vip.choice import choose, networks
from btw_vip.kernel import Found, Link, Route
from btw_vip.vip import Vip

MAC = bytes(6)
LO = Link(1, "lo", MAC, True, True)
ETH0, ETH1, DOWN = Link(2, "eth0", MAC, True), Link(3, "eth1", MAC, True), Link(4, "eth2", MAC, False)
LINKS = {link.ifindex: link for link in (LO, ETH0, ETH1, DOWN)}
VIP = Address("172.24.49.200/26")


def route(network: str, link: Link, **more: int) -> Route:
    return Route(ip_network(network), link.ifindex, **more)  # type: ignore[arg-type]


HOME = route("172.24.49.192/26", ETH1)
ROUTES = [route("10.0.0.0/8", ETH0), HOME, Route(ip_network("172.24.0.0/16"), ETH0.ifindex, gateway=True)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("192.0.2.10", "write the prefix"),
        ("192.0.2.10/33", "33"),
        ("192.0.2.10/255.255.255.0", "number"),
        ("192.0.2/24", "192.0.2"),
        ("web/24", "web"),
        ("127.0.0.1/8", "one host"),
        ("224.0.0.1/24", "one host"),
        ("0.0.0.0/24", "one host"),
        ("fe80::1%eth0/64", "interface"),
    ],
)
def test_refused_addresses(text: str, says: str) -> None:
    """What is no address of one host with its prefix is refused with the reason."""
    with pytest.raises(ValueError, match=says):
        Address(text)


def test_addresses() -> None:
    """Two ways to write one address are one address."""
    assert Address("2001:DB8:0::10/64") == Address("2001:db8::10/64")
    assert str(Address("2001:DB8:0::10/64")) == "2001:db8::10/64"
    assert Address("192.0.2.10/24") != Address("192.0.2.10/25")
    assert len({Address("192.0.2.10/24"), Address("192.0.2.10/24")}) == 1


def test_by_name() -> None:
    """A named interface, whatever its routes; an unknown one is said with those there are."""
    assert choose(LINKS, [], VIP, "eth0", None).link is ETH0
    choice = choose(LINKS, [], VIP, "eth9", None)
    assert choice.link is None
    assert choice.why == "there is no interface eth9 (there are: eth0, eth1, eth2)"


@pytest.mark.parametrize("network", ["172.24.49.192/26", "172.24.49.192", ""])
def test_by_network(network: str) -> None:
    """The interface connected to the network: named with or without prefix, or the address's own. A route through a
    gateway does not count."""
    assert choose(LINKS, ROUTES, VIP, "", Subnet(network) if network else None).link is ETH1
    assert choose(LINKS, ROUTES[:1] + ROUTES[2:], VIP, "", Subnet(network) if network else None).link is None


def test_of_several() -> None:
    """Carrier before metric, metric before anything else."""
    several = [route("172.24.49.192/26", DOWN, metric=1), route("172.24.49.192/26", ETH0, metric=200)]
    assert choose(LINKS, several, VIP, "", None).link is ETH0
    assert choose(LINKS, [*several, HOME], VIP, "", None).link is ETH1
    assert choose(LINKS, several[:1], VIP, "", None).link is DOWN


def test_longest_prefix() -> None:
    """Of two networks that hold the address the smaller one is meant."""
    assert choose(LINKS, [route("172.24.0.0/16", ETH0), HOME], VIP, "", None).link is ETH1


def test_none() -> None:
    """The message names the networks there are."""
    choice = choose(LINKS, ROUTES, Address("192.0.2.1/24"), "", None)
    assert choice.link is None
    assert (
        "no interface has a route to a network with 192.0.2.1 (there are: 10.0.0.0/8, 172.24.49.192/26)" in choice.why
    )
    assert "192.0.2.0/24" in choose(LINKS, ROUTES, VIP, "", Subnet("192.0.2.0/24")).why


def test_networks() -> None:
    """Connected networks and those of addresses, but not of our own."""
    addresses = [
        Found(ip_address("10.1.2.3"), 24, ETH0.ifindex),
        Found(ip_address("192.0.2.1"), 24, ETH0.ifindex, ours=True),
        Found(ip_address("198.51.100.1"), 24, ETH1.ifindex),
    ]
    assert networks(LINKS, ROUTES, addresses, ETH0) == {ip_network("10.0.0.0/8"), ip_network("10.1.2.0/24")}


def test_destinations() -> None:
    """With a gateway or without; anything else is refused."""
    alone, behind = Destination("203.0.113.0/24"), Destination("203.0.113.0/24  via 192.0.2.1")
    assert (alone.network, alone.gateway) == (ip_network("203.0.113.0/24"), None)
    assert (behind.network, behind.gateway) == (ip_network("203.0.113.0/24"), ip_address("192.0.2.1"))
    assert [str(alone), str(behind)] == ["203.0.113.0/24", "203.0.113.0/24 via 192.0.2.1"]
    for text in ("", "203.0.113.0/24 by 192.0.2.1", "203.0.113.0/24 via", "203.0.113.1/24", "x"):
        with pytest.raises(ValueError):
            Destination(text)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("network", "lan", "'lan'"),
        ("gateway", "router", "'router'"),
        ("routes", ["10.0.0.0/8 by 10.77.0.1"], "NETWORK via GATEWAY"),
        ("address", "10.0.0.1", "10.0.0.1/24"),
    ],
)
def test_when_a_file_is_read(key: str, value: object, says: str) -> None:
    """Values that mean nothing are refused before anything runs, as the core refuses every value: with the reason."""
    types = {field.encode_name: field.type for field in fields(Vip)}
    with pytest.raises(ValueError, match=says):
        convert(value, types[key])
