"""Unix sockets that are bound to a file: they keep its mount busy, though no descriptor says so."""

from __future__ import annotations

import contextlib
import socket
import struct

from .mountinfo import Number

_NETLINK_SOCK_DIAG, _BY_FAMILY, _DONE, _ERROR = 4, 20, 3, 2  # sock_diag(7), netlink(7)
_SHOW_NAME, _SHOW_VFS, _NAME, _VFS = 1, 2, 0, 1  # linux/unix_diag.h
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP


def bound(numbers: frozenset[Number]) -> dict[int, str]:
    """Inode of each such socket -> the path that it was bound to, for files on these superblocks. Only of this network
    namespace. {} where the kernel does not say."""
    found: dict[int, str] = {}
    with contextlib.suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(1)
        request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_NAME | _SHOW_VFS, 0, 0)
        asking.send(struct.pack("=IHHII", 16 + len(request), _BY_FAMILY, _DUMP, 1, 0) + request)
        while True:
            data = asking.recv(1 << 17)
            while len(data) >= 16:
                length, kind = struct.unpack_from("=IH", data)
                if kind in (_DONE, _ERROR):
                    return found
                _socket(data[16:length], numbers, found)
                data = data[(length + 3) & ~3 :]
    return found


def _socket(message: bytes, numbers: frozenset[Number], found: dict[int, str]) -> None:
    """One struct unix_diag_msg and its attributes."""
    (inode,) = struct.unpack_from("=I", message, 4)
    rest, name, number = message[16:], "", None
    while len(rest) >= 4:
        length, kind = struct.unpack_from("=HH", rest)
        value = rest[4:length]
        if kind == _NAME:
            name = value.rstrip(b"\0").decode(errors="replace")
        elif kind == _VFS:
            _, device = struct.unpack_from("=II", value)
            number = (device >> 20, device & 0xFFFFF)  # the kernel's own dev_t (linux/kdev_t.h)
        rest = rest[(length + 3) & ~3 :] if length else b""
    if number in numbers:
        found[inode] = name
