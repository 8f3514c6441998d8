"""`btw check` of a `vip`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from btw_core import Problem
from btw_core.parameters import fields

from .choice import choose, networks
from .kernel import Kernel
from .vip import Vip


def problems(vip: Vip) -> list[Problem]:
    """What is wrong with it on this node, as far as the kernel says it."""
    if vip.interface and vip.network:
        return [Problem(key="network", text="network and interface are both given", remedy="remove one of them")]
    try:
        return [*_pointless(vip), *_here(vip, Kernel())]
    except OSError as error:
        return [Problem(text=f"the kernel cannot be asked: {error.strerror or error}", remedy="run btw as root")]


def _pointless(vip: Vip) -> Iterator[Problem]:
    """Parameters that have no effect."""
    others = ("label",) if vip.address.ip.version == 6 else ("source", "dad")
    defaults = {field.name: field.default for field in fields(Vip)}
    for key in others:
        if getattr(vip, key) != defaults[key]:
            text = f"{key} is for IPv{10 - vip.address.ip.version} addresses"
            yield Problem(key=key, text=text, remedy="remove it", severity="warning")


def _here(vip: Vip, kernel: Kernel) -> Iterator[Problem]:
    """Against the links, routes and addresses of this node."""
    links, routes = kernel.links(), kernel.routes(vip.address.ip.version)
    addresses = kernel.addresses(vip.address.ip.version)
    choice = choose(links, routes, vip.address, vip.interface, vip.network)
    own = next((each for each in addresses if each.ip == vip.address.ip and not each.ours), None)
    if own is not None:
        where = links[own.ifindex].name if own.ifindex in links else str(own.ifindex)
        text = f"{own.ip} is this node's own address on {where}"
        remedy = f"choose another; if it was only put there by hand: ip address del {own.ip}/{own.prefix} dev {where}"
        yield Problem(key="address", text=text, remedy=remedy)
    if choice.link is None:
        key = "interface" if vip.interface else "network" if vip.network else "address"
        yield Problem(key=key, text=choice.why, remedy="correct it")
        return
    link = choice.link
    if link.loopback or not link.ethernet:
        text = f"{link.name} is no Ethernet: nobody can be told there who has an address"
        yield Problem(key="interface", text=text, remedy="name the interface that clients are connected to")
        return
    own_networks = networks(links, routes, addresses, link)
    around = [network for network in own_networks if vip.address.ip in network]
    if not around:
        there = ", ".join(sorted(map(str, own_networks))) or "none"
        text = f"{vip.address.ip} is in no network of this node on {link.name} (there are: {there})"
        yield Problem(key="address", text=text, remedy="choose an address in one of them, or give the node one there")
    elif vip.address.prefix not in (vip.address.ip.max_prefixlen, *(each.prefixlen for each in around)):
        text = f"/{vip.address.prefix} is not the prefix of its network {max(around, key=lambda each: each.prefixlen)}"
        yield Problem(key="address", text=text, remedy="correct the prefix", severity="warning")
    if not link.carrier:
        yield Problem(key="interface", text=f"{link.name} has no carrier now", remedy="connect it", severity="warning")
    if os.geteuid() != 0:
        yield Problem(text="only root may add addresses", remedy="run btw as root", severity="warning")
