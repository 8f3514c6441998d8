"""A daemon met at 3 a.m.: killed, stopped for a while, without its store, over broken files, beside a `btw run`.

What must never be two is a process that holds a lock on a file: whoever finds it taken writes so into a log.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .daemons import Daemons, started

ALONE = """
[package]
pace = 0.5
timeout = {timeout}
start_timeout = 8
stop_timeout = 2
nodes = ["n1", "n2"]
{head}

[[resource]]
type = "service"
name = "alone"
command = ["sh", "-c", "echo on $BTW_NODE >> {log}; flock -n -E 9 {lock} sleep 9999; [ $? != 9 ] || echo two >> {log}"]
"""


def alone(daemons: Daemons, name: str, timeout: float = 5, head: str = "") -> None:
    """A package that sees for itself that it is the only one."""
    file = daemons.directory / "packages" / f"{name}.toml"
    log, lock = daemons.directory / f"{name}.log", daemons.directory / f"{name}.alone"
    file.write_text(ALONE.format(timeout=timeout, log=log, lock=lock, head=head))


def begun(daemons: Daemons, name: str) -> list[str]:
    """On which nodes it was started so far, in order. Fails when there were two."""
    file = daemons.directory / f"{name}.log"
    lines = file.read_text().splitlines() if file.exists() else []
    assert "two" not in lines, lines
    return [line.split()[1] for line in lines]


def kill_manager(daemons: Daemons, node: str) -> Callable[[], bool]:
    """SIGKILL. Returns whether another one answers."""
    pid = daemons.status(node)["pid"]
    os.kill(pid, signal.SIGKILL)
    return lambda: daemons.status(node)["pid"] != pid


def test_killed_managers_and_keepers_cost_nothing_or_are_taken_over(daemons: Daemons) -> None:
    """The manager: adopted, no start and no stop. The keeper: another one. Both: the other node, once the lease is
    over."""
    alone(daemons, "web")
    started(daemons, "n1", "n2")
    daemons.settles(web="n1")
    daemons.until(kill_manager(daemons, "n1"))
    daemons.settles(web="n1")
    keeper = daemons.keepers["n1"]
    keeper.kill()
    keeper.wait()
    daemons.until(lambda: daemons.status("n1")["keeper"] not in (0, keeper.pid))
    daemons.settles(web="n1")
    assert begun(daemons, "web") == ["n1"]
    both = daemons.status("n1")
    for pid in (both["keeper"], both["pid"]):
        os.kill(pid, signal.SIGKILL)
    del daemons.keepers["n1"]
    daemons.settles(web="n2")
    daemons.begin("n1")
    daemons.until(lambda: daemons.look("n1") == {"web": ["n2"]})
    assert begun(daemons, "web") == ["n1", "n2"]


@pytest.mark.parametrize("daemons", ["local"], indirect=True)
def test_what_is_up_is_kept_over_files_that_are_broken_or_gone(daemons: Daemons) -> None:
    """Its manager is killed while its file is broken, or is not there: another one goes on with what was applied, says
    so, and can stop it. A file that is mended is taken over by `btw apply`."""
    alone(daemons, "web")
    alone(daemons, "app")
    started(daemons, "n1")
    daemons.settles(web="n1", app="n1")
    file = daemons.directory / "packages" / "web.toml"
    good = file.read_text()
    file.write_text(good.replace("[package]", "[package"))
    assert "a closing bracket is missing" in daemons.btw("apply", code=78)
    daemons.until(kill_manager(daemons, "n1"))
    said = daemons.btw("status")
    assert "web.toml:2: not TOML" in said and "goes on with the package files as they were: web may be up here" in said
    file.unlink()
    daemons.until(kill_manager(daemons, "n1"))
    assert "its file is broken or gone" in daemons.btw("status")
    assert "btw stop web" in daemons.btw("apply", code=1)
    daemons.settles(web="n1", app="n1")
    assert begun(daemons, "web") == begun(daemons, "app") == ["n1"]
    file.write_text(good)
    assert "applied on n1" in daemons.btw("apply")
    assert "its file is broken or gone" not in daemons.btw("status")
    daemons.btw("stop", "web")
    file.unlink()
    assert "- package web" in daemons.btw("apply")
    daemons.settles(app="n1")
    assert begun(daemons, "web") == begun(daemons, "app") == ["n1"]


@pytest.mark.parametrize("daemons", ["local"], indirect=True)
def test_what_is_up_is_kept_over_a_packages_directory_that_is_none(daemons: Daemons) -> None:
    """A link to what is no directory, or to nowhere, has its name: another manager goes on with what was applied, and
    can stop it."""
    alone(daemons, "web")
    started(daemons, "n1")
    daemons.settles(web="n1")
    packages, good = daemons.directory / "packages", daemons.directory / "packages.good"
    packages.rename(good)
    for target in ("/dev/null", "/nonexistent/packages"):
        packages.unlink(missing_ok=True)
        packages.symlink_to(target)
        daemons.until(kill_manager(daemons, "n1"))
        daemons.settles(web="n1")
        assert "goes on with the package files as they were: web may be up here" in daemons.btw("status")
    daemons.btw("stop", "web")
    packages.unlink()
    good.rename(packages)
    assert "applied on n1" in daemons.btw("apply")
    assert begun(daemons, "web") == ["n1"]


@pytest.mark.parametrize("daemons", ["local"], indirect=True)
def test_what_is_up_is_kept_over_a_broken_btw_toml(daemons: Daemons) -> None:
    """Its manager and the zygote are killed while btw.toml is broken: others go on with it as it was. Mended, it is
    taken over by an upgrade in place."""
    alone(daemons, "web")
    started(daemons, "n1", "n2")
    daemons.settles(web="n1")
    file, copy = daemons.directory / "btw.toml", daemons.directory / "run" / "n1" / "@daemon.toml"
    file.write_text('forming = "soon"\n')
    daemons.until(kill_manager(daemons, "n1"))
    daemons.settles(web="n1")
    os.kill(zygote(daemons.status("n1")["pid"]), signal.SIGKILL)
    assert "btw.toml:1: forming:" in daemons.btw("status", code=78)
    file.write_text("forming = 3\n")
    assert "goes on with btw.toml as it was when nothing was up here" in daemons.btw("events")
    daemons.settles(web="n1")
    pid = daemons.status("n1")["pid"]
    daemons.keepers["n1"].send_signal(signal.SIGUSR1)
    daemons.until(lambda: daemons.status("n1")["pid"] != pid)
    daemons.settles(web="n1")
    assert copy.read_text() == file.read_text() and copy.stat().st_mode & 0o777 == 0o600
    assert begun(daemons, "web") == ["n1"]
    daemons.end("n1")
    assert not copy.exists()


def zygote(manager: int) -> int:
    """The child of that manager that forks its operations."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == manager and b"btw_core.zygote" in (path.parent / "cmdline").read_bytes():
                return int(path.parent.name)
    raise AssertionError("no zygote")


