"""Whether the lock still counts, as an operation asks right before each effect: the live lease in the pulse.

The manager writes there until when an effect may begin under which term; a reading costs microseconds. Where there is
no pulse, or nothing of it can be read, the last good reading counts, and before the first one what the operation was
ordered with: both are instants, so that they run out by themselves.
"""

from __future__ import annotations

from math import inf
from pathlib import Path

from .clock import boot_id, boottime
from .pulse import Pulse


class Hold:
    """One term of a package's lock. `pulse`: path of the manager's pulse, "" for none. `not_after`: an instant of
    CLOCK_BOOTTIME, 0 for no limit."""

    def __init__(self, pulse: str, package: str, term: int, not_after: float) -> None:
        self._path, self._package, self._term = pulse, package, term
        self._until = not_after or inf
        self._pulse: Pulse | None = None
        self._open()

    def trouble(self) -> str:
        """Why no effect may begin at this very moment; "" when it may. Does not block."""
        self._read()
        if boottime() >= self._until and self._pulse is not None and self._pulse.gone():
            self._open()  # the keeper has made another one, and that is where the manager writes now
            self._read()
        if boottime() < self._until:
            return ""
        return f"the lock has run out, or term {self._term} is over: no further effect may begin here"

    def _open(self) -> None:
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None
        if self._path:
            try:
                self._pulse = Pulse.look(Path(self._path), boot_id())
            except (OSError, ValueError):  # then what is known already has to do
                self._pulse = None

    def _read(self) -> None:
        half = self._pulse.manager() if self._pulse is not None else None
        if half is None or half.locks is None:
            return
        term, until = half.locks.get(self._package, (0, 0.0))
        self._until = until if term == self._term else 0.0
