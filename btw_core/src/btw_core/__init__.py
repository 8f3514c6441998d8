"""btw: a failover manager.

`__all__`, the hooks of `btw_core.hooks` and the kits of `btw_core.testing` are the API for plugins; its version is the
version of this distribution (docs/api.md). Names are resolved on first use so that `btw --help` imports nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .hooks import hookimpl as hookimpl
    from .resource import CannotTell as CannotTell
    from .resource import CheckContext as CheckContext
    from .resource import Completed as Completed
    from .resource import ConfigError as ConfigError
    from .resource import Context as Context
    from .resource import Failed as Failed
    from .resource import FailedEverywhere as FailedEverywhere
    from .resource import Former as Former
    from .resource import Problem as Problem
    from .resource import Process as Process
    from .resource import Resource as Resource
    from .resource import Seconds as Seconds
    from .resource import Sibling as Sibling
    from .store import Conflict as Conflict
    from .store import Record as Record
    from .store import Store as Store
    from .store import StoreFactory as StoreFactory
    from .store import StoreUnavailable as StoreUnavailable
    from .types import Reason as Reason
    from .types import Status as Status
    from .types import Verb as Verb

_WHERE = {
    "CannotTell": "resource",
    "CheckContext": "resource",
    "Completed": "resource",
    "ConfigError": "resource",
    "Conflict": "store",
    "Context": "resource",
    "Failed": "resource",
    "FailedEverywhere": "resource",
    "Former": "resource",
    "Problem": "resource",
    "Process": "resource",
    "Reason": "types",
    "Record": "store",
    "Resource": "resource",
    "Seconds": "resource",
    "Sibling": "resource",
    "Status": "types",
    "Store": "store",
    "StoreFactory": "store",
    "StoreUnavailable": "store",
    "Verb": "types",
    "hookimpl": "hooks",
}
__all__ = [
    "CannotTell",
    "CheckContext",
    "Completed",
    "ConfigError",
    "Conflict",
    "Context",
    "Failed",
    "FailedEverywhere",
    "Former",
    "Problem",
    "Process",
    "Reason",
    "Record",
    "Resource",
    "Seconds",
    "Sibling",
    "Status",
    "Store",
    "StoreFactory",
    "StoreUnavailable",
    "Verb",
    "hookimpl",
]
#: Of btw-core, and of the API: `needs` in plugins.py refuses a plugin that was made for another one.
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
