"""What the manager needs of the outside, and what the outside tells it. The simulation replaces exactly these.

The manager is one object without threads, clocks or files of its own: `Manager.handle(report)` and `Manager.tick()`
run to their end without blocking; everything slow is asked for through a port and answered later by a report.
"""

from __future__ import annotations

from math import inf
from typing import Any, Protocol

import msgspec

from .clock import Clock
from .store import Record
from .types import Incarnation, Reason, Saved, Status, Verb


# ---- asked for by the manager -----------------------------------------------------------------------------------
class StoreCall(msgspec.Struct, frozen=True, kw_only=True):
    """A request to the store. `put` when value is given, `list` when key ends in "/" or is empty, else `get`."""

    id: int
    key: str
    value: bytes | None = None
    expected: int | None = None
    deadline: float = 1.0  # seconds


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One short-lived process. Instants are on the manager's clock (CLOCK_BOOTTIME)."""

    id: str  # unique for ever: nonce, counter
    package: str
    verb: Verb
    resource: str = ""  # start, stop, heal; fence by a resource
    term: int = 0
    reason: Reason = Reason.NONE
    deadline: float = 0.0  # the manager kills it then; what ctx.remaining() counts down to
    not_after: float = 0.0  # no effect begins from then on, as far as was known when it was ordered; 0 = no limit
    state: dict[str, Any] = {}  # of this resource
    holders: dict[str, tuple[str, ...]] = {}  # with a resource: see Context.holders
    handed_over: bool = False  # start: see Context.handed_over
    last: bool = False  # stop: nothing but the sweep comes after it, which may be done at once, see `swept`
    target: Incarnation | None = None  # fence
    only: tuple[str, ...] = ()  # sweep: only operations whose id begins with one of these; empty: all of the package

    def __str__(self) -> str:
        """For messages: "start of web", "sweep"."""
        return f"{self.verb} of {self.resource}" if self.resource else str(self.verb)


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the observer for one round of status."""

    id: int
    package: str
    term: int = 0
    resources: tuple[str, ...] = ()  # empty: all
    state: dict[str, dict[str, Any]] = {}


# ---- told to the manager ----------------------------------------------------------------------------------------
class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that comes in."""


class StoreAnswered(Report, frozen=True, kw_only=True):
    """Exactly one for each StoreCall, at the latest when its deadline has passed."""

    call: StoreCall
    sent: float  # instant before the call was sent
    revision: int | None = None  # of a successful put
    conflict: bool = False
    records: tuple[Record, ...] | None = None  # of get (none or one) and list
    unavailable: str = ""  # why nobody can tell


class StoreChanged(Report, frozen=True, kw_only=True):
    """The watch saw new revisions."""

    records: tuple[Record, ...]


class OperationEnded(Report, frozen=True, kw_only=True):
    """The operation's process is gone, and where it was killed everything that it had started. Comes once for each
    operation that ends; an operation that cannot be killed (D state) never sends it."""

    id: str
    ok: bool
    answered: bool = True  # False: its process ended, not on our word, without saying how it went
    error: str = ""
    state: dict[str, Any] | None = None  # new ctx.state of the resource; None: unchanged
    survivors: tuple[str, ...] = ()  # sweep, survey, fence: "pid 12 (sleep), state D in fuse_wait"
    everywhere: bool = False  # a start that other nodes are not to try either
    swept: bool = False  # a last stop: the sweep behind it has found nobody, and need not be asked for


class ResourceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One resource in a round of status. status None = cannot tell."""

    resource: str
    status: Status | None
    detail: str = ""


class Looked(Report, frozen=True, kw_only=True):
    """Answer of the observer. id 0: unasked, a watch descriptor fired (then only the resources concerned)."""

    id: int
    package: str
    results: tuple[ResourceHealth, ...]


class Logged(Report, frozen=True, kw_only=True):
    """A line printed by a resource's operation or status (already bounded in length and rate)."""

    package: str
    resource: str
    text: str


class ExecutorLost(Report, frozen=True, kw_only=True):
    """Zygote or observer ended and is being restarted; operations that ran are reported one by one as well."""

    what: str
    cause: str


