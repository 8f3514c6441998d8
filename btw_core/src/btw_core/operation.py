"""What an operation process does: one start, stop, heal or fence of one resource, or one sweep, survey or fence.

Runs in a process of its own that may be killed at any moment; all waiting here ends before the operation's deadline, so
that it can still say what it waited for.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from .clock import boot_id, boottime
from .cluster import Rules
from .command import alive, describe, proc_stat
from .containment import OBSERVER, ZYGOTE, Containment, containment, kill_process, machine_id, operation_of
from .context import RealContext
from .explain import processes
from .hold import Hold
from .ports import Operation
from .resource import CannotTell, Context, Failed, FailedEverywhere, Former, Problem, Process, Resource
from .types import PackageSpec, Reason, Status, Verb
from .wire import Result, bounded

#: Bytes that one resource may keep in ctx.state, as JSON.
STATE = 64 * 1024
#: Seconds when an operation comes without a deadline.
UNLIMITED = 3600.0


class Stock(NamedTuple):
    """A package with its resource objects, by name in start order; what its file says for all commands."""

    spec: PackageSpec
    resources: Mapping[str, Resource]
    env: Mapping[str, str] = {}
    log: str = ""


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a zygote has loaded."""

    cluster: str
    node: str
    packages: Mapping[str, Stock] = {}
    problems: tuple[Problem, ...] = ()
    #: Of every package of a cluster, for a daemon; see `wire.Loaded`.
    rules: Mapping[str, Rules] = {}
    digests: Mapping[str, Mapping[str, str]] = {}
    #: Name of an extension -> its btw_event, to be called with the event.
    listeners: Mapping[str, Callable[[Mapping[str, Any]], object]] = {}
    #: Directory with PACKAGE.log, where services print; "" = nowhere.
    logs: str = ""

    def resource(self, package: str, name: str) -> Resource:
        """Raises Failed when there is none."""
        stock = self.packages.get(package)
        if stock is None or name not in stock.resources:
            raise Failed(f"resource {name} of package {package} is not loaded; it was there when the manager started")
        return stock.resources[name]


def explain(error: BaseException, resource: Resource) -> str:
    """What a plugin's method raised, in words for the operator."""
    if isinstance(error, (Failed, CannotTell)):
        return bounded(str(error) or f"{type(error).__name__} without a message")
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    tag = resource.__struct_config__.tag or type(resource).__name__
    return bounded(f"defect in plugin {tag}: {type(error).__name__}: {error}{place}")


def perform(
    operation: Operation,
    inventory: Inventory,
    here: Containment,
    spared: Collection[str],
    log: Callable[[str], None],
    pulse: str = "",
) -> Result:
    """Carry it out. `spared` are places that no sweep is about, the operation's own first of all, `pulse` the path of
    the manager's pulse. Never raises, except MemoryError and the like from btw itself."""
    begun = boottime()
    end = operation.deadline or begun + UNLIMITED
    end -= min(0.3, 0.1 * max(0.0, end - begun))  # what is left over is for saying how it ended
    state = dict(operation.state)
    survivors: tuple[str, ...] = ()
    error, everywhere = "", False
    match operation.verb:
        case Verb.START | Verb.STOP | Verb.HEAL:
            error, everywhere = _work(operation, inventory, state, end, log, pulse)
        case Verb.SURVEY:
            survivors = _described(here.members(operation.package), spared)
        case Verb.SWEEP:
            survivors = _sweep(lambda: members(here.members, operation), spared, here, end, log)
            error = _survived(survivors)
        case Verb.FENCE if operation.resource:
            error, _ = _work(operation, inventory, state, end, log, pulse)
        case Verb.FENCE:
            error, survivors = _fence(operation, spared, end, log)
    kept_state: dict[str, Any] | None = state if state != operation.state else None
    try:
        size = len(msgspec.json.encode(kept_state))
    except (TypeError, ValueError) as unfit:
        error, kept_state = error or f"ctx.state holds what JSON cannot keep: {bounded(str(unfit), 200)}", None
    else:
        if size > STATE:
            error, kept_state = error or f"ctx.state has {size} bytes as JSON, at most {STATE} are kept", None
    return Result(id=operation.id, error=error, state=kept_state, survivors=survivors, everywhere=everywhere)


