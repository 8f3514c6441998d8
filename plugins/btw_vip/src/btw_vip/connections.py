"""Ending connections that come from an address, through sock_diag(7).

IPv4 sends nothing from an address that the node has no more, but IPv6 looks at that only when a connection begins: one
that is there goes on for as long as TCP has patience, with the address that is another node's by then.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21  # linux/sock_diag.h
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300  # netlink(7)
_ERROR, _DONE = 2, 3
_BYTECODE, _SOURCE = 1, 7  # linux/inet_diag.h: INET_DIAG_REQ_BYTECODE, INET_DIAG_BC_S_COND
_HEADER = struct.Struct("=IHHII")
_LISTEN = 1 << 10
#: TCP but for listening sockets, which belong to a server that may wait for the address to come back; UDP that is
#: connected.
_KINDS = ((socket.IPPROTO_TCP, 0xFFF & ~_LISTEN), (socket.IPPROTO_UDP, 1 << 1))
#: A program may accept one more while the others are being ended.
_ROUNDS = 3
#: Seconds for an answer of the kernel.
_LIMIT = 5.0


def end(ip: IPv6Address) -> int:
    """Reset every connection from `ip`; their programs see ECONNABORTED. Returns how many there were. Blocks some ms.
    Raises OSError: EOPNOTSUPP where the kernel cannot do it (CONFIG_INET_DIAG_DESTROY)."""
    ended = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as channel:
        channel.settimeout(_LIMIT)
        for _ in range(_ROUNDS):
            found = [(kind, each) for kind, states in _KINDS for each in _dump(channel, ip, kind, states)]
            for kind, identity in found:
                ended += _destroy(channel, kind, identity)
            if not found:
                break
    return ended


def _dump(channel: socket.socket, ip: IPv6Address, protocol: int, states: int) -> list[bytes]:
    """The struct inet_diag_sockid of each."""
    condition = struct.pack("=BBxxi16s", socket.AF_INET6, 128, -1, ip.packed)
    size = 4 + len(condition)
    code = struct.pack("=BBH", _SOURCE, size, size + 4) + condition  # true: to the end; false: beyond it
    attribute = struct.pack("=HH", 4 + len(code), _BYTECODE) + code
    body = struct.pack("=BBBxI48x", socket.AF_INET6, protocol, 0, states) + attribute
    channel.send(_HEADER.pack(16 + len(body), _BY_FAMILY, _REQUEST | _DUMP, 1, 0) + body)
    found: list[bytes] = []
    while True:
        for type, payload in _messages(channel.recv(1 << 18)):
            if type == _DONE:
                return found
            if type == _ERROR:
                _raise(payload, ())
            found.append(payload[4:52])


def _destroy(channel: socket.socket, protocol: int, identity: bytes) -> bool:
    body = struct.pack("=BBBxI", socket.AF_INET6, protocol, 0, 0xFFFFFFFF) + identity
    channel.send(_HEADER.pack(16 + len(body), _DESTROY, _REQUEST | _ACK, 1, 0) + body)
    for type, payload in _messages(channel.recv(1 << 18)):
        if type == _ERROR:
            return _raise(payload, (errno.ENOENT,))
    return False


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        size, type, *_ = _HEADER.unpack_from(data)
        yield type, data[_HEADER.size : size]
        data = data[(size + 3) & ~3 :]


def _raise(payload: bytes, accepted: tuple[int, ...]) -> bool:
    """An nlmsgerr: True when it says 0, False when it is accepted. Raises OSError."""
    code: int = -struct.unpack_from("=i", payload)[0]
    if code and code not in accepted:
        raise OSError(code, os.strerror(code))
    return code == 0
