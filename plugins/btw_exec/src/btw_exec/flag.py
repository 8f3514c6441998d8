"""Resource type `flag`: a file whose existence is the resource."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from btw_core import CannotTell, Context, Failed, Problem, Resource, Status
from btw_core.resource import CheckContext

from .commands import relative_problems

#: The file is certainly not there. Anything else (no permission, an I/O error, a stale handle) leaves it open.
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class Flag(Resource, frozen=True, kw_only=True, tag="flag"):
    """A file that exists while the package runs; removing it by hand is a failure. For dry runs and for other tools."""

    path: Annotated[
        str,
        Meta(
            description="the file, with its full path; its directory must exist",
            examples=["/tmp/btw-example.flag"],
            min_length=1,
        ),
    ]

    def status(self, ctx: Context) -> Status:
        """UP while it is a regular file, itself and not through a symbolic link."""
        try:
            mode = os.lstat(self.path).st_mode
        except OSError as error:
            if error.errno in _ABSENT:
                return Status.DOWN
            raise CannotTell(f"{self.path}: {error.strerror}") from None
        return Status.UP if stat.S_ISREG(mode) else Status.DOWN

    def start(self, ctx: Context) -> None:
        try:
            # NONBLOCK: a named pipe there must not hang; NOFOLLOW: a link must not make a file elsewhere
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, 0o644)
        except OSError as error:
            remedy = "create its directory" if error.errno == errno.ENOENT else "see what is at that path"
            raise Failed(f"flag {self.path} cannot be created: {error.strerror}; {remedy}") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Failed(f"flag {self.path} is there, but no regular file; remove it or take another path")
        finally:
            os.close(descriptor)

    def stop(self, ctx: Context) -> None:
        """Removes the file. Something else at that path is not the flag and stays."""
        if self.status(ctx) is Status.DOWN:
            return
        try:
            Path(self.path).unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise Failed(f"flag {self.path} cannot be removed: {error.strerror}; remove it by hand") from None

    def identity(self) -> tuple[str, ...]:
        """What no other package on this node may use."""
        return ("path", os.path.realpath(self.path))

    def check(self, ctx: CheckContext) -> list[Problem]:
        if found := relative_problems("path", self.path, ", such as /run/NAME.flag"):
            return found
        path = Path(self.path)
        if not path.parent.is_dir():
            text = f"path = {path}: {path.parent} is no directory"
            return [Problem(key="path", text=text, remedy=f"mkdir -p {path.parent}, or correct the path")]
        if os.path.lexists(self.path) and not stat.S_ISREG(os.lstat(self.path).st_mode):
            text = f"path = {self.path} is there, but no regular file"
            return [Problem(key="path", text=text, remedy="remove it or take another path")]
        return []
