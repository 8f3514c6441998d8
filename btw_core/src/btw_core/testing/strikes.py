"""The loader of the kit's zygotes: the usual one, and a start or stop can be told to die at a certain line of itself.

A file `strike` beside btw.toml holds the verb and the number of the line; the next operation of that verb takes it and
is killed when it is about to execute that line, the lines of the plugin and of btw's own helpers counted as they are
executed. Number 0: it lives, and leaves the count in `lines`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from ..loading import configured
from ..operation import Inventory

STRIKE, LINES = "strike", "lines"
#: What `ctx.run` and `ctx.spawn` do belongs to the plugin's start.
_HELPERS = ("btw_core.context", "btw_core.command")


def load(arguments: Sequence[str]) -> Inventory:
    """See `loading.configured`; `arguments[0]`, the directory, must be given."""
    inventory = configured(arguments)
    packages = {
        name: stock._replace(resources={each: _Mortal(r, Path(arguments[0])) for each, r in stock.resources.items()})  # type: ignore[misc]
        for name, stock in inventory.packages.items()
    }
    return msgspec.structs.replace(inventory, packages=packages)


class _Mortal:
    """A resource whose operations can be struck; all else is the resource's own."""

    def __init__(self, resource: Any, directory: Path) -> None:
        self._resource, self._directory = resource, directory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._resource, name)

    def start(self, ctx: Any) -> None:
        self._perform(ctx, self._resource.start)

    def stop(self, ctx: Any) -> None:
        self._perform(ctx, self._resource.stop)

    def _perform(self, ctx: Any, method: Callable[[Any], None]) -> None:
        file = self._directory / STRIKE
        with contextlib.suppress(FileNotFoundError):
            verb, number = file.read_text().split()
            if verb == ctx.verb:
                file.unlink()
                self._count(int(number), method, ctx)
                return
        method(ctx)

    def _count(self, number: int, method: Callable[[Any], None], ctx: Any) -> None:
        plugin = type(self._resource).__module__.partition(".")[0]
        count = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal count
            name = str(frame.f_globals.get("__name__", ""))
            if name.partition(".")[0] != plugin and name not in _HELPERS:
                return None
            if event == "line":
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            method(ctx)
        finally:
            sys.settrace(None)
            (self._directory / LINES).write_text(str(count))
