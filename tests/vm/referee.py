"""The judge outside: was anything active at two machines at a time?

In a machine, `python referee.py report NAME` says every 20 ms that NAME is active there, for as long as it runs; on the
host, `Referee` listens. Reports go over a wire of their own, which nobody cuts.

Each report carries the machine's boot-time clock, and what to add for the host's, measured by questions to the referee
when the reporter starts. So a report tells when its program ran, not when it arrived: a machine that stood still
delivers late what it said before, and is judged by when it said it (a machine's clocks go on while it is frozen).

Resolution: a report is exact to `error` (half a round trip, below 1 ms on a quiet computer). Two that overlap for
less than the time between reports plus both errors may pass unseen; who says nothing for GAP counts as inactive
in between. Nothing that did not overlap is ever seen as overlapping.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

PORT = 7000
#: Seconds between reports.
EVERY = 0.02
#: Seconds of silence that end a span: many reports, for machines share busy processors.
GAP = 0.5
_QUESTIONS = 10


@dataclass(frozen=True)
class Report:
    """NAME was active at a node at `at`, host's CLOCK_BOOTTIME, give or take `error`. `life` names one reporter."""

    name: str
    node: str
    life: str
    at: float
    error: float


@dataclass
class Span:
    """One reporter without a gap."""

    node: str
    life: str
    first: float
    last: float
    error: float


@dataclass(frozen=True)
class Overlap:
    """From `since` on, for about `seconds`, `a` and `b` were active both."""

    a: Span
    b: Span
    since: float
    seconds: float


def spans(reports: Iterable[Report], gap: float = GAP) -> list[Span]:
    """What reports of one name amount to, in order of their beginning."""
    made: list[Span] = []
    latest: dict[str, Span] = {}
    for report in sorted(reports, key=lambda each: each.at):
        span = latest.get(report.life)
        if span is None or report.at - span.last > gap:
            span = latest[report.life] = Span(report.node, report.life, report.at, report.at, report.error)
            made.append(span)
        span.last = report.at
    return made


def overlaps(reports: Iterable[Report], gap: float = GAP) -> list[Overlap]:
    """Every time that reporters of two nodes, or two reporters of one, were active together."""
    found = []
    for a, b in combinations(spans(reports, gap), 2):
        error = a.error + b.error
        if a.life != b.life and a.first + error <= b.last and b.first + error <= a.last:
            since = max(a.first, b.first)
            found.append(Overlap(a, b, since, max(0.0, min(a.last, b.last) - since - error)))
    return found


class Referee:
    """Listens on a UDP socket, which it closes in the end. A thread; all methods may be called from any."""

    def __init__(self, listening: socket.socket) -> None:
        self._socket = listening
        self._socket.settimeout(0.5)
        self._reports: list[Report] = []
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._listen, daemon=True, name="referee")
        self._thread.start()

    def reports(self, name: str, node: str = "") -> list[Report]:
        """So far, in the order of arrival."""
        with self._news:
            return [each for each in self._reports if each.name == name and node in ("", each.node)]

    def overlaps(self, name: str) -> list[Overlap]:
        return overlaps(self.reports(name))

    def wait(self, name: str, node: str = "", *, after: float = 0, timeout: float = 60) -> Report:
        """The first report of a node (or any) that was made later than `after`. TimeoutError when there is none."""
        found: list[Report] = []

        def look() -> bool:
            found[:] = [each for each in self.reports(name, node) if each.at > after]
            return bool(found)

        with self._news:
            if not self._news.wait_for(look, timeout):
                raise TimeoutError(f"{name} was not reported active at {node or 'any node'} within {timeout:g} s")
        return found[0]

    def close(self) -> None:
        self._ended = True
        self._thread.join(10)
        self._socket.close()

    def _listen(self) -> None:
        while not self._ended:
            try:
                data, sender = self._socket.recvfrom(1024)
            except TimeoutError:
                continue
            word, *rest = data.decode().split()
            if word == "time":
                self._socket.sendto(f"{rest[0]} {_clock():.6f}".encode(), sender)
            else:
                name, node, life, at, error = rest
                with self._news:
                    self._reports.append(Report(name, node, life, float(at), float(error)))
                    self._news.notify_all()


def report(name: str, address: str, *, every: float = EVERY, going: Callable[[], bool] = lambda: True) -> None:
    """Says that `name` is active here, while it is `going`. Blocks. Prints "active" after the first report."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    node, life = socket.gethostname(), f"{boot}/{os.getpid()}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.connect((address, PORT))
        offset, error = _measure(sending)
        first = True
        while going():
            sending.send(f"active {name} {node} {life} {_clock() + offset:.6f} {error:.6f}".encode())
            if first:
                print("active", flush=True)
                first = False
            time.sleep(every)


def _measure(asking: socket.socket) -> tuple[float, float]:
    """What to add to this clock for the referee's, and how wrong that may be."""
    asking.settimeout(1)
    found = []
    for number in range(_QUESTIONS):
        before = _clock()
        asking.send(f"time {number}".encode())
        answer = b""
        while not answer.startswith(b"%d " % number):  # a late answer to an earlier question is not this one's
            answer = asking.recv(1024)
        after = _clock()
        found.append((float(answer.split()[1]) - (before + after) / 2, (after - before) / 2))
    return min(found, key=lambda each: each[1])


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    if sys.argv[1:2] != ["report"] or len(sys.argv) != 4:
        sys.exit("usage: referee.py report NAME ADDRESS")
    report(sys.argv[2], sys.argv[3])
