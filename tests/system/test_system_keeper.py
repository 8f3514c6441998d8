"""Whatever of btw is killed or frozen: a client of the package does not notice, and no other node starts it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from btw_core.clock import boottime
from btw_core.command import proc_stat
from btw_core.cutoff import kill
from btw_core.pulse import start_of
from system.conftest import LIMIT, Cluster

#: How often the manager is killed in all, every night more often; and how often in one test.
KILLS, ROUND = int(os.environ.get("BTW_KILLS", "100")), 20

SERVER = """\
import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["BTW_NODE"].encode())
    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""


class Client:
    """Asks again and again, from a thread: who answered when, and what failed."""

    def __init__(self, port: int) -> None:
        self.answers: list[tuple[float, str]] = []
        self.failures: list[str] = []
        self._port, self._stop = port, threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(LIMIT)

    def _work(self) -> None:
        while not self._stop.wait(0.02):
            try:
                with socket.create_connection(("127.0.0.1", self._port), 30) as channel:
                    channel.settimeout(30)  # a busy computer is slow; nobody there is an error at once
                    channel.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    data = b"".join(iter(lambda: channel.recv(4096), b""))
                assert b" 200 " in data, data
                self.answers.append((time.monotonic(), data.rpartition(b"\r\n\r\n")[2].decode()))
            except (OSError, AssertionError) as error:
                self.failures.append(f"{type(error).__name__} {error}")


@contextlib.contextmanager
def served(cluster: Cluster, timeout: float = 20.0) -> Iterator[Client]:
    """n1 runs a web server as package web, n2 stands by; a client asks."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = cluster.data / "server.py"
    server.write_text(SERVER.replace("PORT", str(port)))
    words = ", ".join(f"'{word}'" for word in (sys.executable, "-P", str(server)))
    times = f"pace = 0.5\ntimeout = {timeout}\nstop_timeout = 5\n"
    file = cluster.directory / "packages" / "web.toml"
    file.write_text(f"[package]\n{times}\n[[resource]]\ntype = 'service'\ncommand = [{words}]\n")
    cluster.run("n1", "web")
    cluster.wait("n1", "running")
    cluster.run("n2", "web")
    cluster.wait("n2", "", event="began")
    with contextlib.suppress(OSError):
        cluster.until(lambda: answers(port), "the server answers")
    client = Client(port)
    try:
        yield client
    finally:
        client.stop()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def undisturbed(cluster: Cluster, client: Client) -> None:
    """No failed request, one server process all the time, no transition of n2, no start or stop at n1."""
    before = len(client.answers)
    cluster.until(lambda: len(client.answers) > before + 5, "the client gets answers")
    client.stop()
    assert client.failures == []
    assert {node for _, node in client.answers} == {"n1"}
    states = [(e["node"], e.get("state")) for e in cluster.read() if e["event"] == "transition"]
    assert not [node for node, _ in states if node != "n1"]
    assert [state for _, state in states].count("starting") == 1
    assert not {"halting", "failing", "stuck", "healing"} & {str(state) for _, state in states}


def adopted(cluster: Cluster) -> int:
    """How many managers of n1 went on with what was up."""
    return sum("adopted" in e.get("cause", "") for e in cluster.read() if e["node"] == "n1")


def running(cluster: Cluster) -> bool:
    """The manager of n1 has seen the package up."""
    half, _ = cluster.halves("n1")
    return half.ready and half.said == "web running" and start_of(half.pid) == half.start


def replaced(cluster: Cluster, pid: int) -> bool:
    return cluster.halves("n1")[0].pid != pid


@pytest.mark.timeout(60 + 30 * ROUND)
@pytest.mark.parametrize("seed", range(KILLS // ROUND))
def test_a_manager_killed_again_and_again(cluster: Cluster, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL at random instants of its life, while it loads, adopts or runs: the next one goes on, with no request
    lost, nothing started twice, and nothing started elsewhere."""
    rng, hasty = random.Random(seed), 0
    with served(cluster, timeout=60) as client:
        for _ in range(ROUND):
            half, _ = cluster.halves("n1")
            # from now on, or from when the next one has begun
            time.sleep(rng.random() * rng.choice((0.1, 1.0, 2.0)))
            now, _ = cluster.halves("n1")
            kill(now.pid, now.start)
            cluster.until(partial(replaced, cluster, now.pid), "the next manager has begun")
            # not more than three in a row: whoever dies while loading is begun again ever later, and T would run out
            hasty = hasty + 1 if rng.random() < 0.3 and hasty < 3 else 0
            if not hasty:
                cluster.until(lambda: running(cluster), "running")
            assert half.home == now.home
        cluster.until(lambda: running(cluster), "running")
        undisturbed(cluster, client)
        with capsys.disabled():
            gaps = [b - a for (a, _), (b, _) in pairwise(client.answers)]
            print(f"\n    seed {seed}: {ROUND} kills, {adopted(cluster)} adoptions, {len(client.answers)} answers, "
                  f"longest gap {max(gaps):.3f} s")