@pytest.mark.parametrize("daemons", ["local"], indirect=True)
def test_damaged_memory_costs_its_own_package_only(daemons: Daemons) -> None:
    """What this node remembers of web cannot be read by the next manager: web is left out here, with the remedy, and
    another node takes it over; app is adopted."""
    alone(daemons, "web")
    alone(daemons, "app")
    started(daemons, "n1", "n2")
    daemons.settles(web="n1", app="n1")
    memory = daemons.directory / "state" / "n1"
    for end in ("json", "now"):
        (memory / f"web.{end}").write_bytes(b"\0" * 100)
    daemons.until(kill_manager(daemons, "n1"))
    said = daemons.btw("status")
    assert "web is left out: " in said and f"mv {memory}/web.json" in said
    daemons.settles(web="n2", app="n1")
    (memory / "web.json").rename(memory / "web.json.damaged")
    assert "applied on n1" in daemons.btw("apply")
    assert "left out" not in daemons.btw("status")
    daemons.btw("move", "web", "n1")
    daemons.settles(web="n1", app="n1")
    assert begun(daemons, "app") == ["n1"] and begun(daemons, "web") == ["n1", "n2", "n1"]


@pytest.mark.parametrize("daemons", ["local"], indirect=True)
def test_a_damaged_record_costs_its_own_package_only(daemons: Daemons) -> None:
    """Nobody knows who holds web: it is started nowhere, status and why say so with the remedy, and app is served."""
    alone(daemons, "web")
    alone(daemons, "app")
    started(daemons, "n1", "n2")
    daemons.settles(web="n1", app="n1")
    daemons.btw("stop", "web")
    with contextlib.closing(sqlite3.connect(daemons.directory / "state" / "local.db")) as store, store:
        store.execute("UPDATE record SET value = x'00', revision = revision + 1000000 WHERE key = 'packages/web'")
    daemons.until(lambda: "btw unlock" in daemons.btw("why", "web"))
    assert "web is not managed: record packages/web in the store cannot be read" in daemons.btw("status")
    daemons.btw("move", "app", "n2")
    daemons.settles(app="n2")


