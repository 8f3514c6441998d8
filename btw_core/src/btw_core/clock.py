"""The one clock of btw: seconds that neither stop in suspend nor step with the wall clock. It starts with each boot."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol


def boottime() -> float:
    """Seconds on CLOCK_BOOTTIME (clock_gettime(2)), the clock of all deadlines: monotonic, goes on during suspend, the
    same in every process of a computer."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Names this boot of this computer (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Clock(Protocol):
    """Tells the time; nothing else."""

    def now(self) -> float:
        """Seconds since an arbitrary instant, never going back. Does not block."""
        ...


class BootClock:
    """`boottime`."""

    def now(self) -> float:
        return boottime()