def test_a_frozen_manager_is_replaced(cluster: Cluster, strike: int) -> None:
    """SIGSTOP: it is killed when it has not beaten for `stall`, and the next one adopts."""
    with served(cluster) as client:
        half, _ = cluster.halves("n1")
        os.kill(half.pid, signal.SIGSTOP)
        cluster.wait("n1", "", event="manager_killed")
        cluster.until(lambda: adopted(cluster) == 1 and running(cluster), "adopted")
        undisturbed(cluster, client)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_keeper_that_is_lost_is_replaced(cluster: Cluster, strike: int, number: signal.Signals) -> None:
    """The manager starts another one, which attaches: same manager, and everything goes on as before."""
    with served(cluster) as client:
        half, keeper = cluster.halves("n1")
        os.kill(keeper.pid, number)
        cluster.wait("n1", "", event="keeper_attached")
        cluster.wait("n1", "", event="keeper_back")
        now, another = cluster.halves("n1")
        assert now.pid == half.pid and another.pid != keeper.pid and start_of(keeper.pid) != keeper.start
        cluster.kill_manager("n1")  # and that one does its work
        cluster.until(lambda: adopted(cluster) == 1 and running(cluster), "adopted")
        undisturbed(cluster, client)
        assert cluster.btw("stop", "web", "--node", "n1").returncode == 0
        cluster.until(lambda: start_of(another.pid) != another.start, "the keeper ends with its manager")


def test_keeper_and_manager_killed_at_once(cluster: Cluster, strike: int) -> None:
    """Nobody is left: the other node has it after L, when everything of the first has been ended."""
    with served(cluster, timeout=3) as client:
        cluster.kill_both("n1")
        cluster.wait("n2", "running")
        cluster.until(lambda: client.answers[-1][1] == "n2", "n2 answers")
        nodes = [node for _, node in client.answers]
        assert nodes == sorted(nodes), "n1 never answered after n2"


def test_a_run_begun_anew_in_time_goes_on(cluster: Cluster, strike: int) -> None:
    """Keeper and manager killed, and `btw run` called again before the lease has run out: adopted."""
    with served(cluster, timeout=60) as client:
        _, keeper = cluster.kill_both("n1")
        cluster.until(lambda: start_of(keeper.pid) != keeper.start, "the keeper is gone")
        cluster.run("n1", "web")
        cluster.until(lambda: adopted(cluster) == 1 and running(cluster), "adopted")
        undisturbed(cluster, client)


@pytest.mark.parametrize("what", ["zygote", "observer"])
def test_helpers_of_the_manager_killed(cluster: Cluster, strike: int, what: str) -> None:
    """They are started again; the package and its manager do not notice."""
    with served(cluster) as client:
        half, _ = cluster.halves("n1")
        zygote = next(pid for pid in children(half.pid) if b"zygote" in cmdline(pid))
        victim = zygote if what == "zygote" else next(iter(children(zygote)))
        os.kill(victim, signal.SIGKILL)
        cluster.wait("n1", "", event="executor_lost")
        cluster.until(lambda: running(cluster), "running")
        assert cluster.halves("n1")[0].pid == half.pid
        undisturbed(cluster, client)


