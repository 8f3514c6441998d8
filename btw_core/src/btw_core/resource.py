"""What a plugin author writes: a Resource, and the Context that its methods are given.

A resource is a frozen struct; its fields are its parameters. Methods are plain blocking Python and run in processes of
their own: `start`, `stop` and `heal` in a short-lived operation process, `status` and `watch` in the observer. None of
them runs in the manager, so none can harm the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

import msgspec
from msgspec import Meta

from .types import Reason, Status, Verb

T = TypeVar("T")


class Seconds(float):
    """A length of time. In TOML a number of seconds, or text with a unit: "500ms", "10s", "2m", "1h"."""


class CannotTell(Exception):
    """Raised by `status`: neither up nor down can be said now. Never counts as down."""


class Failed(Exception):
    """Raised by `start`, `stop`, `heal`: did not work, with a message for the operator (what, limit, remedy).
    Any other exception is a defect of the plugin; it counts as failed as well and is journalled with its place."""


class FailedEverywhere(Failed):
    """Raised by `start`: other nodes are not to try it either. A `btw daemon` switches auto_run off; for `btw run`,
    which has no such switch, it is like any failure."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something wrong or risky in the configuration: where, what was found, what is allowed, what to do."""

    text: str
    remedy: str = ""
    severity: str = "error"  # error: refused; warning: said, and run anyway
    file: str = ""
    line: int = 0
    key: str = ""  # parameter

    def __str__(self) -> str:
        """`file:line: key: what; remedy`, a warning marked as one."""
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        severity = "" if self.severity == "error" else self.severity
        what = f"{self.text}; {self.remedy}" if self.remedy else self.text
        return ": ".join(part for part in (place, severity, self.key, what) if part)


class ConfigError(Exception):
    """The configuration is refused. `problems` holds everything that was found, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class Completed(msgspec.Struct, frozen=True, kw_only=True):
    """A command that ended. `output` is stdout and stderr, bounded to its last 64 KiB."""

    code: int
    output: str


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A spawned service: pid and start time (field 22 of /proc/PID/stat) name it for the life of the computer."""

    pid: int
    start_time: int


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """Who held the package's lock, did not give it back, and is not known to be down."""

    node: str


class Context(Protocol):
    """What a method may know and use. It never sees the lock."""

    cluster: str
    node: str
    package: str
    resource: str
    term: int
    verb: Verb | None  # None in status and watch
    reason: Reason
    #: Nodes that hold or have held the package, this one included, with the Ethernet addresses they had then
    #: ("02:00:5e:00:53:01"), as its lock record says. Empty in status and watch.
    holders: Mapping[str, Sequence[str]]
    #: Start: whoever held the package before had it up and was halted a moment ago (within two paces of this node),
    #: verified down there, so that nobody but us can have got what clients look for.
    handed_over: bool
    #: Small, persisted by the core when the operation ends (also when it failed); read-only in status and watch.
    state: dict[str, Any]

    def remaining(self) -> float:
        """Seconds left until this operation is killed, at least 0."""
        ...

    def recheck(self) -> None:
        """Call it right before each effect: raises Failed unless the lock is still held at this very instant, and there
        is time for what begins now to be cut off. An operation may have stood still since it was ordered, or last
        longer than a lease. Costs microseconds, does not block. Never refuses in stop and in status."""
        ...

    def log(self, text: str) -> None:
        """One line for the journal."""
        ...

    def run(
        self,
        command: Sequence[str] | str,
        *,
        ok: Sequence[int] = (0,),
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
    ) -> Completed:
        """Run to its end (a string through /bin/sh -c), environment as `environment()` plus `env`. Blocks at most
        `remaining()` (or `timeout`) seconds, then kills its process group. In operations output is logged.
        Raises Failed when the exit code is not in `ok` (empty: any is) or time ran out (in status: CannotTell)."""
        ...

    def spawn(
        self, command: Sequence[str] | str, *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> Process:
        """Start a service that outlives the operation, in a session of its own, output to the journal's log.
        Raises Failed when it cannot be executed. Only in operations."""
        ...

    def environment(self) -> dict[str, str]:
        """This process's, with BTW_CLUSTER, BTW_NODE, BTW_PACKAGE, BTW_TERM, BTW_RESOURCE, BTW_VERB, BTW_REASON,
        BTW_OPERATION, and what `[package.env]` says."""
        ...

    def shared(self, factory: Callable[[], T]) -> T:
        """One object per factory and process: made at first use, kept (one netlink dump for 150 addresses)."""
        ...


class Resource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of every resource type: `class Zpool(Resource, tag="zpool")`. The docstring's first line is its summary.

    Class variables: `layer` ("fencing", "storage", "network", "program": the usual start order, used by `check`),
    `shared` (touches what other machines can touch: needs an explicit lock). Reserved names: type, name, *_timeout.
    """

    layer: ClassVar[str] = "program"
    shared: ClassVar[bool] = False

    name: Annotated[str, Meta(description="name within the package; default: the type")] = ""
    start_timeout: Annotated[
        Seconds | None, Meta(description="how long its start may take; default: the package's", examples=["10s"])
    ] = None
    stop_timeout: Annotated[
        Seconds | None, Meta(description="how long its stop may take; default: the package's", examples=["10s"])
    ] = None

    def status(self, ctx: Context) -> Status:
        """UP, DOWN, DEGRADED or CRITICAL; raises CannotTell. Changes nothing."""
        raise NotImplementedError

    def start(self, ctx: Context) -> None:
        """Bring it up; may be repeated on something that is up. Raises Failed."""
        raise NotImplementedError

    def stop(self, ctx: Context) -> None:
        """Take it down; may be repeated, works after half a start, returns only when down. Raises Failed."""
        raise NotImplementedError

    def check(self, ctx: CheckContext) -> list[Problem]:
        """What is wrong with these parameters on this node. Changes nothing."""
        return []

    def identity(self) -> tuple[str, ...]:
        """What no other package on this node may use as well, e.g. ("path", "/srv/www"); empty: nothing."""
        return ()

    # optional:  prepare(ctx) -> None    open what takes time and start, stop or heal will need, in the process that is
    #                                      kept ready for one of them; changes nothing, must not block
    #            heal(ctx) -> None    put back what vanished while running; raises Failed = the package has failed
    #            fence(ctx, former: Former) -> None   make sure that no effect on this resource is possible any more of
    #                                      `former`, nor of any other holder of a term below ctx.term, whatever state
    #                                      that node is in; under the lock, before anything is started; ctx.state is
    #                                      empty; may be repeated; raises Failed = that is not certain, nothing starts
    #            watch(ctx) -> list[int]   descriptors that become readable when `status` should be asked again;
    #                                      they are owned by the observer, which closes them


class Sibling(msgspec.Struct, frozen=True, kw_only=True):
    """A resource of some package on this node, for `check`."""

    package: str
    resource: Resource


class CheckContext(msgspec.Struct, frozen=True, kw_only=True):
    """What `check` may know: this node and every package, its own included."""

    cluster: str
    node: str
    package: str
    everything: tuple[Sibling, ...]
    env: Mapping[str, str] = {}  # what `[package.env]` says
