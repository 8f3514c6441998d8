"""Whole nodes: `btw run` in two namespaces on one lock; what moves or heals them is in tests/netns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_vip_lan import cached, ping
from vip_lan import GENEROUS, Computer, lan
from vip_steps import V4, V6, announce

from btw_core.clock import boot_id
from btw_core.pulse import Pulse

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
BOTH = {V4, V6}
PACKAGE = """
[package]
pace = 0.5
timeout = 4
start_timeout = 20
stop_timeout = 20

[[resource]]
type = "vip"
name = "four"
address = "10.77.0.100/24"
{more}

[[resource]]
type = "vip"
name = "six"
address = "fd77::100/64"
{more}
"""


class Node:
    """`btw run web` on one computer."""

    def __init__(self, computer: Computer, name: str, directory: Path) -> None:
        self.computer, self.name, self.directory = computer, name, directory
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        with (self.directory / f"{self.name}.out").open("ab") as output:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.computer.name, *self._btw("run")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Halt the package here; the manager ends."""
        subprocess.run(self._btw("stop"), check=True, capture_output=True, timeout=GENEROUS)
        self.end()

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(GENEROUS)

    def kill_manager(self) -> None:
        """Its keeper starts another."""
        pulse = Pulse.open(self.directory / "run" / self.name / "web.pulse", boot_id())
        manager = pulse.manager()
        pulse.close()
        assert manager is not None
        os.kill(manager.pid, signal.SIGKILL)

    def has(self) -> set[str]:
        """Which of the addresses it has."""
        shown = self.computer.addresses()
        return {text for text in BOTH if f" {text} " in shown}

    def journal(self) -> list[dict[str, Any]]:
        file = self.directory / "state" / self.name / "journal.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def said(self, text: str) -> bool:
        return any(text in line.get("cause", "") for line in self.journal())

    def state(self) -> str:
        return next((str(line["state"]) for line in reversed(self.journal()) if line.get("state")), "")

    def _btw(self, verb: str) -> list[str]:
        program = [str(Path(sys.executable).with_name("btw"))]
        return [*program, verb, "web", "--dir", str(self.directory), "--node", self.name]


class Pair:
    def __init__(self, net: dict[str, Computer], directory: Path) -> None:
        self.net = net
        self.a, self.b = (Node(net[name], name, directory) for name in "ab")
        self.client = net["client"]

    def both(self, node: Node) -> Callable[[], bool]:
        return lambda: node.has() == BOTH


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    """`make(more)` begins: node a has the addresses, node b stands by."""
    pairs: list[Pair] = []
    with lan("a", "b", "client") as net:
        for number, name in enumerate(("a", "b", "client"), 1):
            net[name].ip("address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            net[name].ip("address", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")

        def begin(more: str = "") -> Pair:
            (tmp_path / "packages").mkdir()
            (tmp_path / "btw.toml").write_text(f'cluster = "test"\nlock = "local:{tmp_path}/lock.db"\n')
            (tmp_path / "packages" / "web.toml").write_text(PACKAGE.format(more=more))
            pair = Pair(net, tmp_path)
            pairs.append(pair)
            pair.a.run()
            wait(pair.both(pair.a), "a has both", pair)
            wait(lambda: pair.a.state() == "running", "a runs", pair)
            pair.b.run()
            wait(lambda: pair.b.said("managing web"), "b stands by", pair)
            return pair

        try:
            yield begin
        finally:
            for pair in pairs:
                for node in (pair.a, pair.b):
                    if node.process is not None:
                        node.end(signal.SIGKILL)


def wait(condition: Callable[[], bool], what: str, pair: Pair) -> None:
    end = time.monotonic() + GENEROUS
    while not condition():
        if time.monotonic() > end:
            said = {
                node.name: [f"{x.get('state', '')} {x['cause']}" for x in node.journal()] for node in (pair.a, pair.b)
            }
            raise AssertionError(f"did not happen: {what}; {json.dumps(said, indent=1)}")
        time.sleep(0.01)


def longest(answers: list[float]) -> float:
    return max(later - earlier for earlier, later in pairwise(answers))


def test_carrier_loss_degraded(make: Callable[..., Pair]) -> None:
    """on_carrier_loss = degraded: it stays for a while, and is healthy when the cable is back."""
    pair = make('on_carrier_loss = "degraded"')
    pair.net["switch"].ip("link", "set", "to-a", "down")
    wait(lambda: pair.a.state() == "degraded", "degraded", pair)
    assert pair.a.has() == BOTH
    pair.net["switch"].ip("link", "set", "to-a", "up")
    wait(lambda: pair.a.state() == "running", "healthy again", pair)
    assert pair.b.has() == set()


def test_the_manager_is_killed(make: Callable[..., Pair]) -> None:
    """Another one of the node goes on where it was: no outage, and never two."""
    pair = make()
    pair.b.stop()
    pings = pair.client.start(ping, V4, 4.0)
    time.sleep(0.5)
    pair.a.kill_manager()
    wait(lambda: pair.a.said("already up"), "adopted", pair)
    print(f"manager killed: {1000 * longest(pings.result()):.0f} ms")
    assert pair.a.has() == BOTH
    assert sum(line.get("state") == "starting" for line in pair.a.journal()) == 1
    assert len(pair.net["a"].processes()) > 2  # its heralds among them
    pair.a.stop()
    assert pair.a.has() == set()
    assert pair.net["a"].processes() == []


def test_somebody_else_announces_it(make: Callable[..., Pair]) -> None:
    """It is journalled with the MAC address, and defended: clients come back."""
    pair = make()
    pair.client.call(ping, V4, 0.5)
    time.sleep(2.0)
    pair.net["b"].call(announce, V4)
    wait(lambda: pair.a.said(f"{pair.net['b'].mac} on eth0 claims it as well"), "journalled", pair)
    wait(lambda: cached(pair.client, V4) == pair.net["a"].mac, "defended", pair)
