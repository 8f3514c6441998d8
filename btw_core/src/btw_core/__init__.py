"""btw: a failover manager. Public API for plugins; resolved on first use so that `btw --help` imports nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .hooks import hookimpl as hookimpl
    from .resource import CannotTell as CannotTell
    from .resource import Context as Context
    from .resource import Failed as Failed
    from .resource import Problem as Problem
    from .resource import Resource as Resource
    from .resource import Seconds as Seconds
    from .types import Status as Status

_WHERE = {
    "CannotTell": "resource",
    "Context": "resource",
    "Failed": "resource",
    "Problem": "resource",
    "Resource": "resource",
    "Seconds": "resource",
    "Status": "types",
    "hookimpl": "hooks",
}
__all__ = ["CannotTell", "Context", "Failed", "Problem", "Resource", "Seconds", "Status", "hookimpl"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
