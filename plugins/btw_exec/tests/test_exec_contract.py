"""The kit of resource types on the types of btw-exec."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from btw_core.command import proc_stat
from btw_core.testing import Bench, ResourceContract
from btw_core.types import Status, Verb

Table = dict[str, Any]
#: Seconds for a start that is to fail.
SHORT = 1.5


class TestFlag(ResourceContract):
    bad = (({"path": "relative"}, "path"), ({"path": "/nonexistent/directory/flag"}, "path"))

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls, tmp_path_factory: pytest.TempPathFactory) -> Table:
        directory = tmp_path_factory.mktemp("kit")
        return {"type": "flag", "path": str(directory / "flag")}

    def break_it(self, table: Table) -> None:
        Path(table["path"]).unlink()

    def effect(self, table: Table) -> bool:
        return Path(table["path"]).exists()


class TestProgram(ResourceContract):
    bad = (({"start": ["/nonexistent/program"]}, "start"), ({"status": "if"}, "status"))

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls, tmp_path_factory: pytest.TempPathFactory) -> Table:
        directory = tmp_path_factory.mktemp("kit")
        file = directory / "up"
        commands = {"start": f"touch {file}", "stop": f"rm -f {file}", "status": f"test -e {file}"}
        return {"type": "exec", "cwd": str(directory), **commands}

    def break_it(self, table: Table) -> None:
        Path(table["cwd"], "up").unlink()

    def effect(self, table: Table) -> bool:
        return Path(table["cwd"], "up").exists()

    def endless(self, table: Table) -> Table:
        return {**table, "start": f"{table['start']}; sleep 3600"}


class TestScript(ResourceContract):
    bad = (({"path": "relative"}, "path"), ({"path": "/nonexistent"}, "path"))

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls, tmp_path_factory: pytest.TempPathFactory) -> Table:
        directory = tmp_path_factory.mktemp("kit")
        script = directory / "packages" / "web"
        script.parent.mkdir()
        script.write_text(
            f"#!/bin/sh\ncase $1 in\nstart) touch {directory}/up;;\nstop) rm -f {directory}/up;;\n"
            f"status) test -e {directory}/up;;\nesac\n"
        )
        script.chmod(0o755)
        return {"type": "script", "path": str(script)}

    def _up(self, table: Table) -> Path:
        return Path(table["path"]).parent.parent / "up"

    def break_it(self, table: Table) -> None:
        self._up(table).unlink()

    def effect(self, table: Table) -> bool:
        return self._up(table).exists()


class TestExternal(ResourceContract):
    bad = (({"path": "relative"}, "path"), ({"path": "/nonexistent"}, "path"))

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls, tmp_path_factory: pytest.TempPathFactory) -> Table:
        script = tmp_path_factory.mktemp("kit") / "script"
        script.write_text('#!/bin/sh\ncase $1 in\nstart) touch "$0.up";;\nstop) rm -f "$0.up";;\nesac\n')
        script.chmod(0o755)
        return {"type": "external", "path": str(script)}

    def break_it(self, table: Table) -> None:
        Path(table["path"]).with_suffix(".up").unlink()

    def effect(self, table: Table) -> bool:
        return Path(table["path"]).with_suffix(".up").exists()

    def test_what_breaks_is_seen(self, bench: Bench, table: Table) -> None:
        """Not here: nobody asks the script while it is up."""
        self.done(bench, Verb.START, "the start")
        self.break_it(table)
        self.must(self.look(bench).status is Status.UP, "somebody has asked it")

    def test_what_broke_is_put_back(self, bench: Bench, table: Table) -> None:
        """By a stop and a start of the package, whatever they were asked for."""
        self.done(bench, Verb.START, "the start")
        self.break_it(table)
        self.done(bench, Verb.STOP, "the stop of what broke")
        self.done(bench, Verb.START, "the start after that")
        self.up(bench, table, "after that")


class TestGeneric(ResourceContract):
    bad = (({"path": "relative"}, "path"), ({"up": "often"}, "up"), ({"up": "9-1"}, "up"))

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls, tmp_path_factory: pytest.TempPathFactory) -> Table:
        return {"type": "generic", "path": str(tmp_path_factory.mktemp("kit") / "value"), "up": ">= 50"}

    @pytest.fixture(autouse=True)
    def value(self, table: Table) -> None:
        Path(table["path"]).write_text("50\n")

    def break_it(self, table: Table) -> None:
        Path(table["path"]).write_text("49\n")

    def endless(self, table: Table) -> Table:
        return {**table, "path": f"{table['path']}.nobody-sets-it"}

    def test_what_broke_is_put_back(self, bench: Bench, table: Table) -> None:
        """By whoever sets the value: a start waits for that."""
        self.done(bench, Verb.START, "the start")
        self.break_it(table)
        self.done(bench, Verb.STOP, "the stop of what broke")
        self.down(bench, table, "after the stop of what broke")
        failed = self.tried(bench, Verb.START, seconds=SHORT)
        self.must("says 49, up means >= 50" in failed.error, f"a start with that value says: {failed.error}")
        Path(table["path"]).write_text("51\n")
        self.done(bench, Verb.START, "the start after that")
        self.up(bench, table, "after that")


class TestService(ResourceContract):
    bad = (({"command": ["/nonexistent/program"]}, "command"), ({"restart": -1}, "restart"))

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls, tmp_path_factory: pytest.TempPathFactory) -> Table:
        """It says its pid, and ends at once when it is asked to."""
        directory = tmp_path_factory.mktemp("kit")
        command = f"echo $$ > {directory}/pid; exec sleep 3600"
        return {"type": "service", "command": command, "restart": 3, "cwd": str(directory)}

    def _pid(self, table: Table) -> int:
        file = Path(table["cwd"], "pid")
        text = file.read_text().strip() if file.exists() else ""
        pid = int(text or 0)
        stat = proc_stat(pid) if pid else None
        return pid if stat is not None and stat.state not in "ZX" else 0

    def break_it(self, table: Table) -> None:
        self.eventually("the service has said its pid", lambda: bool(self._pid(table)))
        os.kill(self._pid(table), signal.SIGKILL)

    def effect(self, table: Table) -> bool | None:
        """It may not have said it yet."""
        return bool(self._pid(table)) or None
