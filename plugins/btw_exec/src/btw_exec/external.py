"""Resource type `external`: a script with start, stop and validate, as Serviceguard's external scripts have them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from msgspec import Meta, field

from btw_core import Context, Failed, FailedEverywhere, Problem, Resource, Status
from btw_core.command import ending, execute, last_said
from btw_core.resource import CheckContext, Completed

from .commands import Env, executable_problems, relative_problems

#: Exit code of start: the package is not to be tried on another node. Any other but 0: it is.
NOWHERE = 1
#: Seconds for `validate`.
VALIDATE = 30.0


class External(Resource, frozen=True, kw_only=True, tag="external"):
    """A Serviceguard external script: called with start, stop and validate; it is not watched while it is up."""

    path: Annotated[
        str,
        Meta(
            description="the script, with its full path; called in / with start, stop, validate",
            examples=["/etc/btw/external/licence"],
            min_length=1,
        ),
    ]
    env: Env = field(default_factory=dict)

    def status(self, ctx: Context) -> Status:
        """UP from a start that has succeeded to a stop: nobody asks the script."""
        return Status.UP if ctx.state.get("started") else Status.DOWN

    def start(self, ctx: Context) -> None:
        if ctx.state.get("started"):
            return
        done = self._call(ctx, "start")
        if done.code == NOWHERE:
            raise FailedEverywhere(f"{self._said('start', done)}: not to be started on another node either")
        if done.code != 0:
            raise Failed(f"{self._said('start', done)}: another node may start it")
        ctx.state["started"] = True

    def stop(self, ctx: Context) -> None:
        """Always asked: a start that was killed may have done half of its work."""
        done = self._call(ctx, "stop")
        if done.code != 0:
            raise Failed(self._said("stop", done))
        ctx.state.clear()

    def check(self, ctx: CheckContext) -> list[Problem]:
        """Runs `validate`."""
        if found := relative_problems("path", self.path) or executable_problems("path", Path(self.path)):
            return found
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BTW_")}
        who = {"CLUSTER": ctx.cluster, "NODE": ctx.node, "PACKAGE": ctx.package, "RESOURCE": self.name}
        said = {f"BTW_{name}": value for name, value in who.items()}
        environment |= {**ctx.env, **self.env, **said, "BTW_VERB": "validate"}
        remedy = "mend what it complains about, or the script"
        try:
            done = execute([self.path, "validate"], limit=VALIDATE, env=environment, cwd="/")
        except Failed as error:
            return [Problem(key="path", text=str(error), remedy=remedy)]
        return [Problem(key="path", text=self._said("validate", done), remedy=remedy)] if done.code else []

    def _call(self, ctx: Context, verb: str) -> Completed:
        return ctx.run([self.path, verb], ok=(), env=self.env, cwd="/")

    def _said(self, verb: str, done: Completed) -> str:
        return f"`{self.path} {verb}`: {ending(done.code)}{last_said(done.output)}"
