"""Raw frames on one interface: asking whether an address is used, and announcing one."""

from __future__ import annotations

import ctypes
import random
import select
import socket
import struct
from collections.abc import Callable, Iterable, Iterator

from btw_core.clock import boottime

from . import packets
from .address import IP
from .kernel import Link
from .packets import Claim

#: RFC 5227 (1.1): PROBE_WAIT, PROBE_MIN..PROBE_MAX, PROBE_NUM, ANNOUNCE_WAIT, and how long it all takes at most.
_WAIT, _MIN, _MAX, _NUMBER, _AFTER = 1.0, 1.0, 2.0, 3, 2.0
_RFC = _WAIT + (_NUMBER - 1) * _MAX + _AFTER
_SO_ATTACH_FILTER = 26  # socket(7)
_PACKET_ADD_MEMBERSHIP, _PACKET_MR_MULTICAST = 1, 0  # packet(7)
_SOL_PACKET = 263


class Wire:
    """Frames of one EtherType on one interface; hears only what may claim one of `ips`. Needs CAP_NET_RAW. Raises
    OSError. Frames that this node sends are not heard (packet(7): only ETH_P_ALL taps hear them)."""

    def __init__(self, link: Link, type: int, ips: Iterable[IP]) -> None:
        self.link, self.ips = link, frozenset(ips)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._filter(packets.claims_filter(self.ips, type))
            for group in dict.fromkeys(group for ip in self.ips for group in packets.groups(ip)):
                request = struct.pack("iHH8s", link.ifindex, _PACKET_MR_MULTICAST, 6, group)
                self._socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
            self._socket.bind((link.name, type))
            self._socket.setblocking(False)
        except BaseException:  # Ctrl-C included: no socket stays open; raised again
            self._socket.close()
            raise

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """May be repeated. Takes the kernel some ms (packet_release waits for RCU): best done when nobody waits."""
        self._socket.close()

    def send(self, frame: bytes) -> None:
        """Does not block. Raises OSError."""
        self._socket.send(frame)

    def heard(self) -> Iterator[Claim]:
        """The claims that wait to be read. Does not block. Raises OSError when the interface went down or away."""
        while True:
            try:
                frame = self._socket.recv(2048)
            except BlockingIOError:
                return
            if found := packets.claim(frame):
                yield found

    def _filter(self, program: list[tuple[int, int, int, int]]) -> None:
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
        description = struct.pack("HL", len(program), ctypes.addressof(code))  # struct sock_fprog
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, description)


def ask(wire: Wire, ip: IP, seconds: float) -> bytes | None:
    """The MAC address that claims `ip` on this link, or None when nobody was heard. Blocks at most `seconds`: that is
    the schedule of RFC 5227, jitter included, shortened from its 7 s (for IPv6 the same with neighbour solicitations).
    Raises OSError."""
    scale = seconds / _RFC
    frame = packets.probe(wire.link.mac, ip)
    pauses = [random.uniform(0, _WAIT), *(random.uniform(_MIN, _MAX) for _ in range(_NUMBER - 1)), _AFTER]
    for number, pause in enumerate(pauses):
        found = _listen(wire, ip, pause * scale)
        if found is not None:
            return found
        if number < _NUMBER:
            wire.send(frame)
    return None


def announce(wire: Wire, ip: IP, times: int, recheck: Callable[[], None]) -> None:
    """Tell everybody on the link, and ask `recheck` before each frame. Does not wait. Raises OSError, and what that
    raises."""
    for frame in packets.announcements(wire.link.mac, ip) * times:
        recheck()
        wire.send(frame)


def _listen(wire: Wire, ip: IP, seconds: float) -> bytes | None:
    end = boottime() + seconds
    while True:
        select.select([wire], [], [], max(0.0, end - boottime()))
        for claim in wire.heard():
            if claim.ip == ip and claim.mac != wire.link.mac:
                return claim.mac
        if boottime() >= end:
            return None
