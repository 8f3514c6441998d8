"""The observer's picture of all addresses and links: one dump, then kept true by events, for every `vip` together.

One thread reads one netlink socket and one ARP or IPv6 socket per interface in use, and makes the watch descriptors of
those concerned readable. Without watches (in operations, in the first look) there is no thread and each question is
asked of the kernel anew.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

from pyroute2.netlink.rtnl.iprsocket import MarshalRtnl  # type: ignore[import-untyped]

from btw_core.clock import boottime

from . import kernel as nl
from . import packets
from .address import IP
from .kernel import Found, Kernel, Link
from .packets import Claim
from .wire import Wire

Key = tuple[str, str]  # package, resource

_GROUPS = 0x1 | 0x10 | 0x100  # rtnetlink(7): RTMGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR
#: Bytes of events that may wait while this thread does not get to run.
_ROOM = 4 * 1024 * 1024
_SO_RCVBUFFORCE = 33  # socket(7)
#: Seconds after which everything is read anew, though no event was lost.
REREAD = 60.0


class Table:
    """Addresses and links at one instant, or as events change them. Not safe for threads: the monitor locks."""

    def __init__(self, links: dict[int, Link], addresses: Iterable[Found]) -> None:
        self.links = links
        self._addresses: dict[IP, dict[tuple[int, int], Found]] = {}
        for each in addresses:
            self.put(each)

    def put(self, found: Found) -> None:
        self._addresses.setdefault(found.ip, {})[found.ifindex, found.prefix] = found

    def drop(self, found: Found) -> None:
        self._addresses.get(found.ip, {}).pop((found.ifindex, found.prefix), None)

    def find(self, ip: IP) -> list[Found]:
        return list(self._addresses.get(ip, {}).values())


class _Watch(NamedTuple):
    ip: IP
    link: Link | None
    descriptor: int  # the writing end of a pipe; the observer owns the reading end, and closes it


class Monitor:
    """One per process. `kernel` for what is not in the table."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self._lock = threading.RLock()
        self._watches: dict[Key, _Watch] = {}
        self._fired: set[Key] = set()  # told to look again, and not yet watching anew
        self._changed: set[Key] = set()  # since their status was asked
        self._claims: dict[IP, Claim] = {}  # others who claimed what is watched, since `claimed` was asked
        self._events: socket.socket | None = None
        self._table: Table | None = None  # None: not kept, ask the kernel
        self._wires: dict[tuple[Link, int], Wire] = {}
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.reads = 0  # dumps of everything so far

    def find(self, ip: IP) -> list[Found]:
        """Where this node has it; nowhere only if the kernel has said so just now. Raises OSError."""
        with self._lock:
            found = self._table.find(ip) if self._table else []
        return found or self.kernel.find(ip)

    def links(self) -> dict[int, Link]:
        """Every link, by index; not to be changed. Raises OSError."""
        with self._lock:
            return self._table.links if self._table else self.kernel.links()

    # ---- watches
    def watch(self, key: Key, ip: IP, link: Link | None, *, trouble: bool) -> int:
        """A descriptor, the caller's, that becomes readable when something about this address or link changes. At once
        if it has changed since `begin`, or (with `trouble`) if it was not watched before. Raises OSError."""
        with self._lock:
            if self._events is None:
                self._begin()
            before = self._watches.pop(key, None)
            known = before is not None and _open(before.descriptor)
            if before is not None:
                os.close(before.descriptor)
            reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._watches[key] = _Watch(ip, link, writing)
            self._fired.discard(key)
            if key in self._changed or (trouble and not known):
                self._fire(key)
        os.eventfd_write(self._wake, 1)  # it listens to other addresses now
        return reading

    def watched(self, key: Key) -> bool:
        """The observer watches this resource now: the manager counts its package as running."""
        with self._lock:
            watch = self._watches.get(key)
            return watch is not None and _open(watch.descriptor)

    def begin(self, key: Key) -> bool:
        """A status begins: what has changed so far, it sees. False when a change is why it was asked, not the pace."""
        with self._lock:
            self._changed.discard(key)
            return key not in self._fired

    def claimed(self, ip: IP) -> Claim | None:
        """Somebody else who claimed this address since this was asked last."""
        with self._lock:
            return self._claims.pop(ip, None)

    def _fire(self, key: Key) -> None:
        self._changed.add(key)
        if key not in self._fired:
            self._fired.add(key)
            with contextlib.suppress(BrokenPipeError):  # not watched any more
                os.write(self._watches[key].descriptor, b".")

    # ---- the thread
    def _begin(self) -> None:
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        with contextlib.suppress(PermissionError):  # then the usual room has to do, and more is read anew
            self._events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        self._events.bind((0, _GROUPS))
        self._events.setblocking(False)
        self._table = self._read()  # after the socket was bound: nothing falls between
        threading.Thread(target=self._work, args=(self._events,), daemon=True).start()

    def _work(self, events: socket.socket) -> None:
        """Should this end by an error, the kernel is asked for everything again until `watch` begins anew."""
        try:
            self._serve(events)
        finally:
            with self._lock:
                events.close()
                self._events = self._table = None
                self._tell(self._watches)

    def _read(self) -> Table:
        self.reads += 1
        return Table(self.kernel.links(), self.kernel.addresses())

    def _serve(self, events: socket.socket) -> None:
        marshal = MarshalRtnl()
        due = boottime() + REREAD
        while True:
            poll = select.poll()
            with self._lock:
                self._tune()
                wires = {wire.fileno(): key for key, wire in self._wires.items()}
            for descriptor in (events.fileno(), self._wake, *wires):
                poll.register(descriptor, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(max(0.0, due - boottime()) * 1000)}
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            if events.fileno() in ready and not self._follow(events, marshal):
                due = 0.0
            for descriptor in ready & wires.keys():
                self._hear(*wires[descriptor])
            if boottime() >= due:
                with self._lock:
                    self._table = self._read()
                    for key in self._watches:
                        self._fire(key)
                due = boottime() + REREAD

    def _follow(self, events: socket.socket, marshal: MarshalRtnl) -> bool:
        """False: events were lost."""
        while True:
            try:
                data = events.recv(65536)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # netlink(7)
                    return False
                raise
            with self._lock:
                for message in marshal.parse(data):
                    self._apply(message)

    def _apply(self, message: Any) -> None:
        table = self._table
        assert table is not None
        kind = message["event"]
        if kind in ("RTM_NEWADDR", "RTM_DELADDR"):
            found = nl.address(message)
            (table.put if kind == "RTM_NEWADDR" else table.drop)(found)
            self._tell(key for key, watch in self._watches.items() if watch.ip == found.ip)
        elif kind in ("RTM_NEWLINK", "RTM_DELLINK") and message["family"] == socket.AF_UNSPEC:  # else a bridge's port
            seen = nl.link(message)
            before = table.links.get(seen.ifindex)
            others = {index: link for index, link in table.links.items() if index != seen.ifindex}
            # a new one: what `links` gave out does not change
            table.links = others | ({seen.ifindex: seen} if kind == "RTM_NEWLINK" else {})
            if before != seen or kind == "RTM_DELLINK":  # statistics and the like are events as well
                self._tell(
                    key for key, watch in self._watches.items() if watch.link and watch.link.ifindex == seen.ifindex
                )

    def _tell(self, keys: Iterable[Key]) -> None:
        for key in list(keys):
            self._fire(key)

    # ---- others who claim an address
    def _tune(self) -> None:
        """One socket per interface and kind, which hears what concerns the addresses that are watched there."""
        wanted: dict[tuple[Link, int], frozenset[IP]] = {}
        for key, watch in list(self._watches.items()):
            if not _open(watch.descriptor):
                os.close(watch.descriptor)
                del self._watches[key]
                self._fired.discard(key)
            elif watch.link is not None and self._table is not None:
                link = self._table.links.get(watch.link.ifindex)
                if link is not None and link.carrier:
                    where = link, packets.ethertype(watch.ip)
                    wanted[where] = wanted.get(where, frozenset()) | {watch.ip}
        for where in [each for each in self._wires if self._wires[each].ips != wanted.get(each, frozenset())]:
            self._wires.pop(where).close()
        for where in wanted.keys() - self._wires.keys():
            with contextlib.suppress(OSError):  # the link has gone: that is an event of its own
                self._wires[where] = Wire(*where, wanted[where])

    def _hear(self, link: Link, type: int) -> None:
        with self._lock:
            try:
                claims = list(self._wires[link, type].heard())
            except OSError:  # it went down or away: that is an event of its own
                self._wires.pop((link, type)).close()
                return
            if self._table is None:
                return
            own = {each.mac for each in self._table.links.values()}
            for claim in claims:
                if claim.mac not in own and any(each.ifindex == link.ifindex for each in self._table.find(claim.ip)):
                    self._claims[claim.ip] = claim
                    self._tell(key for key, watch in self._watches.items() if watch.ip == claim.ip)


def _open(descriptor: int) -> bool:
    """The other end of the pipe is."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return not any(event & select.POLLERR for _, event in poll.poll(0))
