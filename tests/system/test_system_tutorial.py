"""docs/tutorial.md: its commands are run as written, and print what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from system.conftest import LIMIT, ROOT, Cluster

PAGE = ROOT / "docs/tutorial.md"
FILE = re.compile(r'^```toml title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def steps() -> Iterator[tuple[str, list[str]]]:
    """(command, what it prints)."""
    for block in CONSOLE.findall(PAGE.read_text()):
        command = ""
        shown: list[str] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                if command:
                    yield command, shown
                command, shown = line[2:], []
            else:
                shown.append(line)
        yield command, shown


def plain(line: str) -> str:
    """Numbers differ from run to run, and so do widths of columns."""
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)?", "N", line)).strip()


def misses(shown: list[str], output: str, directory: Path) -> list[str]:
    """What is not there, or not in this order."""
    printed = iter(plain(line.replace(str(directory), "~")) for line in output.splitlines())
    return [line for line in shown if plain(line) not in printed]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """The tutorial's directory; whatever its nodes leave is ended."""
    cluster = Cluster(tmp_path / "demo")
    for directory in (cluster.data, tmp_path / "demo/packages", tmp_path / "demo"):
        directory.rmdir()
    try:
        yield tmp_path
    finally:
        (tmp_path / "demo/packages").mkdir(parents=True, exist_ok=True)
        cluster.kill_all()


def test_the_tutorial(place: Path) -> None:
    """Step by step; `btw status` is asked again until it says what the page shows."""
    (bin := place / "bin").mkdir()
    (bin / "btw").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m btw_core.cli "$@"\n')
    (bin / "btw").chmod(0o755)
    env = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "COLUMNS": "100"}
    ((name, text),) = FILE.findall(PAGE.read_text())
    seen = 0
    for command, shown in steps():
        if command.startswith("btw check"):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(text)
        end = time.monotonic() + LIMIT
        while True:
            done = subprocess.run(
                command, shell=True, cwd=place, env=env, capture_output=True, text=True, timeout=LIMIT, check=False
            )
            assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
            missing = misses(shown, done.stdout, place)
            if not (missing and command.startswith("btw status") and time.monotonic() < end):
                break
            time.sleep(0.2)
        assert not missing, f"$ {command}\n{done.stdout}\nshould have said, in this order: {missing}"
        seen += 1
    assert seen >= 14
