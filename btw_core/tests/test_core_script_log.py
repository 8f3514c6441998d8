"""The package's log of what its commands print."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import pytest

from btw_core.context import LINE, LINES
from btw_core.testing import FakeContext


def test_lines_with_time_and_place(tmp_path: Path) -> None:
    """Every line, more than the journal takes, whole; also one without an end, and bytes that are no text."""
    log = tmp_path / "log"
    ctx = FakeContext(script_log=str(log))
    ctx.run(f"seq {LINES + 50}; printf '%{LINE + 100}s\\n' x; printf 'no \\377 end'")
    rows = log.read_bytes().splitlines()
    head = rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d node1 start resource: "
    said = [re.sub(b"^" + head, b"", row) for row in rows]
    assert all(re.match(head, row) for row in rows)
    assert said == [*(str(i).encode() for i in range(1, LINES + 51)), b"%*s" % (LINE + 100, b"x"), b"no \xff end"]


def test_rotated(tmp_path: Path) -> None:
    """Opened anew for each piece of output: what was renamed gets nothing more."""
    log, old = tmp_path / "log", tmp_path / "log.1"
    ctx = FakeContext(script_log=str(log))
    ctx.run("echo first")
    log.rename(old)
    ctx.run("echo second")
    assert old.read_text().endswith(": first\n") and old.read_text().count("\n") == 1
    assert log.read_text().endswith(": second\n") and log.read_text().count("\n") == 1


def test_disk_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing fails, the journal has the output and, once, the reason. A full disk takes part of a write."""
    tried = []

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            tried.append(data)
            if len(tried) > 1:
                raise OSError(28, "No space left on device")
            return 3

    ctx = FakeContext(script_log=str(tmp_path / "log"))
    with monkeypatch.context() as patch:
        patch.setattr("btw_core.script_log.open", lambda descriptor, *_, **__: Full(), raising=False)
        assert ctx.run("echo one; sleep 0.1; echo two").output == "one\ntwo\n"
    said = f"log {tmp_path}/log: No space left on device; the output is in the journal only"
    assert sorted(ctx.lines) == sorted(["one", said, "two"])
    assert len(tried) == 2


@pytest.mark.parametrize("kind", ["directory", "pipe", "missing"])
def test_no_file(tmp_path: Path, kind: str) -> None:
    """What is no regular file, or cannot be made, is left alone: a pipe would block. The command runs."""
    log = tmp_path / "none" / "log" if kind == "missing" else tmp_path / "log"
    if kind == "directory":
        log.mkdir()
    elif kind == "pipe":
        os.mkfifo(log)
    ctx = FakeContext(script_log=str(log))
    assert ctx.run("echo one; sleep 0.1; echo two").code == 0
    assert sum(line.startswith(f"log {log}: ") for line in ctx.lines) == 1
    assert "one" in ctx.lines


def test_not_of_status(tmp_path: Path) -> None:
    """A look each pace would drown the rest."""
    FakeContext(verb=None, script_log=str(tmp_path / "log")).run("echo up")
    assert not (tmp_path / "log").exists()
