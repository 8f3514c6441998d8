"""The command, the extension and the package files, through btw."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from btw_hello import btw_event, btw_package_file

EVENT = {
    "at": "2026-01-01T00:00:00Z",
    "event": "transition",
    "node": "n1",
    "package": "web",
    "before": "starting",
    "state": "running",
}


def test_the_command_is_one_of_btw() -> None:
    """It is in the list, and runs."""
    command = [sys.executable, "-m", "btw_core.cli"]
    assert "hello" in subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run([*command, "hello", "world"], capture_output=True, text=True, check=True)
    assert done.stdout == "hello world\n"


def test_the_diary_tells_changes_of_state(tmp_path: Path) -> None:
    """And nothing else; without a setting nothing at all."""
    file = tmp_path / "diary"
    for event in (EVENT, {**EVENT, "event": "note"}, {**EVENT, "before": "running"}):
        btw_event(event, {"diary": str(file)})
        btw_event(event, {})
    assert file.read_text() == "2026-01-01T00:00:00Z n1 web: starting -> running\n"


def test_a_file_of_paths_is_a_package(tmp_path: Path) -> None:
    """Each line a resource; other files are left to others; an empty one is refused with the reason."""
    file = tmp_path / "greetings.hello"
    file.write_text("# who is here\n/tmp/a\n/tmp/b\n")
    package = btw_package_file(file)
    assert package is not None
    assert [each["path"] for each in package["resource"]] == ["/tmp/a", "/tmp/b"]
    assert btw_package_file(tmp_path / "web.toml") is None
    file.write_text("#\n")
    with pytest.raises(ValueError, match="no line with a path"):
        btw_package_file(file)
