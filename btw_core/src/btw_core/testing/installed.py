"""`btw plugin check TYPE`: the kit on a resource type that is installed, with a table from the command line.

    pytest --pyargs btw_core.testing.installed --btw-table '{"type": "flag", "path": "/tmp/x"}'
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..types import Status
from .bench import Bench, BenchLost
from .resource_contract import ResourceContract
from .resource_form import Table


class TestInstalled(ResourceContract):
    no_break = "only the plugin's own tests know how to break it"

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Table:
        said = request.config.getoption("--btw-table")
        if not said:
            pytest.skip("--btw-table says what to try")
        table: Table = json.loads(said)
        cls._is_down(tmp_path_factory.mktemp("first"), table)
        return table

    @classmethod
    def _is_down(cls, directory: Path, table: Table) -> None:
        """The kit starts and stops it: somebody's service must not be taken for one of its own. What cannot be looked
        at at all is for the rules to tell."""
        try:
            with Bench(directory / "btw", table, patience=cls.patience) as bench:
                found = None if bench.problems else bench.look()
        except (BenchLost, OSError, TimeoutError):
            return
        if found is not None and found.status is not None and found.status is not Status.DOWN:
            what = f"it is {found.status} on this computer, and the kit would start and stop it"
            pytest.exit(f"{what}; give it something of its own with --set", returncode=1)