def test_an_operation_killed(cluster: Cluster, strike: int) -> None:
    """A start that somebody kills has failed: it is undone, and begun again."""
    cluster.script("web", start="test -e $d/second || { touch $d/second $d/hangs; sleep 1000; }", timeout=20)
    cluster.run("n1", "web")
    cluster.until((cluster.data / "web" / "hangs").exists, "the start hangs")
    half, _ = cluster.halves("n1")
    zygote = next(pid for pid in children(half.pid) if b"zygote" in cmdline(pid))
    begun = [pid for pid in children(zygote) if children(pid)]
    assert len(begun) == 1, "the operation, which has begun the script"
    os.kill(begun[0], signal.SIGKILL)
    cluster.wait("n1", "failing")
    cluster.wait("n1", "running")
    assert cluster.log("web")[:2] == ["begin n1", "stop n1"] and not [x for x in cluster.log("web") if "overlap" in x]
    assert cluster.halves("n1")[0].pid == half.pid


def test_an_upgrade_in_place(cluster: Cluster) -> None:
    """USR1 to the keeper: another manager, which adopts; no start, no stop, no request lost, the same keeper."""
    with served(cluster) as client:
        half, keeper = cluster.halves("n1")
        os.kill(keeper.pid, signal.SIGUSR1)
        cluster.until(lambda: adopted(cluster) == 1 and running(cluster), "adopted")
        now, same = cluster.halves("n1")
        assert now.pid != half.pid and (same.pid, same.start) == (keeper.pid, keeper.start)
        undisturbed(cluster, client)


def test_a_start_is_not_cut_short_by_an_upgrade(cluster: Cluster) -> None:
    """The manager leaves when nothing is under way."""
    cluster.script("web", start=f"while test -e {cluster.data}/hold; do sleep 0.1; done", timeout=20)
    hold = cluster.data / "hold"
    hold.touch()
    cluster.run("n1", "web")
    cluster.until(lambda: cluster.log("web") == ["begin n1"], "the start has begun")
    half, keeper = cluster.halves("n1")
    os.kill(keeper.pid, signal.SIGUSR1)
    cluster.wait("n1", "", event="upgrade")
    hold.unlink()
    cluster.until(lambda: adopted(cluster) == 1 and running(cluster), "adopted")
    assert cluster.log("web") == ["begin n1", "end n1"] and cluster.halves("n1")[0].pid != half.pid


def test_status_says_how_late_the_manager_was(cluster: Cluster) -> None:
    """A manager that was kept waiting says so, in the journal once and in status; also that it has no keeper."""
    cluster.script("web", timeout=20)
    cluster.run("n1", "web")
    cluster.wait("n1", "running")
    half, keeper = cluster.halves("n1")
    os.kill(half.pid, signal.SIGSTOP)
    time.sleep(1)
    os.kill(half.pid, signal.SIGCONT)
    late = cluster.wait("n1", "", event="starved")
    assert "kept waiting for" in late["cause"]
    assert "kept waiting for up to" in cluster.btw("status", "--node", "n1").stdout
    os.kill(keeper.pid, signal.SIGSTOP)
    cluster.wait("n1", "", event="keeper_lost")
    cluster.wait("n1", "", event="keeper_back")
    assert sum(e["event"] == "starved" for e in cluster.read()) == 1
    assert cluster.log("web") == ["begin n1", "end n1"]


def test_what_is_up_at_h_is_killed_without_a_manager(cluster: Cluster) -> None:
    """The store is gone and the manager cannot live: at H the keeper ends what is up, long before anybody waits."""
    cluster.script("web", start=f"setsid sleep 1000 > /dev/null 2>&1 & echo $! > {cluster.data}/pid")
    cluster.run("n1", "web")
    cluster.wait("n1", "running")
    half, _ = cluster.halves("n1")
    service = int((cluster.data / "pid").read_text())
    assert proc_stat(service) is not None
    (cluster.directory / "packages" / "web").unlink()  # no other manager can begin
    kill(half.pid, half.start)
    cluster.wait("n1", "", event="self_fence")
    cluster.until(lambda: start_of(service) == 0, "the service is killed")
    hard = max(limit for _, limit in half.leases.values())
    assert boottime() < hard + LIMIT
    assert cluster.log("web") == ["begin n1", "end n1"]


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
