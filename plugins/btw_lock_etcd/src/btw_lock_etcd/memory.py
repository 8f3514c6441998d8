"""What this store has learned from answers: how new the cluster is, and what stood at which revision.

etcd gives revisions away again after a restore from a snapshot: the same number may then stand for other contents.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from btw_core.store import Record


class Mark(msgspec.Struct, frozen=True):
    """What was known before a request was sent: its answer must not be older."""

    life: int
    revision: int


class Memory:
    """Thread-safe. As large as the records are (they are never deleted)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cluster = ""
        self._revision = 0
        self._contents: dict[str, tuple[int, bytes]] = {}
        #: How many times the cluster was seen to be set back.
        self.life = 0
        #: The newest revision of a record that is known here: what a watch must come to.
        self.newest = 0

    def mark(self) -> Mark:
        """Take one before each request."""
        with self._lock:
            return Mark(self.life, self._revision)

    def learn(self, mark: Mark, header: Mapping[str, Any], records: Iterable[Record]) -> None:
        """From the answer to a request that was made by a quorum: it is as new as all that was known before it was
        sent, or else the cluster was set back."""
        revision, cluster = int(header["revision"]), str(header.get("cluster_id", ""))
        with self._lock:
            if mark.life != self.life:
                return  # of the time before the cluster was set back
            if revision < mark.revision or (self._cluster and cluster != self._cluster):
                self.life += 1
                self._revision = self.newest = 0
                self._contents.clear()
            self._cluster = cluster
            self._revision = max(self._revision, revision)
            self._note(records)

    def note(self, life: int, records: Iterable[Record]) -> None:
        """From a watch that began in that life."""
        with self._lock:
            if life == self.life:
                self._note(records)

    def content(self, key: str, revision: int | None) -> bytes | None:
        """What stood there, when that is remembered."""
        with self._lock:
            known, value = self._contents.get(key, (0, b""))
            return value if known == revision else None

    def _note(self, records: Iterable[Record]) -> None:
        for record in records:
            if record.revision >= self._contents.get(record.key, (0, b""))[0]:
                self._contents[record.key] = (record.revision, record.value)
            self.newest = max(self.newest, record.revision)
