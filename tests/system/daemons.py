"""Real daemons on several nodes of this computer, on the embedded store or on a real etcd of one member."""

from __future__ import annotations

import contextlib
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


def started(daemons: Daemons, *nodes: str) -> None:
    """The cluster exists, and three daemons serve it, or those of `nodes`."""
    toml = daemons.directory / "btw.toml"
    toml.write_text("forming = 20\n")
    if daemons.lock:
        daemons.until(lambda: "created" in _init(daemons))
    daemons.begin(*(nodes or NODES))


def _init(daemons: Daemons) -> str:
    try:
        return daemons.btw("init")
    except AssertionError as error:  # etcd has no leader yet
        raise ValueError(str(error)) from error