@pytest.mark.parametrize("daemons", ["local"], indirect=True)
def test_a_daemon_leaves_to_a_run_what_that_has(daemons: Daemons) -> None:
    """It neither starts it nor, at some hard deadline, has its processes killed; and apply says what is left out."""
    alone(daemons, "web")
    alone(daemons, "mine", timeout=3)
    where = ["--dir", str(daemons.directory), "--node", "n1"]
    run = subprocess.Popen([sys.executable, "-m", "btw_core.cli", "run", "mine", *where], stdout=subprocess.DEVNULL)
    try:
        daemons.until(lambda: begun(daemons, "mine") == ["n1"])
        started(daemons, "n1")
        daemons.settles(web="n1")
        assert "not mine: btw status says why" in daemons.btw("apply", code=1)
        assert "mine is left out: package mine is already managed" in daemons.btw("status")
        assert "the daemon of node n1 runs already" in daemons.btw("daemon", code=75)
        assert "already managed on node n1" in daemons.btw("run", "web", code=75)
        time.sleep(6)  # longer than its lease
        assert begun(daemons, "mine") == begun(daemons, "web") == ["n1"]
        assert "self fence" not in daemons.btw("events")
    finally:
        run.terminate()
        run.wait(60)


@pytest.mark.parametrize("daemons", ["local"], indirect=True)
def test_commands_over_a_manager_that_dies(daemons: Daemons) -> None:
    """Whoever waits for it waits for the next one; whoever was not answered is told that it is not known."""
    alone(daemons, "web")
    alone(daemons, "app")
    started(daemons, "n1", "n2")
    daemons.settles(web="n1", app="n1")
    pid = daemons.status("n1")["pid"]
    os.kill(pid, signal.SIGSTOP)
    # `reset web` could come before the move, and forget its order
    words = ["move", "web", "n2"], ["status"], ["disable", "web"], ["reset", "app"], ["maintenance", "web", "on"]
    where = ["--dir", str(daemons.directory), "--node", "n1"]
    command = [sys.executable, "-m", "btw_core.cli"]
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    asked = [subprocess.Popen([*command, *each, *where], text=True, stdout=pipe, stderr=both) for each in words]
    time.sleep(2)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for each, process in zip(words, asked, strict=True):
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, f"{each}: {process.returncode}\n{said}"
        assert "defect" not in said and "no daemon" not in said, said
    assert begun(daemons, "web") in (["n1"], ["n1", "n2"])


@pytest.mark.parametrize("daemons", ["local"], indirect=True)
def test_what_the_store_does_not_take_is_shown_and_not_forgotten_in_silence(daemons: Daemons) -> None:
    """Somebody else writes into the store for as long as one looks."""
    alone(daemons, "web", head="auto_run = false")
    started(daemons, "n1")
    daemons.settles(web="")
    with contextlib.closing(sqlite3.connect(daemons.directory / "state" / "local.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "the lock store did not take it" in daemons.btw("start", "web", code=1)
        waits = "web was to be changed, and the lock store has not taken that: "
        assert waits in daemons.btw("why", "web") and waits in daemons.btw("status")
        daemons.end("n1")
    assert "n1 forgotten: web was to be changed" in daemons.btw("events") and begun(daemons, "web") == []
