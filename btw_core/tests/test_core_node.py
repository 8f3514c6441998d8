"""What node.py does by itself; the rest of it is shown by the system tests."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from btw_core.containment import find_cgroup_root, home_of
from btw_core.exits import DEFECT
from btw_core.resource import ConfigError, Problem
from btw_core.store import Store, StoreUnavailable
from btw_core.store_late import LateStore
from btw_core.store_local import LocalStore


def test_a_store_that_comes_later_is_opened_by_the_first_call_that_can(tmp_path: Path) -> None:
    """Until it opens every call says that nobody can tell; then it is the real one, opened once."""
    there = threading.Event()
    opened: list[Store] = []

    def opener() -> Store:
        if not there.is_set():
            raise StoreUnavailable("some:where is not there")
        return LocalStore(str(tmp_path / "local.db"), runtime=tmp_path / "guards")

    store = LateStore("some:where", opened.append, opener)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="some:where is not there"):
            store.list("", deadline=1)
    assert opened == []
    there.set()
    assert store.put("a", b"1", expected=None, deadline=30) == 1
    assert store.get("a", deadline=30) is not None
    assert len(opened) == 1 and store.creates_itself and store.description.startswith("local:")
    store.close()
    with pytest.raises(StoreUnavailable):
        store.get("a", deadline=1)


def test_an_opening_that_hangs_costs_a_call_no_more_than_its_deadline() -> None:
    """One thread may hang in the engine; the others say in time that nobody can tell."""
    go, inside = threading.Event(), threading.Event()

    def opener() -> Store:
        inside.set()
        go.wait(60)
        raise StoreUnavailable("no")

    store = LateStore("some:where", lambda _store: None, opener)

    def hang() -> None:
        with pytest.raises(StoreUnavailable):
            store.open(60)

    first = threading.Thread(target=hang)
    first.start()
    try:
        assert inside.wait(60)
        with pytest.raises(StoreUnavailable, match="still being opened"):
            store.get("a", deadline=0.05)
    finally:
        go.set()
        first.join(60)


def test_a_wrong_configuration_is_told_from_an_outage() -> None:
    """At the start it is a ConfigError; afterwards, when there is nobody to refuse, nobody can tell."""

    def opener() -> Store:
        raise ConfigError([Problem(text="lock scheme `some` is not installed")])

    store = LateStore("some:where", lambda _store: None, opener)
    with pytest.raises(ConfigError):
        store.open(1)
    with pytest.raises(StoreUnavailable, match="not installed"):
        store.get("a", deadline=1)


def remove_cgroup(home: str) -> None:
    """Once the orphaned zygote has gone; at most for a while."""
    end = time.monotonic() + 60
    while (root := find_cgroup_root(home)) is not None and time.monotonic() < end:
        try:
            for directory, _, _ in os.walk(root, topdown=False):
                Path(directory).rmdir()
            return
        except OSError:
            time.sleep(0.05)


def test_a_defect_ends_the_manager_at_once(tmp_path: Path) -> None:
    """A manager that no longer thinks must not go on renewing: traceback, a line in the journal, exit code 70."""
    program = f"""
import asyncio, sys
from btw_core.settings import load_setup
from btw_core.node import Node
def goal(manager):
    raise RuntimeError("oops")
setup = load_setup({str(tmp_path)!r}, "n1")
sys.exit(asyncio.run(Node(setup, ["web"], [{str(tmp_path)!r}, "n1", "", ""], goal=goal).run()))
"""
    (tmp_path / "packages").mkdir()
    text = f'[[resource]]\ntype = "flag"\npath = "{tmp_path}/flag"\n'
    (tmp_path / "packages/web.toml").write_text(text)
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    remove_cgroup(home_of("n1", tmp_path / "state/n1"))
    if "is not installed" in done.stderr:
        pytest.skip("btw-exec is not installed")
    assert done.returncode == DEFECT
    assert "RuntimeError: oops" in done.stderr and "defect of btw" in done.stderr
    assert '"event": "defect"' in (tmp_path / "state/n1/journal.jsonl").read_text()
