"""Resource type `script`: a package script as back-to-work had them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from btw_core import Context, Problem, Resource, Status
from btw_core.resource import CheckContext

from .commands import executable_problems, relative_problems, status_of


def called_as(path: str) -> tuple[str, str]:
    """(program, working directory): packages/NAME from the directory above, so that $0 and relative paths are what
    they were under back-to-work. Symbolic links are kept."""
    whole = Path(path).absolute()
    return f"{whole.parent.name or '.'}/{whole.name}", str(whole.parent.parent)


class Script(Resource, frozen=True, kw_only=True, tag="script"):
    """A back-to-work package script: one executable that answers start, stop and status."""

    path: Annotated[
        str,
        Meta(
            description="the script, with its full path; called as DIRECTORY/NAME from the directory above",
            examples=["/etc/btw/packages/web"],
            min_length=1,
        ),
    ]

    def status(self, ctx: Context) -> Status:
        program, cwd = called_as(self.path)
        return status_of(ctx.run([program, "status"], ok=(), cwd=cwd))

    def start(self, ctx: Context) -> None:
        program, cwd = called_as(self.path)
        ctx.run([program, "start"], cwd=cwd)

    def stop(self, ctx: Context) -> None:
        program, cwd = called_as(self.path)
        ctx.run([program, "stop"], cwd=cwd)

    def identity(self) -> tuple[str, ...]:
        """What no other package on this node may use."""
        return ("path", os.path.realpath(self.path))

    def check(self, ctx: CheckContext) -> list[Problem]:
        return relative_problems("path", self.path) or executable_problems("path", Path(self.path))
