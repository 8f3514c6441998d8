"""The embedded store keeps the contract of stores; and the kit that says so bites."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from btw_core.store import Store
from btw_core.store_local import LocalStore
from btw_core.testing import LeaseContract, StoreContract


class LocalPlace:
    """A lock file of its own for each test."""

    path: Path

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], Store]:
        self.path = tmp_path / "local.db"
        return lambda: LocalStore(str(self.path), runtime=tmp_path / "run", patience=30.0)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """The file is somewhere else, and somebody hangs in the middle of a write: reads are refused, writes wait."""
        elsewhere = self.path.with_name("elsewhere.db")
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=30.0)) as db:
            db.execute("BEGIN IMMEDIATE")
            self.path.rename(elsewhere)
            try:
                yield
            finally:
                elsewhere.rename(self.path)

    def remove(self, key: str) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=30.0)) as db:
            db.execute("DROP TRIGGER IF EXISTS record_stays")
            db.execute("DELETE FROM record WHERE key = ?", (key,))


class TestLocalStore(LocalPlace, StoreContract):
    """Every rule of a store."""


class TestLocalLease(LocalPlace, LeaseContract):
    """Every rule of the lease."""
