"""Events (what happened to a package, past tense) and actions (what to do, imperative). Pure data.

`at` and every other instant are seconds on the manager's clock. `cause` is the words for the journal.
"""

from __future__ import annotations

import msgspec

from .types import Health, Reason


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base. One event is given to exactly one package."""

    at: float
    cause: str = ""


class Acquired(Event, frozen=True, kw_only=True):
    """The lock is ours for `term`. `owing`: former holders that are not yet known to be down. `handed`: its holder has
    just given it back in order, and nothing of it can be up here by this node's doing."""

    term: int
    owing: bool = False
    handed: bool = False


class Settled(Event, frozen=True, kw_only=True):
    """Every former holder is known to be down."""


class LeaseLost(Event, frozen=True, kw_only=True):
    """The lock counts as lost. What is not verified down at `hard` (H) is cut off."""

    hard: float


class LeftBehind(Event, frozen=True, kw_only=True):
    """A former life of this node may have left the package up, and the lock is not ours."""

    hard: float


class HealthSeen(Event, frozen=True, kw_only=True):
    """A round of status came back. `curable`: everything that is down has a way to heal."""

    health: Health
    curable: bool = False


class HealthOverdue(Event, frozen=True, kw_only=True):
    """Not healthy for `timeout`."""


class HealFailed(Event, frozen=True, kw_only=True):
    """A resource that vanished could not be put back."""


class StartSucceeded(Event, frozen=True, kw_only=True):
    """Every resource has started."""


class StartFailed(Event, frozen=True, kw_only=True):
    """A resource did not start. `everywhere`: other nodes are not to try either."""

    everywhere: bool = False


class StartOverdue(Event, frozen=True, kw_only=True):
    """start_timeout has passed."""


class StopVerified(Event, frozen=True, kw_only=True):
    """Down: stop said so, status said so, and no process of any operation is alive."""


class StopFailed(Event, frozen=True, kw_only=True):
    """Not verified down, for a reason that waiting does not mend."""


class StopOverdue(Event, frozen=True, kw_only=True):
    """stop_timeout has passed, or H where the lock is lost."""


class HardDeadline(Event, frozen=True, kw_only=True):
    """H has passed without the lock."""


class SurvivorsGone(Event, frozen=True, kw_only=True):
    """No process of any operation of the package is alive any more on this node."""


class HaltAskedFor(Event, frozen=True, kw_only=True):
    """A person or a signal wants it halted here."""

    reason: Reason


class Withdrawn(Event, frozen=True, kw_only=True):
    """It is to run elsewhere, or nowhere; this node stays a stand-by."""


class StopUnfinished(Event, frozen=True, kw_only=True):
    """What was adopted had failed in a former life of this node, which was about to stop it. `everywhere`: as there."""

    everywhere: bool = False


class Released(Event, frozen=True, kw_only=True):
    """The lock is free, or another's: nothing of ours is left in its record."""


class HoldOffPassed(Event, frozen=True, kw_only=True):
    """Others have had their time to take a package that failed here."""


class SwitchedOff(Event, frozen=True, kw_only=True):
    """This node does not take part for this package (known at start, from its memory or the record)."""


class SwitchedOn(Event, frozen=True, kw_only=True):
    """A person enabled this node again."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Base. Carried out by the controller, in order, after the transition was journalled."""


class Look(Action, frozen=True):
    """One round of status now, and then one each pace."""


class Fence(Action, frozen=True):
    """Make sure that former holders are down."""


class StartResources(Action, frozen=True, kw_only=True):
    """Start all in order; to be done by `deadline`."""

    deadline: float


class HealResources(Action, frozen=True):
    """Put back what is down."""


class StopResources(Action, frozen=True, kw_only=True):
    """Cancel what runs, stop all in reverse order, verify; to be done by `deadline`."""

    reason: Reason
    deadline: float


class HurryStop(Action, frozen=True, kw_only=True):
    """The stop that runs has to be done by `deadline` now."""

    deadline: float


class CancelOperations(Action, frozen=True):
    """Kill what runs; start nothing more."""


class CutOff(Action, frozen=True):
    """Kill every process of the package on this node."""


class FenceSelf(Action, frozen=True):
    """This node is to be fenced now: what does not stop must not stay up."""


class SwitchOff(Action, frozen=True, kw_only=True):
    """Remember on this node's disk that it does not take part any more."""

    cause: str


class Release(Action, frozen=True):
    """Give the lock back, if it still is ours."""


class HoldOff(Action, frozen=True, kw_only=True):
    """Do not try for the lock before `until`."""

    until: float


class Leave(Action, frozen=True):
    """This package is done with on this node."""


EVENTS: tuple[type[Event], ...] = (
    Acquired,
    Settled,
    LeaseLost,
    LeftBehind,
    HealthSeen,
    HealthOverdue,
    HealFailed,
    StartSucceeded,
    StartFailed,
    StartOverdue,
    StopVerified,
    StopFailed,
    StopOverdue,
    HardDeadline,
    SurvivorsGone,
    HaltAskedFor,
    Withdrawn,
    StopUnfinished,
    Released,
    HoldOffPassed,
    SwitchedOff,
    SwitchedOn,
)
