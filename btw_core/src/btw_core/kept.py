"""The manager's side of the pulse: `ports.Keeper`, and another keeper when the one that there was ended."""

from __future__ import annotations

import contextlib
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TypeVar

from .clock import boottime
from .cutoff import kill
from .disk import Busy
from .ports import Lock
from .pulse import STALE, Held, ManagerHalf, Pulse, start_of
from .types import Incarnation

#: Seconds without a beat that count as a stall while everything is being loaded.
LOADING = 10.0
#: Seconds between two attempts to start a keeper.
AGAIN = 1.0
Limits = tuple[float, float]
T = TypeVar("T")
Say = Callable[[str, str], None]


def promise(keeper: Sequence[str]) -> str:
    """The self_fence of a keeper with this command: what its managers may promise. "none" without one: nobody looks
    after what a short run leaves up."""
    return keeper[keeper.index("--self-fence") + 1] if keeper else "none"


def outdated(keeper: Sequence[str], now: Sequence[str]) -> str:
    """What a keeper with the command `keeper` does not know of, when `now` would be the one: btw.toml was changed."""
    names = ("--self-fence", "--watchdog", "--window", "--priority")
    had, has = (
        {name: words[words.index(name) + 1] for name in names if name in words} for words in (list(keeper), list(now))
    )
    changed = [f"{name[2:]} {had.get(name, 'not set')}, now {has.get(name, 'not set')}" for name in names]
    return "; ".join(text for name, text in zip(names, changed, strict=True) if had.get(name) != has.get(name))


