"""rtnetlink(7) by hand, for the three requests that stand in the way of a fail-over: where is this address, add it,
remove it. They take a tenth of what a general library needs, which reads every attribute of every address.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from .address import IP

NEW, DELETE, _GET = 20, 21, 22  # RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR
ADDRESS, LOCAL, LABEL, CACHE, FLAGS, PROTO = 1, 2, 3, 6, 8, 11  # IFA_*, linux/if_addr.h
_REQUEST, _ACK, _INTERRUPTED, _DUMP, _REPLACE_CREATE = 0x1, 0x4, 0x10, 0x300, 0x500  # NLM_F_*, netlink(7)
_ERROR, _DONE = 2, 3  # NLMSG_*
_HEADER, _IFADDRMSG, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBI"), struct.Struct("=HH")
#: Seconds for an answer, which the kernel gives at once.
_LIMIT = 5.0
#: Bytes of one answer of a dump, at most (NLMSG_GOODSIZE and what large buffers make of it).
_ROOM = 65536


class Seen(NamedTuple):
    """An address as the kernel tells it."""

    ip: IP
    prefix: int
    ifindex: int
    flags: int
    proto: int
    label: str


class Requests:
    """Answered at once. Raises OSError with the kernel's reason. Not safe for threads."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(_LIMIT)
        self._number = 0

    def close(self) -> None:
        self._socket.close()

    def find(self, ip: IP) -> list[Seen]:
        """Every place where this node has it."""
        body = _IFADDRMSG.pack(_family(ip), 0, 0, 0, 0)
        while True:
            found, whole = [], True
            for type, flags, payload in self._ask(_GET, _DUMP, body):
                whole = whole and not flags & _INTERRUPTED
                if type == NEW and ip.packed in payload:
                    found.append(_seen(payload))
            if whole:  # else addresses were changed meanwhile, and some may have been left out
                return [each for each in found if each.ip == ip]

    def change(
        self, type: int, ip: IP, prefix: int, ifindex: int, attributes: Mapping[int, bytes], *, scope: int = 0
    ) -> None:
        """NEW: over one that is there; or DELETE."""
        attributes = {LOCAL: ip.packed, ADDRESS: ip.packed} | dict(attributes)
        body = _IFADDRMSG.pack(_family(ip), prefix, 0, scope, ifindex)
        body += b"".join(_packed(kind, value) for kind, value in attributes.items())
        for _ in self._ask(type, _ACK | (_REPLACE_CREATE if type == NEW else 0), body):
            pass

    def _ask(self, type: int, flags: int, body: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Type, flags and content of each message of the answer. What an earlier request left unread is passed over."""
        self._number += 1
        header = _HEADER.pack(_HEADER.size + len(body), type, _REQUEST | flags, self._number, 0)
        self._socket.sendto(header + body, (0, 0))
        while True:
            data = self._socket.recv(_ROOM)
            at = 0
            while at + _HEADER.size <= len(data):
                size, kind, marks, number, _ = _HEADER.unpack_from(data, at)
                payload = data[at + _HEADER.size : at + size]
                at += (size + 3) & ~3
                if number != self._number:
                    continue
                if kind in (_ERROR, _DONE):
                    code = -struct.unpack_from("=i", payload)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    if marks & _INTERRUPTED:
                        yield kind, marks, b""
                    return
                yield kind, marks, payload


def _family(ip: IP) -> int:
    return socket.AF_INET if ip.version == 4 else socket.AF_INET6


def _packed(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value.ljust((len(value) + 3) & ~3, b"\0")


def _seen(payload: bytes) -> Seen:
    _, prefix, flags, _, ifindex = _IFADDRMSG.unpack_from(payload)
    said = dict(_attributes(payload[_IFADDRMSG.size :]))
    packed = said.get(LOCAL) or said.get(ADDRESS)
    if packed is None:
        raise OSError(errno.EBADMSG, "an address without an address")
    return Seen(
        ip=ip_address(packed),
        prefix=prefix,
        ifindex=ifindex,
        flags=struct.unpack("=I", said[FLAGS])[0] if FLAGS in said else flags,
        proto=said.get(PROTO, b"\0")[0],
        label=said.get(LABEL, b"").rstrip(b"\0").decode(errors="replace"),
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind, data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
