"""Resource type `generic`: a value that anyone may set, as Serviceguard's generic resources are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from btw_core import CannotTell, Context, Failed, Problem, Resource, Status
from btw_core.resource import CheckContext

from .commands import relative_problems
from .values import Unknown, flaw, means_up, read

#: Seconds between two looks at a value that is waited for, and those of a start that are kept for saying so.
_LOOK, _MARGIN = 0.1, 0.5
#: Where nothing outlives a reboot.
_VOLATILE = ("/run/", "/var/run/", "/dev/shm/")


class Generic(Resource, frozen=True, kw_only=True, tag="generic"):
    """A value in a file that anyone may set (`btw generic set NAME VALUE`): whether the package can be up here."""

    path: Annotated[
        str,
        Meta(
            description="the file; whoever may write it may set the value",
            examples=["/run/btw-values/fibre"],
            min_length=1,
        ),
    ]
    up: Annotated[
        str,
        Meta(
            description="which whole numbers mean up, such as >= 50 or 10-20; empty: the value is the word up or down",
            examples=[">= 50"],
        ),
    ] = ""

    def verdict(self) -> tuple[bool, str]:
        """Whether the value means up, and the value. Raises Unknown. Blocks on the disk."""
        value = read(self.path)
        return means_up(value, self.up), value

    def status(self, ctx: Context) -> Status:
        """DOWN before a start and after a stop; between them what the value says."""
        if not ctx.state.get("started"):
            return Status.DOWN
        try:
            up, value = self.verdict()
        except Unknown as why:
            raise CannotTell(f"{self.path}: {why}") from None
        if not up:
            ctx.log(self._down(value))
        return Status.UP if up else Status.DOWN

    def start(self, ctx: Context) -> None:
        """Waits until the value means up, as long as its start may take."""
        while True:
            try:
                up, value = self.verdict()
                why = self._down(value)
            except Unknown as unknown:
                up, why = False, f"{self.path}: {unknown}"
            if up:
                ctx.state["started"] = True
                return
            if ctx.remaining() <= _MARGIN + _LOOK:
                raise Failed(f"{why}; set it: btw generic set {self.name} {'up' if not self.up else 'NUMBER'}")
            time.sleep(_LOOK)

    def stop(self, ctx: Context) -> None:
        ctx.state.clear()

    def check(self, ctx: CheckContext) -> list[Problem]:
        if found := relative_problems("path", self.path):
            return found
        if Path(self.path).exists() and not Path(self.path).is_file():
            text = f"path = {self.path} is no regular file"
            found.append(Problem(key="path", text=text, remedy="name a file of its own"))
        elif not self.path.startswith(_VOLATILE):
            text = f"path = {self.path}: a value from before a reboot would still count"
            remedy = "name a file below /run, unless this is meant"
            found.append(Problem(key="path", text=text, remedy=remedy, severity="warning"))
        if why := flaw(self.up):
            found.append(Problem(key="up", text=f'found "{self.up}", {why}', remedy='such as ">= 50" or "10-20"'))
        return found

    def _down(self, value: str) -> str:
        return f"{self.path} says {value}" + (f", up means {self.up}" if self.up else "")
