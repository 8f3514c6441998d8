"""The commands against real managers: in the background, by hand, over a store that is not there, and the demo."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from system.conftest import LIMIT, Cluster


def test_run_in_the_background_answers_when_it_returns(cluster: Cluster) -> None:
    """`run -d` returns 0 once status, stop and events can be asked; a second one is refused with its message."""
    cluster.script("web")
    node = ["--node", "n1"]
    begun = cluster.btw("run", "-d", "web", *node)
    assert begun.returncode == 0, begun.stderr
    status = json.loads(cluster.btw("status", "--json", *node).stdout)
    assert [(p["package"], p["node"]) for p in status["packages"]] == [("web", "n1")]
    again = cluster.btw("run", "-d", "web", *node)
    assert again.returncode == 75 and "already managed" in again.stderr
    cluster.wait("n1", "running")
    stopped = cluster.btw("stop", "web", "--json")
    assert [each["ok"] for each in json.loads(stopped.stdout)] == [True]
    events = [json.loads(line) for line in cluster.btw("events", "web", "--json").stdout.splitlines()]
    assert [each["state"] for each in events if each["event"] == "transition"][-1] == "halted"
    assert "have no line about nope" in cluster.btw("events", "nope").stderr
    log = cluster.directory / "log" / "n1" / "web.log"
    assert "halted" in log.read_text()


def test_run_in_the_background_says_why_it_cannot(cluster: Cluster) -> None:
    """What the background process prints before it ends is shown, with its exit code."""
    done = cluster.btw("run", "-d", "nothing", "--node", "n1")
    assert done.returncode == 78 and "there is no package `nothing`" in done.stderr


def test_try_starts_leaves_up_and_stops(cluster: Cluster) -> None:
    """start leaves it up with the times it took; another node is refused; run adopts it; stop verifies it down."""
    cluster.script("web", start="sleep 0.3", timeout=30)  # so that no lease runs out on a busy computer
    n1, n2 = ["--node", "n1"], ["--node", "n2"]
    assert cluster.btw("try", "web", "status", *n1).returncode == 1
    started = cluster.btw("try", "web", "start", *n1)
    assert started.returncode == 0, started.stderr
    assert re.search(r"start 0\.\d s of start_timeout 10 s", started.stdout)
    assert cluster.btw("try", "web", "status", *n1).returncode == 0
    cluster.says("web", "n1", 2)
    assert cluster.btw("try", "web", "status", *n1).returncode == 2
    cluster.says("web", "n1", 0)
    refused = cluster.btw("try", "web", "start", *n2)
    assert refused.returncode == 75 and "held by n1" in refused.stderr
    assert "btw run web -d --node n1" in cluster.btw("status", *n1).stdout
    process = cluster.run("n1", "web")
    cluster.until(lambda: any("adopted" in e.get("cause", "") for e in cluster.read()), "adopted")
    cluster.crash(process, "n1")
    stopped = cluster.btw("try", "web", "stop", *n1, "--json")
    said = json.loads(stopped.stdout)
    assert stopped.returncode == 0 and said["ok"] and "script" in said["seconds"]
    assert cluster.log("web") == ["begin n1", "end n1", "stop n1"]
    assert cluster.btw("try", "web", "start", *n2).returncode == 0  # the lock is free


def test_try_says_why_a_start_failed_and_gives_the_lock_back(cluster: Cluster) -> None:
    """Exit code 1 with the cause; nothing stays up, and the lock is free for others."""
    cluster.script("web", start="test $BTW_NODE != n1 || exit 7")
    failed = cluster.btw("try", "web", "start", "--node", "n1")
    assert failed.returncode == 1 and "exit code 7" in failed.stderr
    assert cluster.log("web") == ["begin n1", "stop n1"]
    assert cluster.btw("try", "web", "start", "--node", "n2").returncode == 0


def test_init_creates_once_and_unlock_asks_first(cluster: Cluster) -> None:
    """A cluster is created once; a record that names a holder is freed by a person only who says so twice."""
    cluster.script("web")
    node = ["--node", "n1"]
    created = cluster.btw("init", "--cluster", "house", *node)
    assert created.returncode == 0, created.stderr
    assert 'cluster = "house"' in (cluster.directory / "btw.toml").read_text()
    again = cluster.btw("init")
    assert again.returncode == 75 and "has a cluster already" in again.stderr
    assert cluster.btw("try", "web", "start", *node).returncode == 0
    held = cluster.btw("unlock", "web")
    assert held.returncode == 1 and "held by n1" in held.stdout
    assert cluster.btw("unlock", "web", "--confirmed").returncode == 0
    assert cluster.btw("try", "web", "start", "--node", "n2").returncode == 0


def test_a_new_package_does_not_wait_and_a_lost_record_does(cluster: Cluster) -> None:
    """No record: new if no node of this computer has ever run it; else lost, and a person or a lease decides."""
    cluster.script("web")
    node = ["--node", "n1"]
    assert cluster.btw("init", *node).returncode == 0
    cluster.script("late")
    assert cluster.btw("try", "late", "start", *node).returncode == 0
    assert cluster.btw("try", "late", "stop", *node).returncode == 0
    with contextlib.closing(sqlite3.connect(cluster.directory / "state" / "local.db")) as store:
        for (trigger,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            store.execute(f"DROP TRIGGER {trigger}")
        assert store.execute("DELETE FROM record WHERE key = 'packages/late'").rowcount == 1
        store.commit()
    refused = cluster.btw("try", "late", "start", "--node", "n2")  # n2 never saw it, n1 on this computer did
    assert refused.returncode == 75 and "btw unlock late" in refused.stderr
    explained = cluster.btw("unlock", "late")
    assert explained.returncode == 1 and "--confirmed" in explained.stdout
    assert cluster.btw("unlock", "late", "--confirmed").returncode == 0
    assert cluster.btw("try", "late", "start", *node).returncode == 0


def test_unlock_is_refused_where_it_is_certainly_wrong(cluster: Cluster) -> None:
    """A package that is active on this very computer is stopped, not unlocked."""
    cluster.script("web")
    cluster.run("n1", "web")
    cluster.wait("n1", "running")
    refused = cluster.btw("unlock", "web", "--confirmed")
    assert refused.returncode == 75 and "btw stop web" in refused.stderr
    manager, keeper = cluster.halves("n1")
    for pid in (keeper.pid, manager.pid):
        os.kill(pid, signal.SIGSTOP)
    frozen = cluster.btw("unlock", "web", "--confirmed")
    assert frozen.returncode == 75 and "end it before" in frozen.stderr
    for pid in (manager.pid, keeper.pid):
        os.kill(pid, signal.SIGCONT)


def test_a_node_that_may_not_run_it_is_refused(cluster: Cluster) -> None:
    """`nodes` in the package file is obeyed before anything is locked or started."""
    (cluster.directory / "packages/web.toml").write_text(
        f'[package]\nnodes = ["elsewhere"]\n[[resource]]\ntype = "flag"\npath = "{cluster.data}/flag"\n'
    )
    done = cluster.btw("run", "web", "--node", "n1")
    assert done.returncode == 78 and "is for nodes elsewhere" in done.stderr


def test_a_lock_file_deleted_while_running_is_the_end_of_the_lease(cluster: Cluster) -> None:
    """Nobody can tell who holds what any more: status says so, the package is stopped when the lease has run out, and
    the manager can still be halted."""
    cluster.script("web")
    first = cluster.run("n1", "web")
    cluster.wait("n1", "running")
    (cluster.directory / "state/local.db").unlink()
    cluster.wait("n1", "", event="store_trouble")
    assert "was deleted or replaced" in cluster.btw("status", "--node", "n1").stdout
    cluster.wait("n1", "failing")  # the lock runs out
    cluster.wait("n1", "failed")
    assert cluster.log("web") == ["begin n1", "end n1", "stop n1"]
    first.terminate()
    first.communicate(timeout=LIMIT)
    assert first.returncode == 0


def test_damaged_memory_is_refused_with_the_remedy(cluster: Cluster) -> None:
    """A state file that cannot be read names itself and what to do; exit code 78."""
    cluster.script("web")
    state = cluster.directory / "state" / "n1"
    state.mkdir(parents=True)
    (state / "web.json").write_text("{half")
    done = cluster.btw("run", "web", "--node", "n1")
    assert done.returncode == 78
    assert "web.json is damaged" in done.stderr and "mv " in done.stderr and "Traceback" not in done.stderr


def test_events_follow(cluster: Cluster) -> None:
    """--follow shows what happens while it happens, and ends with Ctrl-C."""
    cluster.script("web")
    command = [sys.executable, "-P", "-m", "btw_core.cli", "events", "-f", "--dir", str(cluster.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        try:
            process = cluster.run("n1", "web")
            assert follower.stdout is not None
            for line in follower.stdout:
                if "starting -> running" in line:
                    break
            cluster.end(process)
            follower.send_signal(signal.SIGINT)
            assert follower.wait(LIMIT) == 130
        finally:
            follower.kill()


def test_the_demo_ends_in_time_and_leaves_nothing(tmp_path: Path) -> None:
    """`btw demo`: exit code 0 in under 60 s, a measured take-over, and no file, process or cgroup of it left."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "btw_core.cli", "demo"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - begin < 60
    assert re.search(r"Take-over after a kill \d+\.\d\d s, after a planned stop \d+\.\d\d s", done.stdout)
    assert not list(tmp_path.iterdir())
    assert not _processes_with(str(tmp_path))


def test_an_interrupted_demo_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the midst of it: everything is removed as well."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "btw_core.cli", "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "starting -> running" in line:
                break
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT)
        assert process.returncode == 130
        assert not list(tmp_path.iterdir())
        assert not _processes_with(str(tmp_path))
    finally:
        process.kill()
        process.wait(LIMIT)


def _processes_with(word: str) -> list[str]:
    """Command lines, of others than this process, in which the word occurs."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and int(each.name) != os.getpid():
            try:
                line = (each / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if word in line:
                found.append(line)
    return found


@pytest.mark.parametrize("words", [["run"], ["statsu"], ["try", "web", "jump"], ["events", "--since", "tomorrow"]])
def test_usage_errors_have_their_own_code(cluster: Cluster, words: list[str]) -> None:
    """64 for whatever is wrong with the command line itself, never a traceback."""
    done = cluster.btw(*words) if words != ["statsu"] else cluster.btw("statsu")
    assert done.returncode == 64, done.stderr
    assert "Traceback" not in done.stderr
