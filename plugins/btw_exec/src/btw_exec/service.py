"""Resource type `service`: a long-running program whose end is a failure."""

from __future__ import annotations

import os
import pwd
import shutil
import time
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from btw_core import Context, Failed, Problem, Resource, Status
from btw_core.clock import boot_id, boottime
from btw_core.command import alive, ending
from btw_core.resource import CheckContext, Process

from .commands import Command, Cwd, Env, command_problems, cwd_problems
from .session import end_session, ended_within

#: Seconds that a service is looked at after its start: enough for "address in use", short enough for a fail-over.
LOOK = 0.05
#: Seconds between two starts by `heal`: a service that ends at once must not keep the computer busy.
RESTART_PACE = 1.0
#: Seconds of a stop that are kept for SIGKILL and what follows it.
KILL_MARGIN = 2.0
#: Seconds for a stop without any deadline.
DEFAULT_STOP = 30.0


class Service(Resource, frozen=True, kw_only=True, tag="service"):
    """A program that stays in the foreground; its end is a failure that is seen at once."""

    command: Annotated[
        Command,
        Meta(
            description="the program; it must not put itself into the background",
            examples=[["sleep", "infinity"]],
        ),
    ]
    restart: Annotated[
        Annotated[int, Meta(ge=0)] | Literal["unlimited"],
        Meta(description="how often it is started again in place after it ended, or unlimited", examples=[0, 3]),
    ] = 0
    cwd: Cwd = ""
    env: Env = field(default_factory=dict)
    user: Annotated[
        str, Meta(description="run as this user (with its groups); empty: as btw itself", examples=["nobody"])
    ] = ""

    def status(self, ctx: Context) -> Status:
        """UP while the very process that was started lives."""
        process = _recorded(ctx)
        if process is not None and alive(process):
            return Status.UP
        if process is not None:
            ctx.log(_gone(ctx))
        return Status.DOWN

    def watch(self, ctx: Context) -> list[int]:
        """A pidfd: readable when the process ends (pidfd_open(2))."""
        process = _recorded(ctx)
        if process is None:
            return []
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return []
        if alive(process):  # asked after it was opened: the number may have been another's
            return [descriptor]
        os.close(descriptor)
        return []

    def start(self, ctx: Context) -> None:
        process = _recorded(ctx)
        if process is not None and alive(process):
            return
        ctx.state.clear()
        self._launch(ctx)

    def heal(self, ctx: Context) -> None:
        """Start it again if `restart` allows one more. Raises Failed otherwise."""
        process = _recorded(ctx)
        if process is not None and alive(process):
            return
        restarts = int(ctx.state.get("restarts", 0))
        if self.restart != "unlimited" and restarts >= self.restart:
            raise Failed(f"{_gone(ctx)}; restarted {restarts} times, restart = {self.restart} allows no more")
        ctx.log(f"{_gone(ctx)}; restart {restarts + 1} of {self.restart}")
        ctx.state["restarts"] = restarts + 1
        if process is not None:  # a sleep is at most one pace: `since` is of this boot
            time.sleep(max(0.0, min(ctx.state["since"] + RESTART_PACE - boottime(), ctx.remaining())))
        self._launch(ctx)

    def stop(self, ctx: Context) -> None:
        """TERM to its whole session, KILL when little of stop_timeout is left. What left the session and what a
        service that ended by itself left behind is the business of the core's sweep."""
        process = _recorded(ctx)
        if process is not None:
            left = min(ctx.remaining(), self.stop_timeout or DEFAULT_STOP)
            survivors = end_session(process, patience=left - min(KILL_MARGIN, left / 2), log=ctx.log)
            if survivors:
                raise Failed(f"survives SIGKILL: {'; '.join(survivors)}; see what it waits for (storage, NFS, FUSE)")
        ctx.state.clear()

    def check(self, ctx: CheckContext) -> list[Problem]:
        found = cwd_problems(self.cwd) + command_problems("command", self.command, self.cwd, {**ctx.env, **self.env})
        if not self.user:
            return found
        try:
            account = pwd.getpwnam(self.user)
        except KeyError:
            text = f"user = {self.user}: no such user on this node"
            return [*found, Problem(key="user", text=text, remedy=f"useradd {self.user}, or correct it")]
        if os.geteuid() != 0:
            text = f"user = {self.user} (uid {account.pw_uid}): only root may start a service as another user"
            found.append(Problem(key="user", text=text, remedy="run btw as root, or leave user out"))
        if shutil.which("setpriv") is None:
            text = f"user = {self.user} needs the program setpriv"
            found.append(Problem(key="user", text=text, remedy="install util-linux"))
        return found

    def _launch(self, ctx: Context) -> None:
        command, env = self.command, {**self.env, "BTW_RESTARTS": str(ctx.state.get("restarts", 0))}
        if self.user:
            command, account = _as_user(self.user, command)
            env = account | env
        process = ctx.spawn(command, env=env, cwd=self.cwd or None)
        ctx.state.update(pid=process.pid, start_time=process.start_time, boot=ctx.shared(boot_id), since=boottime())
        code = ended_within(process, LOOK)
        if code is not None:
            raise Failed(
                f"pid {process.pid} ended at once, {ending(code)}; "
                "see its log; a service must stay in the foreground (look for an option such as --foreground)"
            )


def _recorded(ctx: Context) -> Process | None:
    """The process that was started last in this boot, as the state says; it may have ended since. In another boot pid
    and start time mean nothing."""
    state: dict[str, Any] = ctx.state
    if "pid" not in state or state.get("boot") != ctx.shared(boot_id):
        return None
    return Process(pid=state["pid"], start_time=state["start_time"])


def _gone(ctx: Context) -> str:
    """Its exit code is unknown: it was the child of an operation that has ended, and init has reaped it."""
    process = _recorded(ctx)
    if process is None:
        return "it was not started in this boot"
    return f"pid {process.pid} has ended"


def _as_user(user: str, command: Command) -> tuple[Command, dict[str, str]]:
    """The command through setpriv(1), which becomes the program (runuser and su would stay as its parent)."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise Failed(f"user = {user}: no such user on this node; useradd {user}, or correct it") from None
    words = ("/bin/sh", "-c", command) if isinstance(command, str) else command
    prefix = ("setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", "--")
    names = {"USER": user, "LOGNAME": user, "HOME": account.pw_dir, "SHELL": account.pw_shell}
    return prefix + words, names
