"""btw-lock-etcd: the lock on etcd.

Only the hook; the client library is imported when a lock is opened (it takes longer to import than btw itself).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from btw_core.hooks import hookimpl
from btw_core.store import Store, StoreFactory


@hookimpl
def btw_stores() -> Mapping[str, StoreFactory]:
    """The scheme `etcd`."""
    return {"etcd": _open}


def _open(rest: str, settings: Mapping[str, Any]) -> Store:
    from .opening import open_store

    return open_store(rest, settings)