def prepare(package: str, inventory: Inventory, here: Containment, pulse: str) -> None:
    """What resources of the package open in advance, in a process that waits to be told which operation it is. And the
    way there once, to a resource that does not exist: what a fork touches first the kernel copies, page by page."""
    nothing = Operation(id="", package=package, verb=Verb.START)
    perform(nothing, inventory, here, (), lambda _text: None, pulse)
    stock = inventory.packages.get(package)
    for name, resource in stock.resources.items() if stock else ():
        if hasattr(resource, "prepare"):
            ctx = RealContext(
                cluster=inventory.cluster,
                node=inventory.node,
                package=package,
                resource=name,
                term=0,
                verb=None,
                reason=Reason.NONE,
                state={},
                deadline=None,
                operation="",
                log=lambda _text: None,
                env=stock.env if stock else None,
            )
            # foreign code: what is wrong will be said when it is started; SystemExit is no reason to go either
            with contextlib.suppress(BaseException):
                cast(Any, resource).prepare(ctx)


# ---- start, stop, heal, fence by a resource ------------------------------------------------------------------------
def _work(
    operation: Operation,
    inventory: Inventory,
    state: dict[str, Any],
    end: float,
    log: Callable[[str], None],
    pulse: str,
) -> tuple[str, bool]:
    """Returns what went wrong, "" for nothing, and whether it went wrong for every node."""
    hold = Hold(pulse, operation.package, operation.term, operation.not_after)

    def context(verb: Verb | None) -> RealContext:
        return RealContext(
            cluster=inventory.cluster,
            node=inventory.node,
            package=operation.package,
            resource=operation.resource,
            term=operation.term,
            verb=verb,
            reason=operation.reason,
            state=state if verb else dict(state),
            deadline=end,
            operation=operation.id,
            log=log,
            service_log=f"{inventory.logs}/{operation.package}.log" if inventory.logs else "",
            holders=operation.holders if verb else {},
            handed_over=operation.handed_over and verb is Verb.START,
            lost=hold.trouble,
            env=inventory.packages[operation.package].env,
            script_log=inventory.packages[operation.package].log,
        )

    try:
        resource = inventory.resource(operation.package, operation.resource)
    except Failed as failure:
        return str(failure), False
    ctx = context(operation.verb)
    printed = _Printed(ctx.log)
    try:
        # cast: Context.run's `Sequence[str] | str` is the same type as RealContext's alias
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            ctx.recheck()  # forked late, or frozen since
            if operation.verb is Verb.STOP:
                resource.stop(cast(Context, ctx))
                _verify(resource, cast(Context, context(None)))
            elif operation.verb is Verb.START:
                resource.start(cast(Context, ctx))
            elif operation.verb is Verb.HEAL:
                cast(Any, resource).heal(ctx)
            else:
                assert operation.target is not None
                cast(Any, resource).fence(ctx, Former(node=operation.target.node))
    except BaseException as failure:  # noqa: BLE001 - foreign code; SystemExit and the like are defects as well
        return explain(failure, resource), isinstance(failure, FailedEverywhere)
    finally:
        printed.end()
    return "", False


def _verify(resource: Resource, ctx: Context) -> None:
    """Only what says DOWN is down. Raises Failed, and whatever `status` raises."""
    pause = 0.05
    while True:
        try:
            status = resource.status(ctx)
        except CannotTell as why:
            if ctx.remaining() <= pause:
                raise Failed(f"stop returned, but status cannot tell whether it is down: {why}") from None
            time.sleep(pause)
            pause = min(1.0, 2 * pause)
            continue
        if status is not Status.DOWN:
            raise Failed(f"stop returned, but status says {status}")
        return


