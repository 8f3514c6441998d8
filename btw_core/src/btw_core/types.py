"""Words shared by every module: states, health, package and node descriptions. Pure: imports no I/O.

All times are seconds as float; all instants are on the caller's clock (CLOCK_BOOTTIME in a real node).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from .timing import Timing


class State(StrEnum):
    """Where a package is on this node. The first four do nothing to resources."""

    STANDBY = "stand-by"  # does not hold the lock, tries to get it
    OFF = "off"  # switched off on this node (after `critical`); does not try
    FENCING = "fencing"  # holds the lock; former holders are not yet known to be down
    UNKNOWN = "unknown"  # holds the lock; first status not yet seen
    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"  # up, but not healthy: the health countdown runs
    HALTING = "halting"  # stopping, will not come back by itself
    FAILING = "failing"  # stopping after a failure
    STUCK = "stuck"  # stop failed or not verified: never released
    HALTED = "halted"  # verified down, on request
    FAILED = "failed"  # verified down, after a failure


class Status(StrEnum):
    """What a resource's `status` answers."""

    UP = "up"
    DOWN = "down"
    DEGRADED = "degraded"
    CRITICAL = "critical"


class Health(StrEnum):
    """What a round of `status` over all resources of a package amounts to."""

    UP = "up"  # every resource up
    DOWN = "down"  # every resource down
    PARTLY = "partly"  # at least one down, not all
    DEGRADED = "degraded"  # none down, at least one degraded
    CRITICAL = "critical"  # at least one critical
    CANNOT_TELL = "cannot tell"  # none critical or down, at least one could not say, or no answer


class Reason(StrEnum):
    """Why a stop happens; scripts see it as BTW_REASON."""

    NONE = ""
    FAILURE = "failure"
    START_FAILED = "start_failed"
    CRITICAL = "critical"
    USER = "user"
    LOCK_LOST = "lock_lost"
    LEFT_BEHIND = "left_behind"  # a former life of this node left it up, and the lock is not ours any more


class Verb(StrEnum):
    """What an operation process does."""

    START = "start"
    STOP = "stop"
    HEAL = "heal"
    SWEEP = "sweep"  # kill what the package's operations left behind; say what survives
    SURVEY = "survey"  # only say what survives
    FENCE = "fence"  # make sure that another incarnation on this computer is dead, or shut out by a resource


class ResourceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the core knows of a resource; its parameters are the plugin's business."""

    name: str
    type: str
    shared: bool = False  # touches what other machines can touch
    heals: bool = False  # has a `heal` method
    fences: bool = False  # has a `fence` method
    layer: str = "program"
    start_timeout: float | None = None
    stop_timeout: float | None = None


class PackageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A package as the core sees it; resources in start order."""

    name: str
    timing: Timing
    resources: tuple[ResourceSpec, ...]
    instance: str = ""  # of a multi-node package: the name of this node's lock, such as "web@n1"
    on_stop_failure: str = "hold"  # or "fence"
    description: str = ""
    path: str = ""

    @property
    def lock(self) -> str:
        """The name of its lock record."""
        return self.instance or self.name

    @property
    def fences(self) -> tuple[str, ...]:
        """The resources that can shut out a former holder on the disk."""
        return tuple(r.name for r in self.resources if r.fences)

    @property
    def beyond_the_disk(self) -> tuple[str, ...]:
        """What else of it touches what other machines can touch: a node that only its disk refuses still has that."""
        return tuple(r.name for r in self.resources if r.shared and r.layer not in ("fencing", "storage"))

    @property
    def disk_pays(self) -> bool:
        """A former holder that the disk refuses can meet its successor nowhere."""
        return bool(self.fences) and not self.beyond_the_disk


class Incarnation(msgspec.Struct, frozen=True, kw_only=True):
    """One life of a node's manager family. `nonce` alone identifies it; the rest says where it lived.

    `machine` is /etc/machine-id (or its stand-in), `boot` /proc/sys/kernel/random/boot_id, `slot` the last part
    of its session key `sessions/NODE/SLOT`; `pid` and `pid_start` (field 22 of /proc/PID/stat) name the manager
    process, `cgroup` the cgroup v2 directory below which its operations live ("" where there is none), `home`
    what marks its processes (node name and a hash of the state directory). `self_fence` is what it promises to have
    done to itself before a lease L has passed without a renewal, see docs/design.md: "none", "stop", "reboot" or
    "watchdog". `macs` are those of its Ethernet interfaces when it began.
    """

    node: str
    machine: str
    boot: str
    nonce: str
    slot: str
    pid: int = 0
    pid_start: int = 0
    cgroup: str = ""
    home: str = ""
    self_fence: str = "none"
    macs: tuple[str, ...] = ()


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """What a node remembers of a package across lives of its manager, written before any effect."""

    incarnation: Incarnation
    heirs: tuple[Incarnation, ...] = ()  # later lives, each of which was about to take over what `incarnation` had
    term: int = 0  # highest term ever seen here: the local floor
    may_be_up: bool = False  # a start was intended and not yet verified undone
    pending: tuple[str, ...] = ()  # operation ids that were begun and not seen to end
    off: str = ""  # why this package is switched off on this node ("" = on)
    failed: str = ""  # why it is being stopped here, until it is down: whoever adopts it goes on with that
    everywhere: bool = False  # other nodes are not to try either
    state: dict[str, dict[str, Any]] = {}  # per resource name: what the plugin keeps (ctx.state)

    @property
    def lasting(self) -> tuple[int, str]:
        """What counts in another boot as well: after a crash of the computer nothing else of it is there."""
        return self.term, self.off

    @property
    def lives(self) -> tuple[Incarnation, ...]:
        """Whom the lock record may name: a life that was killed may have taken it, and not come to say so here."""
        return (self.incarnation, *self.heirs)
