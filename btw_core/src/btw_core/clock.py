"""The one clock of btw: seconds that neither stop in suspend nor step with the wall clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time; nothing else."""

    def now(self) -> float:
        """Seconds since an arbitrary instant, never going back. Does not block."""
        ...


class BootClock:
    """CLOCK_BOOTTIME (clock_gettime(2)): monotonic, goes on during suspend, the same in every process of a computer."""

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
