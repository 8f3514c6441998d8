"""The store: the kits of stores."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from btw_core import Store
from btw_core.testing import LeaseContract, StoreContract

from btw_hello.store import open_store


class Place:
    """Where the kits find the store, and how they take it away."""

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], Store]:
        self.path = tmp_path / "lock.json"
        return lambda: open_store(str(self.path), {})

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """The directory is gone, and comes back with what it had."""
        away = self.path.parent.with_name("away")
        self.path.parent.rename(away)
        try:
            yield
        finally:
            away.rename(self.path.parent)

    def remove(self, key: str) -> None:
        said = json.loads(self.path.read_text())
        del said["records"][key]
        self.path.write_text(json.dumps(said))


class TestStore(Place, StoreContract):
    pass


class TestLease(Place, LeaseContract):
    pass


@pytest.mark.parametrize(("rest", "settings"), [("relative.json", {}), ("/srv/x", {"size": 1})])
def test_what_is_wrong_is_said(rest: str, settings: dict[str, int]) -> None:
    """When it is opened, with what is allowed."""
    with pytest.raises(ValueError, match=r"no full path|no size"):
        open_store(rest, settings)