class _Printed(io.TextIOBase):
    """What a plugin prints in Python becomes lines of the journal, bounded by ctx.log."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log, self._partial = log, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, partial = (self._partial + text).split("\n")
        for line in lines:
            self._log(line)
        self._partial = partial[:4096]
        return len(text)

    def end(self) -> None:
        self._log(self._partial)
        self._partial = ""


# ---- sweep, survey, fence ---------------------------------------------------------------------------------------
def members(look: Callable[[str], dict[str, list[int]]], operation: Operation) -> dict[str, list[int]]:
    """Whom a sweep is about: of the whole package, or only of some operations."""
    found = look(operation.package)
    if not operation.only:
        return found
    begun = tuple(f"{prefix}." for prefix in operation.only)
    return {place: pids for place, pids in found.items() if f"{operation_of(place)}.".startswith(begun)}


def _described(members: Mapping[str, Iterable[int]], spared: Collection[str]) -> tuple[str, ...]:
    return processes(pid for place, pids in members.items() if place not in spared for pid in pids)


def _survived(survivors: tuple[str, ...]) -> str:
    return f"{len(survivors)} left-over processes survive SIGKILL" if survivors else ""


def _sweep(
    members: Callable[[], dict[str, list[int]]],
    spared: Collection[str],
    here: Containment,
    end: float,
    log: Callable[[str], None],
) -> tuple[str, ...]:
    """Kill all members until none is left or `end`; returns who is left."""
    named: set[int] = set()
    pause = 0.005
    while True:
        found = {place: pids for place, pids in members().items() if place not in spared}
        left = {place: pids for place, pids in found.items() if pids}
        if not left:
            for place in found:
                here.remove(place)
            return ()
        if boottime() >= end:
            return _described(left, ())
        for place, pids in left.items():
            for pid in pids:
                if pid not in named:
                    named.add(pid)
                    log(f"left behind by operation {operation_of(place)}: {describe(pid)}; killed")
            here.kill(place)
        time.sleep(max(0.0, min(pause, end - boottime())))
        pause = min(0.2, 2 * pause)


def _fence(
    operation: Operation, spared: Collection[str], end: float, log: Callable[[str], None]
) -> tuple[str, tuple[str, ...]]:
    """Make sure that another incarnation's manager, its helpers and the package's operations are gone."""
    target = operation.target
    if target is None:
        return "fence without a target", ()
    if target.machine != machine_id():
        return f"node {target.node} lives on another machine ({target.machine}): nothing here can fence it", ()
    if target.boot != boot_id():
        log(f"this computer was rebooted since {target.node} held the lock: nothing of it is left")
        return "", ()
    manager = Process(pid=target.pid, start_time=target.pid_start)
    if target.pid and alive(manager):
        if target.pid in _ancestors():
            return f"node {target.node}, pid {target.pid}, is the manager that asks for this", ()
        log(f"{describe(target.pid)}, manager of node {target.node}: killed")
        if not _end(manager, end):
            return f"the manager of node {target.node} survives SIGKILL", processes([target.pid])
    there = containment(target.home, target.cgroup)
    prefix = f"{target.pid}-"

    def members() -> dict[str, list[int]]:
        # helpers first: a zygote that still lives could fork one more operation
        helpers = {**there.members(ZYGOTE), **there.members(OBSERVER)}
        own = {each: pids for each, pids in helpers.items() if operation_of(each).startswith(prefix)}
        return own if any(own.values()) else {**own, **there.members(operation.package)}

    survivors = _sweep(members, spared, there, end, log)
    return _survived(survivors), survivors


def _end(process: Process, end: float) -> bool:
    """Kill and wait until it is gone; False when it is not by `end`. Raises PermissionError."""
    while alive(process):
        kill_process(process)
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(process.pid)
            try:
                select.select([pidfd], [], [], max(0.0, min(0.1, end - boottime())))
            finally:
                os.close(pidfd)
        if boottime() >= end:
            return not alive(process)
    return True


def _ancestors() -> set[int]:
    found, pid = set(), os.getpid()
    while pid > 1 and proc_stat(pid) is not None:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        pid = int(text.rpartition(")")[2].split()[1])
        found.add(pid)
    return found
