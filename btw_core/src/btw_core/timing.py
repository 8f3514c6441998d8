"""The inequalities that hold the promises together. Pure arithmetic; every formula of docs/design.md "Time".

Symbols: P pace, T timeout, S stop_timeout, r renewal deadline, rho relative clock rate error, W watchdog timeout,
g grace, L lease. `sent` is the local instant before the committed renewal was sent.
"""

from __future__ import annotations

from math import inf

import msgspec

#: One renewal retry after a failed one comes at most this many seconds later.
RETRY_CEILING = 0.5
#: Seconds without a beat that are never taken for a stall, whatever the pace: computers are busy.
SHORTEST_STALL = 2.0
#: Seconds an operation process may take to vanish after SIGKILL before the next one is begun beside it.
KILL_GRACE = 1.0


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """The times of one package, in seconds."""

    pace: float = 4.0
    timeout: float = 30.0
    start_timeout: float = 30.0
    stop_timeout: float = 30.0
    clock_error: float = 0.01  # rho: clocks of two nodes run apart by at most this share
    slack: float = 0.5  # scheduling slack: how late a process may run that should run now
    watchdog: float = 0.0  # W, 0 without a watchdog

    @property
    def renewal_deadline(self) -> float:
        """r: how long one try of a renewal may take; leaves room for two tries and a pace below T."""
        return min(self.pace, (self.timeout - self.pace) / 3)

    @property
    def grace(self) -> float:
        """g = 2 rho (T + S) + slack + W."""
        return 2 * self.clock_error * (self.timeout + self.stop_timeout) + self.slack + self.watchdog

    @property
    def lease(self) -> float:
        """L = T + S + g: how long a stand-by must see the holder silent."""
        return self.timeout + self.stop_timeout + self.grace

    @property
    def retry(self) -> float:
        """Seconds between a failed try of a renewal and the next."""
        return min(self.pace, RETRY_CEILING)

    @property
    def stall(self) -> float:
        """Seconds without a beat after which the keeper kills a manager: the next one still has time to renew twice."""
        return max(SHORTEST_STALL, (self.timeout - self.pace) / 3)

    def lost_at(self, sent: float) -> float:
        """The lock counts as lost from this instant on."""
        return sent + self.timeout

    def hard_at(self, sent: float) -> float:
        """H: what is not verified down by this instant is cut off."""
        return sent + self.timeout + self.stop_timeout

    def worst_failover(self) -> float:
        """Seconds from the last committed renewal of a vanished holder until a stand-by has the lock: L, a pace until
        it sees that renewal, and four answers of at most r each (the renewal, the reading that sees it, the one that
        ends L, which is not left to the next pace, and the stand-by's own CAS)."""
        return self.lease + self.pace + 4 * self.renewal_deadline


def violations(timing: Timing) -> list[str]:
    """Every inequality that `timing` breaks, with its numbers and the remedy; empty when all hold."""
    t = timing
    found = []
    for key in ("pace", "timeout", "start_timeout", "stop_timeout"):
        if not 0 < getattr(t, key) < inf:
            found.append(f"{key} = {getattr(t, key):g} s: must be greater than 0, and finite")
    if not 0 <= t.clock_error < 0.5:
        found.append(f"clock_error = {t.clock_error:g}: must be at least 0 and below 0.5 (0.01 is 1 %)")
    for name, value in (("scheduling_slack", t.slack), ("watchdog", t.watchdog)):
        if not 0 <= value < inf:
            found.append(f"{name} = {value:g} s: must be at least 0, and finite")
    if found:
        return found
    if t.timeout <= t.pace:
        found.append(
            f"timeout {t.timeout:g} s <= pace {t.pace:g} s: a renewal must fit between them "
            f"(pace + 2 r < timeout); raise timeout to at least {2 * t.pace:g} s or lower pace"
        )
    elif not t.pace + 2 * t.renewal_deadline < t.timeout:
        found.append(
            f"pace {t.pace:g} s + 2 x renewal deadline {t.renewal_deadline:g} s is not below timeout {t.timeout:g} s"
        )
    elif t.watchdog and not 2 * t.watchdog <= t.timeout + t.stop_timeout - t.pace - t.renewal_deadline:
        found.append(
            f"2 x watchdog_timeout {t.watchdog:g} s > timeout {t.timeout:g} + stop_timeout {t.stop_timeout:g} - pace"
            f" {t.pace:g} - renewal deadline {t.renewal_deadline:g} s: a start begins only while the watchdog could"
            " cut it off twice over; raise stop_timeout or set a shorter watchdog_timeout"
        )
    return found
