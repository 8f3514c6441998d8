"""Virtual time: one true time line, and computers whose clocks have their own offset and rate."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Scheduler:
    """Things to be done at instants of true time, in their order; equal instants in the order of asking."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, do))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self.at(self.now + seconds, do)

    def stop(self) -> None:
        """Nothing is left to be done."""
        self._heap.clear()

    def run(self, until: float) -> None:
        """Do everything up to the instant `until`, jumping from one thing to the next."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, do = heapq.heappop(heap)
            do()
        self.now = until


class LocalClock:
    """A computer's CLOCK_BOOTTIME (ports.Clock): `rate` seconds pass on it in each true second."""

    def __init__(self, scheduler: Scheduler, rate: float = 1.0, offset: float = 0.0) -> None:
        self._scheduler, self.rate, self.offset = scheduler, rate, offset

    def now(self) -> float:
        return self.offset + self.rate * self._scheduler.now

    def true(self, local: float) -> float:
        """The true instant at which this clock shows `local`."""
        return (local - self.offset) / self.rate
