"""The kernel's addresses, links and routes through rtnetlink(7). Importing this takes the time of pyroute2, which does
whatever nobody waits for; see `rtnetlink` for the rest."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any, NamedTuple

from pyroute2.iproute.linux import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from . import rtnetlink
from .address import IP, Address, Destination, Network
from .rtnetlink import Requests, Seen

#: IFA_PROTO of our addresses (kernel 5.18 and later) and RTA_PROTOCOL of our routes.
OURS = 66
#: End of the label of our IPv4 addresses where the kernel has no IFA_PROTO.
LABEL = ":btw"
#: Longest label: IFNAMSIZ less its end.
LONGEST = 15

DADFAILED, TENTATIVE, PERMANENT = 0x08, 0x40, 0x80  # linux/if_addr.h
_NODAD, _NOPREFIXROUTE = 0x02, 0x200
_UP, _LOOPBACK, _RUNNING, _NOARP = 0x1, 0x8, 0x40, 0x80  # netdevice(7)
#: netdevice(7): SIOCGIFFLAGS, SIOCGIFHWADDR and their answers; struct ifreq, a name of IFNAMSIZ bytes before them.
_SIOCG, _IFRU, _IFREQ = (0x8913, 0x8927), (struct.Struct("=H"), struct.Struct("=H6s")), struct.Struct("=16s24s")
_SIX_BYTES = (1, 772)  # linux/if_arp.h: ARPHRD_ETHER, ARPHRD_LOOPBACK
_MAIN, _UNICAST = 254, 1  # linux/rtnetlink.h
_FOREVER = 0xFFFFFFFF
SCOPES = {"global": 0, "link": 253, "host": 254}


class Link(NamedTuple):
    """A network interface. `carrier`: it is up and the other end is there (netdevice(7): IFF_RUNNING); `ethernet`: it
    has a MAC address and resolves others (not IFF_NOARP)."""

    ifindex: int
    name: str
    mac: bytes
    carrier: bool
    loopback: bool = False
    ethernet: bool = True


class Found(NamedTuple):
    """An address that the kernel has."""

    ip: IP
    prefix: int
    ifindex: int  # of its link
    flags: int = 0
    ours: bool = False  # marked by this plugin

    def is_(self, address: Address, link: Link) -> bool:
        return (self.ip, self.prefix, self.ifindex) == (address.ip, address.prefix, link.ifindex)


class Route(NamedTuple):
    """A route of the main table to a network. `gateway`: it is not connected."""

    network: Network
    ifindex: int
    metric: int = 0
    gateway: bool = False


class Kernel:
    """Requests, answered at once. Raises OSError with the kernel's reason. May be used by several threads."""

    def __init__(self) -> None:
        self._quick = Requests()
        self._route: IPRoute | None = None  # opened when it is needed
        self._lock = threading.Lock()

    def close(self) -> None:
        self._quick.close()
        if self._route is not None:
            self._route.close()

    def links(self) -> dict[int, Link]:
        """Every link, by index."""
        found = (link(message) for message in self._ask("link", "dump"))
        return {each.ifindex: each for each in found}

    def named(self, name: str) -> dict[int, Link]:
        """The link of that name, if there is one, as `links` has it: a thousandth of the time of a dump."""
        try:
            ifindex = socket.if_nametoindex(name)
            if socket.if_indextoname(ifindex) != name:  # an alias, or another name that the kernel knows it by
                return {}
            request = _IFREQ.pack(name.encode(), b"")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
                said = [fcntl.ioctl(any_socket, what, request) for what in _SIOCG]
        except OSError as error:
            if error.errno in (None, errno.ENODEV, errno.ENXIO):  # None: if_nametoindex found none
                return {}
            raise
        (flags,), (family, mac) = (kind.unpack_from(each, 16) for kind, each in zip(_IFRU, said, strict=True))
        return {ifindex: _link(ifindex, name, mac if family in _SIX_BYTES else b"", flags)}

    def addresses(self, version: int = 0) -> list[Found]:
        """Every address, or those of IP version 4 or 6."""
        families = [socket.AF_INET if each == 4 else socket.AF_INET6 for each in (4, 6) if version in (0, each)]
        return [address(message) for family in families for message in self._ask("addr", "dump", family=family)]

    def find(self, ip: IP) -> list[Found]:
        """Where this node has it."""
        with self._lock:
            return [_found(seen) for seen in self._quick.find(ip)]

    def routes(self, version: int) -> list[Route]:
        """The main table's routes to networks, the default route left out."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        messages = self._ask("route", "dump", family=family, table=_MAIN, type=_UNICAST)
        return [route(each) for each in messages if each.get_attr("RTA_DST") and each.get_attr("RTA_OIF")]

    def add(
        self, link: Link, wanted: Address, *, label: str, scope: str, route: bool, source: bool, detect: bool
    ) -> None:
        """Put the address on the link, marked as ours; over one that is there it puts the mark. `route`: with a route
        to its network; `source`: IPv6 may choose it for what this node sends; `detect`: the kernel looks for others."""
        flags = (0 if route else _NOPREFIXROUTE) | (0 if detect else _NODAD)
        values = {rtnetlink.FLAGS: struct.pack("=I", flags), rtnetlink.PROTO: bytes([OURS])}
        four = isinstance(wanted.ip, IPv4Address)
        if not four:
            values[rtnetlink.CACHE] = struct.pack("=4I", _FOREVER if source else 0, _FOREVER, 0, 0)
        elif label:
            values[rtnetlink.LABEL] = label.encode() + b"\0"
        with self._lock:
            self._quick.change(
                rtnetlink.NEW, wanted.ip, wanted.prefix, link.ifindex, values, scope=SCOPES[scope] if four else 0
            )

    def remove(self, found: Found) -> None:
        """May be repeated: what is not there is no error."""
        with self._lock, _unless(errno.EADDRNOTAVAIL, errno.ENODEV):
            self._quick.change(rtnetlink.DELETE, found.ip, found.prefix, found.ifindex, {})

    def add_route(self, link: Link, wanted: Destination, source: IP) -> None:
        """Over one that is there."""
        self._ask("route", "replace", **_route(link, wanted), prefsrc=str(source))

    def remove_route(self, link: Link, wanted: Destination) -> None:
        """May be repeated: what is not there is no error."""
        with _unless(errno.ESRCH, errno.ENODEV, errno.ENETDOWN):
            self._ask("route", "del", **_route(link, wanted))

    def _ask(self, kind: str, command: str, **values: Any) -> list[Any]:
        with self._lock:
            try:
                if self._route is None:
                    self._route = IPRoute(groups=0)
                return list(getattr(self._route, kind)(command, **values) or ())
            except NetlinkError as error:
                raise OSError(error.code, os.strerror(error.code)) from error


def warm_up() -> None:
    """What pyroute2 makes at first use it makes now: some ms that each fork then has not to spend. Raises OSError."""
    kernel = Kernel()
    try:
        kernel.links()
        kernel.addresses()
        kernel.routes(4)
        kernel.find(ip_address("0.0.0.0"))
    finally:
        kernel.close()


def link(message: Any) -> Link:
    """An RTM_NEWLINK or RTM_DELLINK."""
    mac = bytes.fromhex((message.get_attr("IFLA_ADDRESS") or "").replace(":", ""))
    return _link(message["index"], message.get_attr("IFLA_IFNAME") or "", mac, message["flags"])


def _link(ifindex: int, name: str, mac: bytes, flags: int) -> Link:
    return Link(
        ifindex=ifindex,
        name=name,
        mac=mac,
        carrier=flags & _UP != 0 and flags & _RUNNING != 0,
        loopback=flags & _LOOPBACK != 0,
        ethernet=len(mac) == 6 and flags & _NOARP == 0,
    )


def address(message: Any) -> Found:
    """An RTM_NEWADDR or RTM_DELADDR."""
    flags = message.get_attr("IFA_FLAGS")
    label = message.get_attr("IFA_LABEL") or ""
    return Found(
        ip=ip_address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")),
        prefix=message["prefixlen"],
        ifindex=message["index"],
        flags=message["flags"] if flags is None else flags,
        ours=message.get_attr("IFA_PROTO") == OURS or label.endswith(LABEL),
    )


def _found(seen: Seen) -> Found:
    ours = seen.proto == OURS or seen.label.endswith(LABEL)
    return Found(ip=seen.ip, prefix=seen.prefix, ifindex=seen.ifindex, flags=seen.flags, ours=ours)


@contextlib.contextmanager
def _unless(*codes: int) -> Iterator[None]:
    """What the kernel refuses for one of these reasons is done already."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno not in codes:
            raise


def route(message: Any) -> Route:
    """An RTM_NEWROUTE with a destination and an interface."""
    return Route(
        network=ip_network(f"{message.get_attr('RTA_DST')}/{message['dst_len']}"),
        ifindex=message.get_attr("RTA_OIF"),
        metric=message.get_attr("RTA_PRIORITY") or 0,
        gateway=bool(message.get_attr("RTA_GATEWAY") or message.get_attr("RTA_VIA")),
    )


def _route(link: Link, wanted: Destination) -> Mapping[str, Any]:
    values: dict[str, Any] = {"dst": str(wanted.network), "oif": link.ifindex, "proto": OURS}
    return values | ({"gateway": str(wanted.gateway)} if wanted.gateway else {})
