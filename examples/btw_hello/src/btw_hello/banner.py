"""Resource type `hello`: a file that says which node has the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from btw_core import CannotTell, CheckContext, Context, Failed, Problem, Resource, Status
from msgspec import Meta


class Hello(Resource, frozen=True, kw_only=True, tag="hello"):
    """A file that says which node has the package, such as /etc/motd."""

    path: Annotated[
        str, Meta(description="the file; its directory must exist", examples=["/tmp/hello-example"], min_length=1)
    ]
    text: Annotated[str, Meta(description="what it says; {node}, {package} and {term} are filled in")] = (
        "{package} is on {node}"
    )

    def status(self, ctx: Context) -> Status:
        """DEGRADED when somebody has written something else into it: it runs, and a person should look."""
        try:
            found = Path(self.path).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return Status.DOWN
        except OSError as error:
            raise CannotTell(f"{self.path}: {error.strerror}") from None
        return Status.UP if found == self._line(ctx) else Status.DEGRADED

    def start(self, ctx: Context) -> None:
        """The file appears with its whole text or not at all: a start that is killed leaves nothing half done."""
        new = f"{self.path}.new"
        try:
            Path(new).write_text(self._line(ctx))
            os.replace(new, self.path)
        except OSError as error:
            raise Failed(f"hello {self.path} cannot be written: {error.strerror}; create its directory") from None

    def heal(self, ctx: Context) -> None:
        """Vanished or overwritten while running: put it back, without a stop."""
        ctx.log(f"{self.path} is written again")
        self.start(ctx)

    def stop(self, ctx: Context) -> None:
        try:
            for path in (self.path, f"{self.path}.new"):
                Path(path).unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise Failed(f"hello {self.path} cannot be removed: {error.strerror}; remove it by hand") from None

    def identity(self) -> tuple[str, ...]:
        return ("path", os.path.realpath(self.path))

    def check(self, ctx: CheckContext) -> list[Problem]:
        path = Path(self.path)
        if not path.is_absolute():
            return [Problem(key="path", text=f"path = {path} is relative", remedy="give the full path")]
        if not path.parent.is_dir():
            return [Problem(key="path", text=f"{path.parent} is no directory", remedy=f"mkdir -p {path.parent}")]
        try:
            self.text.format(node="", package="", term=0)
        except (KeyError, IndexError, ValueError) as error:
            remedy = "only {node}, {package} and {term} can be filled in; write {{ for a brace"
            return [Problem(key="text", text=f"text = {self.text!r}: {error!r}", remedy=remedy)]
        return []

    def _line(self, ctx: Context) -> str:
        return self.text.format(node=ctx.node, package=ctx.package, term=ctx.term) + "\n"
