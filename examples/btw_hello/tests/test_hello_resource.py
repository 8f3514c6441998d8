"""The resource: the kit, and what is its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from btw_core import Status, Verb
from btw_core.testing import Bench, ResourceContract

Table = dict[str, Any]


class TestHello(ResourceContract):
    bad = (
        ({"path": "relative"}, "path"),
        ({"path": "/nonexistent/directory/file"}, "path"),
        ({"text": "{nobody}"}, "text"),
    )

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls, tmp_path_factory: pytest.TempPathFactory) -> Table:
        return {"type": "hello", "path": str(tmp_path_factory.mktemp("kit") / "motd")}

    def break_it(self, table: Table) -> None:
        Path(table["path"]).unlink()

    def effect(self, table: Table) -> bool:
        return Path(table["path"]).exists()


def test_what_is_overwritten_is_degraded(btw_bench: Callable[..., Bench], tmp_path: Path) -> None:
    """And put back by heal."""
    file = tmp_path / "motd"
    bench = btw_bench({"type": "hello", "path": str(file), "text": "{package}"})
    assert bench.operate(Verb.START).ok
    file.write_text("somebody else's")
    assert bench.look().status is Status.DEGRADED
    assert bench.operate(Verb.HEAL).ok
    assert file.read_text() == "kit\n"
