"""Which interface an address belongs to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import TYPE_CHECKING, NamedTuple

from .address import Address, Network, Subnet

if TYPE_CHECKING:
    from .kernel import Found, Link, Route


class Choice(NamedTuple):
    """The interface, or None and why."""

    link: Link | None
    why: str = ""


def choose(
    links: Mapping[int, Link], routes: Iterable[Route], address: Address, interface: str, network: Subnet | None
) -> Choice:
    """The named interface, or the one with a route to the network that is named or else to the address; of several one
    with carrier, then the one whose route has the lowest metric. `routes` are those of the address's IP version."""
    if interface:
        found = next((each for each in links.values() if each.name == interface), None)
        known = ", ".join(sorted(each.name for each in links.values() if not each.loopback)) or "none"
        return Choice(found, "" if found else f"there is no interface {interface} (there are: {known})")
    connected = [route for route in routes if not route.gateway and route.ifindex in links]
    if network:
        fitting = [route for route in connected if network.is_(route.network)]
        why = f"no interface has a route to the network {network}"
    else:
        containing = [route for route in connected if address.ip in route.network]
        longest = max((route.network.prefixlen for route in containing), default=0)
        fitting = [route for route in containing if route.network.prefixlen == longest]
        why = f"no interface has a route to a network with {address.ip}"
    if not fitting:
        there = ", ".join(sorted({str(route.network) for route in connected})) or "none"
        return Choice(None, f"{why} (there are: {there})")
    best = min(fitting, key=lambda route: (not links[route.ifindex].carrier, route.metric, route.ifindex))
    return Choice(links[best.ifindex])


def networks(
    links: Mapping[int, Link], routes: Iterable[Route], addresses: Iterable[Found], link: Link
) -> set[Network]:
    """The networks of this node on that interface; addresses of virtual ones are not counted."""
    found = {route.network for route in routes if not route.gateway and route.ifindex == link.ifindex}
    own = (each for each in addresses if each.ifindex == link.ifindex and not each.ours)
    return found | {ip_network(f"{each.ip}/{each.prefix}", strict=False) for each in own}
