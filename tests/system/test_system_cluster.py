"""Real daemons on several nodes of this computer: each expected placement is written in the test.

On the embedded store, and on a real etcd of one member.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import LIMIT, Cluster

NODES = ("n1", "n2", "n3")
FLAG = """
[package]
pace = 1
timeout = 5
start_timeout = 8
stop_timeout = 4
{head}

[[resource]]
type = "exec"
start = "touch {path}-$BTW_NODE"
stop = "rm -f {path}-$BTW_NODE"
status = "test -e {path}-$BTW_NODE"
{rest}
"""


class Daemons:
    """Three nodes of this computer, and what a person types on the first of them that is up."""

    def __init__(self, cluster: Cluster, lock: str | None) -> None:
        self.cluster, self.directory, self.lock = cluster, cluster.directory, lock
        self.keepers: dict[str, subprocess.Popen[str]] = {}

    def package(self, name: str, head: str = "", rest: str = "") -> None:
        file = self.directory / "packages" / f"{name}.toml"
        file.write_text(FLAG.format(head=head, path=self.directory / f"{name}.up", rest=rest))

    def up(self, name: str, node: str) -> Path:
        """A file that is there while it is up on that node."""
        return self.directory / f"{name}.up-{node}"

    def btw(self, *words: str, code: int = 0, node: str = "n1") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "btw_core.cli", *words, "--dir", str(self.directory), *self._where(words, node)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == code, f"btw {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def _where(self, words: tuple[str, ...], node: str) -> list[str]:
        lock = ["--lock", self.lock] if self.lock and words[0] not in ("stop", "events") else []
        return ["--node", node, *lock] if words[0] != "events" else []

    def begin(self, *nodes: str) -> None:
        for node in nodes:
            command = [sys.executable, "-m", "btw_core.cli", "daemon", "--dir", str(self.directory), "--node", node]
            command += ["--lock", self.lock] if self.lock else []
            with (self.directory / f"{node}.out").open("a") as out:
                self.keepers[node] = subprocess.Popen(command, stdout=out, stderr=out, text=True)

    def end(self, node: str, number: int = signal.SIGTERM) -> None:
        """The daemon is asked to end, and has."""
        keeper = self.keepers.pop(node)
        keeper.send_signal(number)
        keeper.wait(LIMIT)

    def crash(self, node: str) -> None:
        """All processes of the node are killed at once; what was up there is gone, as after a power cut."""
        answer = self.status(node)
        up = [each["package"] for each in answer["packages"] if each["role"] == "active"]
        keeper = self.keepers.pop(node)
        for pid in (keeper.pid, answer["pid"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        keeper.wait(LIMIT)
        for name in up:
            self.up(name, node).unlink(missing_ok=True)

    def status(self, node: str) -> dict[str, Any]:
        from btw_core.control import ask

        return next(ask(self.directory / "run" / node / "@daemon.sock", {"command": "status"}, 5.0))

    # ---- what is seen
    def look(self, node: str | None = None) -> dict[str, list[str]]:
        """Package -> where it is up, as a daemon sees it. Raises OSError, NoAnswer between two managers."""
        from btw_core.control import ask

        node = node or next(iter(self.keepers))
        said = next(ask(self.directory / "run" / node / "@daemon.sock", {"command": "cluster"}, 5.0))
        packages = said["view"]["packages"].items()
        return {name: sorted(n for n, p in each.get("at", {}).items() if p == "up") for name, each in packages}

    def settles(self, **expected: str) -> None:
        """Comes to be placed so: name="n1 n2" or "" (down), and stays so for a moment."""
        self.until(lambda: self._placed(expected), lambda: f"expected {expected}, found {self.look()}")
        time.sleep(1.0)
        assert self._placed(expected), f"expected {expected}, then found {self.look()}"

    def _placed(self, expected: dict[str, str]) -> bool:
        found = self.look()
        return all(" ".join(found.get(name.replace("_", "-"), ["?"])) == where for name, where in expected.items())

    def until(self, happens: Callable[[], bool], what: Callable[[], str] = lambda: "") -> None:
        from btw_core.control import NoAnswer

        end = time.monotonic() + LIMIT
        while True:
            with contextlib.suppress(NoAnswer, OSError, ValueError):
                if happens():
                    return
            assert time.monotonic() < end, what()
            time.sleep(0.05)

    def journal(self, event: str, package: str) -> list[str]:
        lines = (json.loads(line) for line in self.btw("events", package, "--json").splitlines())
        return [f"{each['node']} {each['cause']}" for each in lines if each["event"] == event]


@contextlib.contextmanager
def etcd(directory: Path) -> Iterator[str]:
    """A member of its own on loopback."""
    binary = shutil.which("etcd")
    if binary is None:
        pytest.skip("etcd is not installed (Debian: etcd-server)")
    ports = []
    for _ in range(2):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            ports.append(one.getsockname()[1])
    client, peer = (f"http://127.0.0.1:{port}" for port in ports)
    words = [binary, "--data-dir", str(directory / "etcd"), "--listen-client-urls", client]
    words += ["--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    words += ["--initial-cluster", f"default={peer}"]
    with (directory / "etcd.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        yield f"etcd://127.0.0.1:{ports[0]}/btw"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def ended(found: Daemons) -> Iterator[Daemons]:
    """Everything has ended afterwards."""
    try:
        yield found
    finally:
        for keeper in found.keepers.values():
            keeper.send_signal(signal.SIGTERM)
            keeper.send_signal(signal.SIGTERM)
        for keeper in found.keepers.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                keeper.wait(20)
            keeper.kill()
            keeper.wait()


@pytest.fixture(params=["local", "etcd"])
def daemons(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemons]:
    """Nothing runs yet; everything has ended afterwards."""
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(etcd(tmp_path)) if request.param == "etcd" else None
        yield stack.enter_context(ended(Daemons(cluster, lock)))


def started(daemons: Daemons) -> None:
    """The cluster exists, and three daemons serve it."""
    toml = daemons.directory / "btw.toml"
    toml.write_text("forming = 20\n")
    if daemons.lock:
        daemons.until(lambda: "created" in _init(daemons))
    daemons.begin(*NODES)


def _init(daemons: Daemons) -> str:
    try:
        return daemons.btw("init")
    except AssertionError as error:  # etcd has no leader yet
        raise ValueError(str(error)) from error


def twenty(daemons: Daemons) -> None:
    """db <- app <- web on one node by db's list; five balanced ones; a log on every node; pairs that exclude each
    other; the rest by their lists."""
    daemons.package("db", 'nodes = ["n1", "n2", "n3"]\npriority = 10')
    daemons.package("app", 'nodes = ["n1", "n2", "n3"]', '[[dependency]]\npackage = "db"\n')
    daemons.package("web", 'nodes = ["n1", "n2", "n3"]', '[[dependency]]\npackage = "app"\nlocation = "any_node"\n')
    for number in range(1, 7):
        daemons.package(f"even{number}", 'nodes = ["n1", "n2", "n3"]\nfailover_policy = "min_package_node"')
    down = '[[dependency]]\npackage = "{}"\ncondition = "DOWN"\nlocation = "same_node"\n'
    daemons.package("prod", 'nodes = ["n2", "n3"]\npriority = 20', down.format("test"))
    daemons.package("test", 'nodes = ["n2", "n3"]', down.format("prod"))
    for number in range(1, 9):
        node = NODES[number % 3]
        others = [each for each in NODES if each != node]
        back = 'failback_policy = "automatic"' if number <= 4 else ""
        daemons.package(f"own{number}", f'nodes = ["{node}", "{others[0]}", "{others[1]}"]\n{back}')
    daemons.package("idle", 'nodes = ["n1"]\nauto_run = false')


FIRST = {f"own{number}": NODES[number % 3] for number in range(1, 9)}


def test_a_day_of_twenty_packages(daemons: Daemons) -> None:
    """Cluster start, exclusion, node crash, return with failback, drain, resume, maintenance."""
    twenty(daemons)
    started(daemons)
    daemons.settles(db="n1", app="n1", web="n1", prod="n2", test="n3", idle="", **FIRST)
    evens = [f"even{number}" for number in range(1, 7)]
    daemons.until(lambda: all(len(daemons.look()[name]) == 1 for name in evens))
    assert len({daemons.look()[name][0] for name in evens}) > 1

    # n1 is gone: db drags app along to its next node; web follows its list; those of n1 go to their next node
    daemons.crash("n1")
    daemons.settles(db="n2", app="n2", web="n2", prod="n2", test="n3", own3="n2", own6="n2", own1="n2", own2="n3")
    assert "n1 is lost" in daemons.btw("why", "db", "--on", "n2", node="n2") or daemons.look()["db"] == ["n2"]

    # n1 is back: only own3, whose failback is automatic, goes back
    daemons.begin("n1")
    daemons.settles(db="n2", app="n2", own3="n1", own6="n2")

    # n2 is drained: prod (priority 20) takes n3, and test has to leave it; n2 is empty
    daemons.btw("node", "drain", "n2", "--why", "kernel")
    daemons.settles(db="n1", app="n1", web="n1", prod="n3", own1="n1", own4="n1", own7="n1")
    assert not any("n2" in nodes for nodes in daemons.look().values())
    assert daemons.look()["test"] == []
    said = daemons.btw("why", "test")
    assert "excluded by prod on n3" in said and "drained" in said and "-> btw node resume n2" in said

    # n2 takes part again: test has a node again, and those with automatic failback return
    daemons.btw("node", "resume", "n2")
    daemons.settles(prod="n3", test="n2", own1="n2", own4="n2", own7="n1")

    # maintenance: what vanishes is passed over; it ends only in health
    daemons.btw("maintenance", "own8", "on", "--why", "new disk")
    where = daemons.look()["own8"][0]
    daemons.until(lambda: _maintained(daemons, where, "own8"))
    daemons.up("own8", where).unlink()
    daemons.until(lambda: bool(daemons.journal("note", "own8")))
    time.sleep(1.5)
    daemons.settles(own8=where)
    refused = daemons.btw("maintenance", "own8", "off", code=1, node=where)
    assert "is not healthy here" in refused
    daemons.up("own8", where).touch()
    daemons.until(lambda: _healthy(daemons, where, "own8"))
    daemons.btw("maintenance", "own8", "off", node=where)
    daemons.settles(own8=where)


def _maintained(daemons: Daemons, node: str, name: str) -> bool:
    return any(each["package"] == name and each["maintenance"] for each in daemons.status(node)["packages"])


def _healthy(daemons: Daemons, node: str, name: str) -> bool:
    resources = (each["resources"] for each in daemons.status(node)["packages"] if each["package"] == name)
    return all(each["status"] == "up" for each in next(resources))


def test_switches_survive_everything(daemons: Daemons) -> None:
    """Halted by hand, switched off by a failure, disabled: still so after every daemon was ended and begun again."""
    daemons.package("web", 'nodes = ["n1", "n2"]')
    daemons.package("app", 'nodes = ["n1", "n2"]')
    daemons.package("job", 'nodes = ["n1", "n2"]')
    started(daemons)
    daemons.settles(web="n1", app="n1", job="n1")
    daemons.btw("stop", "web", "--why", "no more")
    daemons.up("app", "n1").unlink()  # it fails on n1, and runs on n2
    daemons.settles(web="", app="n2", job="n1")
    daemons.btw("disable", "job", "--why", "window")
    for node in NODES:
        daemons.end(node)
    assert not list(daemons.directory.glob("*.up-*"))
    daemons.begin(*NODES)
    daemons.settles(web="", app="n2", job="")
    user = os.environ.get("SUDO_USER") or getpass.getuser()
    said = daemons.btw("why", "web")
    assert (
        f"auto_run is off by {user}" in said
        and "no more" in said
        and "-> btw enable web, or once: btw start web" in said
    )
    assert "switched off on n1 by btw on n1" in daemons.btw("why", "app", "--on", "n1")
    assert "window" in daemons.btw("status", "--line") or "window" in daemons.btw("status")
    assert "package:web|auto_run=off" in daemons.btw("status", "--line")
    daemons.btw("enable", "app", "--on", "n1")
    daemons.btw("move", "app", "n1")
    daemons.btw("enable", "web")
    daemons.btw("start", "job")
    daemons.settles(web="n1", app="n1", job="n1")
    daemons.btw("stop", "app", "--here")
    daemons.settles(app="n2")


def test_multi_node_and_what_needs_it(daemons: Daemons) -> None:
    """An instance on each node; halted by hand only running it by hand starts it again; what needs it follows."""
    daemons.package("log", 'type = "multi_node"')
    daemons.package("app", 'nodes = ["n2", "n1"]', '[[dependency]]\npackage = "log"\n')
    started(daemons)
    daemons.settles(log="n1 n2 n3", app="n2")
    daemons.btw("stop", "log", "--on", "n2")
    daemons.settles(log="n1 n3", app="n1")
    assert "only running it by hand" in daemons.btw("why", "log", "--on", "n2")
    daemons.btw("start", "log", "--on", "n2")
    daemons.settles(log="n1 n2 n3", app="n1")


def test_apply_takes_over_what_changed_and_touches_nothing_else(daemons: Daemons) -> None:
    """New, changed and removed package files while everything runs; refused where something would have to stop."""
    for name in ("web", "app", "old"):
        daemons.package(name, 'nodes = ["n1", "n2"]')
    started(daemons)
    daemons.settles(web="n1", app="n1", old="n1")
    web = daemons.directory / "packages" / "web.toml"
    text = web.read_text()
    web.write_text(
        text + '[[resource]]\ntype = "flag"\nname = "second"\npath = "' + str(daemons.directory / "second") + '"\n'
    )
    refused = daemons.btw("apply", code=1)
    assert "+ resource second" in refused and "btw stop web" in refused
    web.write_text(text.replace("timeout = 4", "timeout = 5", 1))
    daemons.package("new", 'nodes = ["n1"]')
    daemons.btw("stop", "old")
    (daemons.directory / "packages" / "old.toml").unlink()
    preview = daemons.btw("apply", "--preview", code=1)
    assert "+ package new" in preview and "- package old" in preview and "~ [package]" in preview
    said = daemons.btw("apply", code=1)  # n2 and n3 have not read them yet
    assert "applied on n1" in said and "n2 has another web: [package]" in said
    daemons.settles(web="n1", app="n1", new="n1")
    stopped = [
        line for name in ("web", "app") for line in daemons.journal("transition", name) if "verified down" in line
    ]
    assert not stopped, stopped
    assert daemons.btw("apply", node="n2", code=0 if "n3" not in said else 1)
    daemons.btw("apply", node="n3")
    assert "nothing changed" in daemons.btw("apply")


def test_refused_and_explained(daemons: Daemons) -> None:
    """What cannot be is refused before anything happens, with the reason."""
    daemons.package("web", 'nodes = ["n1", "n2"]')
    started(daemons)
    daemons.settles(web="n1")
    assert "not in its list of nodes" in daemons.btw("move", "web", "n3", code=1)
    assert "runs there" in daemons.btw("move", "web", "n1", code=1)
    assert "there is no node `n9`" in daemons.btw("start", "web", "--on", "n9", code=1)
    daemons.btw("disable", "web", "--on", "n2")
    assert "switched off" in daemons.btw("start", "web", "--on", "n2", code=1)
    assert "web halts on n1" in daemons.btw("stop", "web", "--preview")
    daemons.settles(web="n1")
    report = daemons.directory / "report.tar.gz"
    said = daemons.btw("report", "-o", str(report))
    assert report.stat().st_mode & 0o777 == 0o600 and "cluster.json" in said and "store.txt" in said
