"""What follows `etcd:` in `lock`: "//host:2379,[::1]:2379/prefix"."""

from __future__ import annotations

import ipaddress
import re

import msgspec

PORT = 2379
PREFIX = "btw"
_FORM = 'write lock = "etcd://host:2379,host:2379/prefix"'
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


class Place(msgspec.Struct, frozen=True):
    """Where one member listens; `host` is a name or an address without brackets."""

    host: str
    port: int

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """None when `host` is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def loopback(self) -> bool:
        """What is sent there does not leave this computer."""
        return self.address.is_loopback if self.address else self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Address(msgspec.Struct, frozen=True):
    """The members that are named, and the prefix of all keys (no slash at either end)."""

    places: tuple[Place, ...]
    prefix: str

    def __str__(self) -> str:
        return f"etcd://{','.join(map(str, self.places))}/{self.prefix}"


def parse(rest: str) -> Address:
    """Raises ValueError; its text never holds what stands before an "@"."""
    if "@" in rest:
        raise ValueError(
            'a user or password stands in the lock, where `ps` and logs show it: set user and password = "file:/path"'
            " in [plugins.etcd] of btw.toml, and change this password"
        )
    if not rest.startswith("//"):
        raise ValueError(f"found {rest!r} after etcd: where two slashes begin; {_FORM}")
    hosts, _, prefix = rest.removeprefix("//").partition("/")
    prefix = prefix.rstrip("/") or PREFIX
    if not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")):
        raise ValueError(
            f"found the prefix {prefix!r}, allowed: letters, digits, dots, dashes and underscores, in parts between"
            f" single slashes; {_FORM}"
        )
    places = tuple(_place(text.strip()) for text in hosts.split(","))
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"{place} is named twice: name each member once")
    return Address(places, prefix)


def _place(text: str) -> Place:
    if not text:
        raise ValueError(f"a host is missing; {_FORM}")
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"found {text!r}, in brackets only an IPv6 address is allowed; {_FORM}") from None
        if not bracket or (port and not port.startswith(":")):
            raise ValueError(f'found {text!r}; write an IPv6 address as "[::1]:2379"')
        port = port.removeprefix(":")
    else:
        host, colon, port = text.partition(":")
        if ":" in port:
            raise ValueError(f'found {text!r}; write an IPv6 address in brackets: "[{text}]:{PORT}"')
        if not _HOST.fullmatch(host) or (colon and not port):
            raise ValueError(f"found {text!r}, allowed: a host name or address, a colon and a port; {_FORM}")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"found the port {port!r} in {text!r}, allowed: 1 to 65535; {_FORM}")
    return Place(host, int(port or PORT))