class HaltAsked(Report, frozen=True, kw_only=True):
    """A person or a signal wants packages halted. package "" = all."""

    package: str = ""
    reason: Reason = Reason.USER
    cause: str = ""


class EnableAsked(Report, frozen=True, kw_only=True):
    """A person wants this node to take part again for the package (after `critical`)."""

    package: str
    cause: str = ""


# ---- the ports --------------------------------------------------------------------------------------------------
class StorePort(Protocol):
    def submit(self, call: StoreCall) -> None:
        """Does not block. Answered by StoreAnswered."""
        ...


class Executor(Protocol):
    """Operations and observation. No method blocks."""

    def operate(self, operation: Operation) -> None: ...

    def kill(self, operation: str) -> None:
        """SIGKILL to the operation's processes, descendants included; may be repeated."""
        ...

    def prepare(self, package: str, operation: str) -> None:
        """Have a process ready for the operation of this id, the package's next one; "" = none any more. It does
        nothing before it is ordered, and whatever becomes of it: an operation that finds none is begun without."""
        ...

    def look(self, look: Look) -> None: ...

    def watch(self, package: str, term: int, state: dict[str, dict[str, Any]]) -> None:
        """Ask for unasked `Looked` of this package from now on; again to renew `state`."""
        ...

    def unwatch(self, package: str) -> None: ...


class Disk(Protocol):
    """The node's memory."""

    def load(self, package: str) -> Saved | None:
        """None: nothing remembered. Raises ValueError (damaged)."""
        ...

    def known(self, package: str, *, here: bool = False) -> bool:
        """Some node of this computer (`here`: this one) has seen a term of the package, or cannot say. Does not raise.
        """
        ...

    def save(self, package: str, saved: Saved, *, durable: bool = True) -> None:
        """For whoever loads it in this boot. What counts after a crash of the computer as well (`Saved.lasting`) is on
        the disk on return; not `durable`: it may come with a later save. Raises OSError."""
        ...


class Journal(Protocol):
    def write(
        self, event: str, *, package: str = "", cause: str = "", state: str = "", term: int = 0, **data: Any
    ) -> None:
        """One line, stamped with the time; never raises, never blocks for long."""
        ...


#: A term that is held, and the instant before which an effect under it may begin.
Lock = tuple[int, float]


class Keeper(Protocol):
    """Who watches over this manager, through the pulse. No method blocks (memory only)."""

    #: W: seconds in which the watchdog fires once it is not fed; 0 without one.
    window: float

    def attached(self) -> bool:
        """A keeper lives and looks (or none is needed): without one no lock is taken and none is renewed."""
        ...

    def former(self, package: str) -> tuple[float, float] | None:
        """What a former life of this node in this boot said last of a package that may be up: its `lost_at` and
        `hard`; infinite when none was told. None: nothing is known, so they may have passed."""
        ...

    def lease(self, package: str, lost_at: float, hard: float, lock: Lock | None = None) -> None:
        """The package may be up from now on. Its lock counts as lost at `lost_at`; what is up at `hard` (H) is cut
        off, by the keeper if nobody else does it. `lock`: for the operations that run; None: it is not held."""
        ...

    def down(self, package: str, lock: Lock | None = None) -> None:
        """It is verified down. `lock`: as above."""
        ...

    def tell(self) -> None:
        """What `lease` and `down` have said counts when this returns: before each operation, and after each report."""
        ...


class Unkept:
    """`Keeper` for short runs that leave everything as it is (`btw try`), and for tests."""

    window = 0.0

    def attached(self) -> bool:
        return True

    def former(self, package: str) -> tuple[float, float] | None:
        return inf, inf

    def lease(self, package: str, lost_at: float, hard: float, lock: Lock | None = None) -> None:
        pass

    def down(self, package: str, lock: Lock | None = None) -> None:
        pass

    def tell(self) -> None:
        pass


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    clock: Clock
    store: StorePort
    executor: Executor
    disk: Disk
    journal: Journal
    keeper: Keeper = Unkept()
