"""The contract of a store (lock back end). Everything about leases is the core's and the same for all engines.

A store keeps small byte values under slash-separated keys. Every successful `put` makes a new revision, a positive
integer that grows over the whole store. All calls block for at most `deadline` seconds and raise `StoreUnavailable`
when the answer is "cannot tell": after that the write may or may not have happened, and may still happen later.
`btw_core.testing.StoreContract` and `LeaseContract` try all of this on a store of yours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec


class StoreUnavailable(Exception):
    """Cannot tell: no answer, no quorum, damaged, full. Never means "no"."""


class Conflict(msgspec.Struct, frozen=True):
    """`put` refused: the key is not at the expected revision. Certain: nothing was written by this call."""


class Record(msgspec.Struct, frozen=True):
    """A key, its value and the revision of its last change."""

    key: str
    value: bytes
    revision: int


@runtime_checkable
class Store(Protocol):
    """One connection to one store. Calls may come from several threads at once."""

    #: True when an empty place may be taken as a new cluster without `btw init` (the embedded store only).
    creates_itself: bool
    #: "local:/var/lib/btw/local.db" and the like, for messages; never holds a secret.
    description: str

    def get(self, key: str, *, deadline: float) -> Record | None:
        """The record, or None when there certainly is none."""
        ...

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        """Write if the key is at revision `expected` (None: absent). Returns the new revision, or Conflict."""
        ...

    def watch(self, prefix: str, since: int) -> Iterator[list[Record]]:
        """Blocks, yielding changed records newer than revision `since` (only the newest of each key is promised).
        Yields an empty list at least every second, so that its thread can be ended. Raises StoreUnavailable."""
        ...

    def close(self) -> None:
        """Frees everything, may be repeated. Does not block."""
        ...

    def list(self, prefix: str, *, deadline: float) -> list[Record]:
        """All records below `prefix`, as they were at one instant between call and return."""
        ...


#: Opens a store: gets what follows "scheme:" in `lock = "scheme:rest"`, and the table `[plugins.SCHEME]` of btw.toml
#: ({} without one). May block for some seconds. Raises ValueError (configuration; the message names the key and never
#: holds a secret) or StoreUnavailable.
StoreFactory = Callable[[str, Mapping[str, Any]], Store]
