"""Resource type `exec`: three commands."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from btw_core import Context, Problem, Resource, Status
from btw_core.resource import CheckContext

from .commands import Command, Cwd, Env, command_problems, cwd_problems, status_of


class Program(Resource, frozen=True, kw_only=True, tag="exec"):
    """Anything that three commands can start, stop and ask for its status."""

    # the names in a package file are start, stop, status; here they would hide the methods
    start_command: Annotated[
        Command,
        Meta(
            description="brings it up, exit code 0 when it is up; may be called again when it is",
            examples=["touch /tmp/btw-example.up"],
        ),
    ] = field(name="start")
    stop_command: Annotated[
        Command,
        Meta(
            description="takes it down, exit code 0 when it is down; may be called again when it is",
            examples=["rm -f /tmp/btw-example.up"],
        ),
    ] = field(name="stop")
    status_command: Annotated[
        Command,
        Meta(
            description="changes nothing; exit code 0 up, 1 down, 2 degraded, 3 critical",
            examples=["test -e /tmp/btw-example.up"],
        ),
    ] = field(name="status")
    cwd: Cwd = ""
    env: Env = field(default_factory=dict)

    def status(self, ctx: Context) -> Status:
        return status_of(ctx.run(self.status_command, ok=(), env=self.env, cwd=self.cwd or None))

    def start(self, ctx: Context) -> None:
        ctx.run(self.start_command, env=self.env, cwd=self.cwd or None)

    def stop(self, ctx: Context) -> None:
        ctx.run(self.stop_command, env=self.env, cwd=self.cwd or None)

    def check(self, ctx: CheckContext) -> list[Problem]:
        found = cwd_problems(self.cwd)
        for key in ("start", "stop", "status"):
            found += command_problems(key, getattr(self, f"{key}_command"), self.cwd, {**ctx.env, **self.env})
        return found
