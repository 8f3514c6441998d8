"""Changing a package's record by hand: read, edit, compare and swap, again while somebody else was faster."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .common import PATIENCE

if TYPE_CHECKING:
    from ..lease import PackageRecord
    from ..settings import Setup

#: Seconds in which the change must succeed.
LIMIT = 10.0
Edit = Callable[["PackageRecord | None"], "PackageRecord | None"]


def change(setup: Setup, package: str, edit: Edit) -> tuple[PackageRecord | None, PackageRecord | None]:
    """The record before and after. Nothing is written when the edit changes nothing, or where there is no cluster: a
    record without one would look like the rest of a lost store. Blocks for at most LIMIT seconds. Raises ConfigError,
    StoreUnavailable (also when the record cannot be read)."""
    from ..lease import CLUSTER_KEY, PACKAGES, DamagedRecord, PackageRecord, decode, encode
    from ..plugins import open_store
    from ..store import Conflict, StoreUnavailable

    key = PACKAGES + package
    scheme, _, path = setup.lock.partition(":")
    if scheme == "local" and not Path(path).exists():
        return None, None
    store = open_store(setup.lock, setup.config.plugins)
    end = time.monotonic() + LIMIT
    try:
        if store.get(CLUSTER_KEY, deadline=PATIENCE) is None:
            return None, None
        while time.monotonic() < end:
            found = store.get(key, deadline=PATIENCE)
            try:
                before = decode(PackageRecord, key, found.value) if found else None
            except DamagedRecord as error:
                raise StoreUnavailable(str(error)) from error
            after = edit(before)
            if after is None or after == before:
                return before, before
            expected = found.revision if found else None
            if not isinstance(store.put(key, encode(after), expected=expected, deadline=PATIENCE), Conflict):
                return before, after
        raise StoreUnavailable(f"record {key} was changed by others again and again for {LIMIT:g} s")
    finally:
        store.close()