class Kept:
    """`ports.Keeper` on `path`. `say(event, cause)` writes the journal; `elsewhere(package)`: another manager of this
    node has it.

    `keeper` is the command of another keeper. Without one this is a short run that leaves everything as it is: it keeps
    the pulse itself, needs no keeper, and what it leaves up is up without a limit."""

    def __init__(
        self,
        path: Path,
        me: Incarnation,
        names: Iterable[str],
        keeper: Sequence[str],
        *,
        say: Say,
        elsewhere: Callable[[str], bool],
    ) -> None:
        self.window = 0.0
        self.trouble = ""
        self._path, self._me, self._names, self._say = path, me, set(names), say
        self._command, self._elsewhere = keeper, elsewhere
        self._half = ManagerHalf(pid=me.pid, start=me.pid_start, stall=LOADING, home=me.home, cgroup=me.cgroup)
        self._half = self._half._replace(fence=me.self_fence)
        self._leases: dict[str, Limits] = {}
        self._locks: dict[str, Lock] = {}
        self._former: Mapping[str, Limits] = {}
        self._untold = False
        self._pulse: Pulse | None = None
        self._alone: float | None = None  # without a keeper since
        self._next = 0.0  # when to start another one
        self._starter: subprocess.Popen[bytes] | None = None

    def open(self, names: Iterable[str] | None = None) -> None:
        """The first beat. `names`: what this manager has after all, for others may have some of it. Blocks on the
        directory only. Raises OSError, ValueError; Busy: this is a short run, and a keeper has the slot."""
        boot = self._me.boot
        self._names = self._names if names is None else set(names)
        try:
            self._pulse = Pulse.open(self._path, boot) if self._command else Pulse.keep(self._path, boot)
        except Held as held:
            slot = self._me.slot
            raise Busy(
                f"package {slot} is managed on node {self._me.node} by {held}: see `btw status {slot}`, end it with "
                f"`btw stop {slot} --node {self._me.node}`"
            ) from None
        half = self._pulse.manager()
        self._leases = dict(half.leases) if half else {}
        others = self._others()
        for _, other in others:
            self._leases |= {name: limits for name, limits in other.leases.items() if self._minds(name, limits)}
        self._former = dict(self._leases)
        self.beat("")
        for pulse, other in others:  # only now: between the two it is in both
            left = {name: limits for name, limits in other.leases.items() if not self._minds(name, limits)}
            pulse.write(other._replace(leases=left))
            pulse.close()
        for name in sorted(self._leases.keys() - self._names):
            after = max(0.0, self._leases[name][1] - boottime())
            remedy = f"btw run {name}, or it is cut off in {after:.0f} s, when its hard deadline has come"
            self._say("left_behind", f"{name} may be up here, and its manager is dead: {remedy}")

    def _minds(self, name: str, limits: Limits) -> bool:
        """Ours; or, with a keeper, what nobody else sees to: it has to be gone at its H. What `btw try` left up has
        none."""
        return name in self._names or (bool(self._command) and limits[1] < inf)

    def _others(self) -> list[tuple[Pulse, ManagerHalf]]:
        """What dead managers of other slots of this node left up."""
        found = []
        for path in sorted(self._path.parent.glob("*.pulse")):
            if path == self._path:
                continue
            try:
                pulse = Pulse.keep(path, self._me.boot)
            except Held:  # its keeper lives, and minds what it has until we have it
                self._inherit(path)
                continue
            except OSError:
                continue
            half = pulse.manager()
            if half is not None and any(self._minds(name, limits) for name, limits in half.leases.items()):
                found.append((pulse, half))
            else:
                pulse.close()
        return found

    def _inherit(self, path: Path) -> None:
        """What the manager of another slot has taken on from a dead one, and we manage now."""
        with contextlib.suppress(OSError, ValueError):
            pulse = Pulse.look(path, self._me.boot)
            half = pulse.manager()
            self._leases |= {name: each for name, each in (half.leases if half else {}).items() if name in self._names}
            pulse.close()

    # ---- ports.Keeper
    def attached(self) -> bool:
        """See `ports.Keeper`. A pulse that is gone binds nobody to anything."""
        pulse = self._pulse
        if not self._command:
            return True
        if pulse is None or pulse.gone():
            return False
        keeper = pulse.keeper()
        return keeper is not None and boottime() - keeper.beat <= STALE

    def former(self, package: str) -> Limits | None:
        """See `ports.Keeper`."""
        return self._former.get(package)

    def lease(self, package: str, lost_at: float, hard: float, lock: Lock | None = None) -> None:
        """See `ports.Keeper`."""
        self._note(package, (lost_at, hard) if self._command else (inf, inf), lock)

    def down(self, package: str, lock: Lock | None = None) -> None:
        """See `ports.Keeper`."""
        self._note(package, None, lock)

    def _note(self, package: str, limits: Limits | None, lock: Lock | None) -> None:
        if (self._leases.get(package), self._locks.get(package)) == (limits, lock):
            return
        _put(self._leases, package, limits)
        _put(self._locks, package, lock)
        self._untold = True

    def tell(self) -> None:
        """See `ports.Keeper`. One write for all: a renewal moves the leases of all packages."""
        if self._untold:
            self._write()

    # ---- the node's side
    @property
    def pid(self) -> int:
        """Of the keeper; 0: there is none."""
        keeper = self._pulse.keeper() if self._pulse else None
        return keeper.pid if keeper and self._command else 0

    def began(self, stall: float) -> None:
        """Everything is loaded, people can ask: from now on a loop that stands still for `stall` seconds is killed."""
        self._half = self._half._replace(stall=stall, ready=True)

    def beat(self, said: str) -> None:
        """The loop runs. `said`: a line about the packages, for the service manager."""
        now = boottime()
        self._half = self._half._replace(beat=now, said=said)
        if self._pulse is not None and self._pulse.gone():
            with contextlib.suppress(OSError, ValueError):  # until its keeper has made another one
                fresh = Pulse.open(self._path, self._me.boot)
                self._pulse.close()
                self._pulse = fresh
        for name in [each for each in self._leases if each not in self._names and self._elsewhere(each)]:
            del self._leases[name]  # once ours, left up, and now another manager's to answer for
        self._write()
        if self._command:
            self._tend(now)

    def end(self, code: int) -> None:
        """The last that is written. Our keeper may not be our parent, and then has no other way to know."""
        self._half = self._half._replace(ended=code)
        self._write()
        if not self._command and self._pulse is not None and not self._leases and not self._pulse.gone():
            self._path.unlink()
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None

    def _write(self) -> None:
        self._untold = False
        if self._pulse is not None:
            self._pulse.write(self._half._replace(leases=self._leases, locks=self._locks))

    def _tend(self, now: float) -> None:
        assert self._pulse is not None
        keeper = self._pulse.keeper()
        if keeper is not None:
            self.window = keeper.window
        if self._starter is not None and self._starter.poll() is not None:
            self._starter = None
        alive = keeper is not None and start_of(keeper.pid) == keeper.start
        if alive and self.attached():
            if self._alone is not None:
                self._say("keeper_back", f"pid {self.pid} looks after this manager")
            self._alone, self.trouble = None, ""
            return
        if self._alone is None:
            self._alone = self._next = now
            who = f"pid {keeper.pid}" if keeper else "its keeper"
            self.trouble = f"no keeper looks after this manager: {who} {'does not beat' if alive else 'has ended'}"
            self._say("keeper_lost", f"{self.trouble}; without one no lock is taken or renewed")
        # what was frozen together with us, and goes on now, has some time to show it
        if now < self._next or (alive and now < self._alone + AGAIN):
            return
        if keeper is not None and alive:
            kill(keeper.pid, keeper.start)  # it hangs, and holds the pulse
        elif self._starter is None and not (keeper is not None and keeper.served):  # else the service manager does it
            self._next = now + AGAIN
            self._start()

    def _start(self) -> None:
        try:
            self._starter = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            self.trouble = f"no keeper looks after this manager, and none can be started: {error.strerror}"


def _put(where: dict[str, T], package: str, what: T | None) -> None:
    if what is None:
        where.pop(package, None)
    else:
        where[package] = what


class Lag:
    """How late the loop was. Seconds; `tell(cause)` when it was later than `allowed`, once until it was in time for
    SPAN seconds."""

    SPAN = 60.0

    def __init__(self, allowed: float, tell: Callable[[str], None]) -> None:
        self._allowed, self._tell = allowed, tell
        self._seen: deque[tuple[float, float]] = deque()  # instant, lateness: decreasing
        self._told = -inf

    def saw(self, late: float) -> None:
        now = boottime()
        while self._seen and self._seen[-1][1] <= late:
            self._seen.pop()
        self._seen.append((now, late))
        if late > self._allowed:
            if now - self._told > self.SPAN:
                self._tell(f"the manager was kept waiting for {late:.2f} s: this computer is too busy for it")
            self._told = now

    @property
    def trouble(self) -> str:
        """For people; "" while all is well."""
        worst = self.worst
        return f"kept waiting for up to {worst:.2f} s in the last minute: too busy" if worst > self._allowed else ""

    @property
    def worst(self) -> float:
        """Of the last SPAN seconds."""
        now = boottime()
        while self._seen and now - self._seen[0][0] > self.SPAN:
            self._seen.popleft()
        return self._seen[0][1] if self._seen else 0.0
