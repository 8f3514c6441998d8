"""When the observer lets the herald speak for one address, and the gateway that is asked now and then.

The lock is not seen here. What is: the manager asks how the address is once a pace while it holds the lock, and only
then. So an announcement is sent when such a question comes, or shortly after one (LIVELY, at most a quarter of
`timeout`), and not when the one before was longer ago than `timeout`: then everything was frozen, and the question may
be from before that.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from math import inf

from btw_core.clock import boottime

from . import packets
from .address import IP
from .herald import order
from .kernel import Link
from .wire import Wire, ask

#: Seconds after the start until the second burst of announcements: what was lost in a switch that was just learning.
AGAIN = 5.0
#: Frames that answer another node's claim come at most this often: DEFEND_INTERVAL of RFC 5227 (1.1).
DEFEND = 10.0
#: Seconds for which the manager's last question stands.
LIVELY = 5.0
#: Seconds within which two questions are one: what waited in a frozen process comes all at once.
ONE = 0.2
#: Announcements at once.
BURST = 3


class Pulse:
    """The rhythm of the manager's questions, in instants of CLOCK_BOOTTIME."""

    def __init__(self, last: float) -> None:
        self._last, self._steady = last, True

    def beat(self, now: float, timeout: float) -> None:
        """A question."""
        if now - self._last >= ONE:
            self._steady = now - self._last <= timeout
            self._last = now

    def lively(self, now: float, timeout: float) -> bool:
        """The manager held the lock just now."""
        return self._steady and now - self._last <= min(LIVELY, timeout / 4)


class Voice:
    """One address since its start at `since`, or its last heal."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.pulse = Pulse(since)
        self.disputed = False
        self._spoken, self._mac = since, b""
        self._again = True
        self._defended = -inf

    def due(self, now: float, mac: bytes, refresh: float) -> int:
        """How many announcements are to be sent now."""
        if self._mac not in (b"", mac):
            return BURST
        if self._again and now - self.since >= AGAIN:
            return BURST
        if self.disputed and now - self._defended >= DEFEND:
            return 1
        return 1 if refresh and now - self._spoken >= refresh else 0

    def spoke(self, now: float, mac: bytes) -> None:
        """They were sent."""
        self._again = self._again and now - self.since < AGAIN
        if self.disputed:
            self.disputed, self._defended = False, now
        self._spoken, self._mac = now, mac

    def heard(self, mac: bytes) -> None:
        """What is at this address has not changed yet."""
        self._mac = self._mac or mac


def tell(herald: str, link: Link, ip: IP, times: int) -> bool:
    """Let the herald announce. Does not block. False: there is none, or it does not read."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as mouth:
        mouth.setblocking(False)
        try:
            for frame in packets.announcements(link.mac, ip) * times:
                mouth.sendto(order(boottime(), frame), "\0" + herald)
        except OSError:
            return False
    return True


class Voices:
    """All of a process."""

    def __init__(self) -> None:
        self._voices: dict[tuple[str, str], Voice] = {}

    def of(self, key: tuple[str, str], since: float) -> Voice:
        voice = self._voices.get(key)
        if voice is None or voice.since != since:
            voice = self._voices[key] = Voice(since)
        return voice


class Gateways:
    """Whether gateways answer, asked at most once in FRESH seconds for however many addresses."""

    FRESH = 1.0
    #: Seconds in which one has to answer.
    LIMIT = 0.5

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[tuple[int, IP], tuple[float, bool]] = {}

    def answers(self, link: Link, ip: IP) -> bool:
        """Blocks at most LIMIT for each of those that ask at the same time."""
        with self._lock:
            asked, answered = self._answers.get((link.ifindex, ip), (-inf, False))
            if boottime() - asked > self.FRESH:
                answered = False
                # suppressed: the link went down meanwhile, which is no answer
                with contextlib.suppress(OSError), Wire(link, packets.ethertype(ip), [ip]) as wire:
                    answered = ask(wire, ip, self.LIMIT) is not None
                self._answers[link.ifindex, ip] = boottime(), answered
            return answered
