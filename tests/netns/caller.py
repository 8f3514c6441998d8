"""A client of virtual addresses: pings each of them every millisecond, and talks to one echo server on each over TCP.

python caller.py PORT ADDRESS...           prints lines, instants on CLOCK_BOOTTIME:
    alive ADDRESS INSTANT                  it answers the pings; now and then
    gap ADDRESS FROM TO                    nothing was answered for more than GAP seconds between two answers
    talks ADDRESS INSTANT                  the connection works; now and then
    ended ADDRESS INSTANT ERROR            it does not any more; another one is begun

python caller.py PORT                      the echo server, on all addresses
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import sys
import time
from ipaddress import ip_address

PAUSE, GAP, NOW_AND_THEN, TALK = 0.001, 0.005, 0.05, 0.01


def clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def say(*words: object) -> None:
    print(*words, flush=True)


class Pinged:
    """Echo requests (RFC 792, RFC 4443) to one address, through the kernel and its neighbour cache."""

    def __init__(self, text: str) -> None:
        self.text, self.ip = text, ip_address(text)
        self._six = self.ip.version == 6
        family, protocol = (
            (socket.AF_INET6, socket.IPPROTO_ICMPV6) if self._six else (socket.AF_INET, socket.IPPROTO_ICMP)
        )
        self.channel = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        self._number = 0
        self._last = self._said = 0.0

    def ask(self) -> None:
        self._number = (self._number + 1) & 0xFFFF
        kind = 128 if self._six else 8
        total = (kind << 8) + 77 + self._number
        total = 0 if self._six else ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        with contextlib.suppress(OSError):  # no neighbour, no route: that is what is measured
            self.channel.sendto(struct.pack("!BBHHH", kind, 0, total, 77, self._number), (self.text, 0))

    def hear(self) -> None:
        packet, sender = self.channel.recvfrom(2048)
        if (packet if self._six else packet[20:])[0] != (129 if self._six else 0) or sender[0] != self.text:
            return
        now = clock()
        if self._last and now - self._last > GAP:
            say("gap", self.text, self._last, now)
        if now - self._said > NOW_AND_THEN:
            self._said = now
            say("alive", self.text, now)
        self._last = now


class Talk:
    """One TCP connection after the other."""

    def __init__(self, text: str, port: int) -> None:
        self.text, self._port = text, port
        self._family = socket.AF_INET6 if ":" in text else socket.AF_INET
        self._said = self._due = 0.0
        self._waits = self._up = False
        self.channel: socket.socket | None = None

    def tick(self, now: float) -> None:
        if now < self._due:
            return
        self._due = now + TALK
        try:
            if self.channel is None:
                self.channel = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                self.channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._waits, self._up = False, False
                error = self.channel.connect_ex((self.text, self._port))
                if error not in (0, errno.EINPROGRESS):
                    raise OSError(error, os.strerror(error))
            elif not self._waits:
                self.channel.send(b"x")
                self._waits = True
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(error)

    def hear(self) -> None:
        assert self.channel is not None
        try:
            if not self.channel.recv(16):
                raise ConnectionResetError(errno.ECONNRESET, "closed by the other side")
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        now = clock()
        self._waits, self._up = False, True
        if now - self._said > NOW_AND_THEN:
            self._said = now
            say("talks", self.text, now)

    def _end(self, error: OSError) -> None:
        assert self.channel is not None
        self.channel.close()
        self.channel = None
        if self._up:
            say("ended", self.text, clock(), error.strerror)
            self._up = False


def call(port: int, texts: list[str]) -> None:
    """Until it is killed."""
    pinged, talks = [Pinged(text) for text in texts], [Talk(text, port) for text in texts]
    due = clock()
    while True:
        now = clock()
        if now >= due:
            due = max(due + PAUSE, now - 10 * PAUSE)  # what was missed is made up for only in part
            for each in pinged:
                each.ask()
            for talk in talks:
                talk.tick(now)
        speakers: dict[socket.socket, Pinged | Talk] = {each.channel: each for each in pinged}
        speakers |= {talk.channel: talk for talk in talks if talk.channel is not None}
        for ready in select.select(list(speakers), [], [], max(0.0, due - clock()))[0]:
            speakers[ready].hear()


def echo(port: int) -> None:
    """Until it is killed."""
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as door:
        poll, open_ = select.poll(), {door.fileno(): door}
        poll.register(door, select.POLLIN)
        while True:
            for number, _ in poll.poll():
                channel = open_[number]
                if channel is door:
                    channel, _ = door.accept()
                    open_[channel.fileno()] = channel
                    poll.register(channel, select.POLLIN)
                    continue
                data = b""
                with contextlib.suppress(OSError):  # reset: its end as well
                    data = channel.recv(16)
                    channel.send(data)
                if not data:
                    poll.unregister(channel)
                    del open_[number]
                    channel.close()


if __name__ == "__main__":
    call(int(sys.argv[1]), sys.argv[2:]) if len(sys.argv) > 2 else echo(int(sys.argv[1]))
