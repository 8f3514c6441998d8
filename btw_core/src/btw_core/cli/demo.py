"""`btw demo`: watch a package fail over between two nodes on this computer. Leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from ..exits import DONE, FAILED, INTERRUPTED

PACKAGE = "hello"
#: Short times, so that the worst case can be watched: see `btw check`.
TIMES = {"pace": 0.5, "timeout": 2.0, "start_timeout": 5.0, "stop_timeout": 2.0}
#: Seconds that a step may take before the demo gives up.
LIMIT = 20.0
#: Seconds between two requests of the client, and for one of them.
ASK, ANSWER = 0.02, 0.5

_SERVER = """\
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
_COLOURS = ("green", "cyan")


#: Set by Ctrl-C and seen by whatever waits: so no process is started and not remembered, and no clean-up cut short.
_interrupted = threading.Event()


class Failed(Exception):
    """A step did not come to pass in time."""


class Interrupted(Exception):
    """By a signal."""


@click.command
def command() -> None:
    """Two nodes run one package, a small web server. One node is killed, then the other one is halted, while a client
    measures how long nobody answers. Takes about 20 seconds, needs btw-exec, and leaves nothing behind."""
    from ..plugins import Plugins

    Plugins().resource_type("service")  # else the error names the pip line
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _interrupted.set())
    code = DONE
    with contextlib.ExitStack() as stack:
        demo = Demo(stack)
        try:
            demo.play()
        except Failed as error:
            click.echo(f"btw: demo: {error}", err=True)
            code = FAILED
        except Interrupted:
            click.echo("\ninterrupted; cleaning up", err=True)
            code = INTERRUPTED
    sys.exit(code)


class Demo:
    """`stack` undoes everything."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        from ..store_guard import default_runtime

        self.nodes = ["n1", "n2"]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.guards = default_runtime()
        self.guards_are_new = not self.guards.exists()
        self.directory = Path(tempfile.mkdtemp(prefix="btw-demo-"))
        stack.callback(self._remove)
        self.port = _free_port()
        self._write()
        self.stream = Stream(self.directory / "state", self.nodes)
        stack.callback(self.stream.stop)
        self.client = Client(self.port)
        stack.callback(self.client.stop)
        stack.callback(self._kill_all)

    def play(self) -> None:
        n1, n2 = self.nodes
        click.echo(f"Two nodes, n1 and n2; one package, {PACKAGE}: a web server at http://127.0.0.1:{self.port}")
        _step(1, "Both nodes run the package; one of them gets the lock and starts it.")
        self.run(n1)
        self.stream.wait("n1 runs it", n1, "running")
        self.run(n2)
        _until(lambda: self._stands_by(n2), "n2 is no stand-by")
        self.client.wait(n1)

        _step(2, "Everything of n1 is killed, without any chance to tell anybody.")
        self.client.forget()
        self.kill(n1)
        self.stream.wait("n2 takes over", n2, "running")
        self.client.wait(n2)
        killed = self.client.outage()
        self._judge(killed)

        _step(3, "n1 comes back as stand-by; then n2 is halted, as for maintenance.")
        self.run(n1)
        _until(lambda: self._stands_by(n1), "n1 is no stand-by")
        _say("n1 is ready.")
        self.client.forget()
        self.processes[n2].terminate()
        self.stream.wait("n1 takes over", n1, "running")
        self.client.wait(n1)
        halted = self.client.outage()
        _say(f"Nobody answered for {halted:.2f} s.")

        _step(4, "The end: n1 is halted too.")
        self.processes[n1].terminate()
        for node in self.nodes:
            self._ended(node)
        click.echo()
        _say(f"Take-over after a kill {killed:.2f} s, after a planned stop {halted:.2f} s, as the client saw it.")

    def run(self, node: str) -> None:
        """A `btw run`; Ctrl-C at the terminal is for the demo alone."""
        command = [sys.executable, "-P", "-m", "btw_core.cli", "run", PACKAGE, "--node", node]
        with (self.directory / f"{node}.log").open("ab") as log:
            self.processes[node] = subprocess.Popen(
                [*command, "--dir", str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, node: str) -> None:
        """Keeper, manager and all that they have started, themselves or through others."""
        process = self.processes.pop(node)
        count = len({pid for _, pids in self._started(node) for pid in pids} | {pid for pid, _ in self._run_of(node)})
        self._kill_run(node)
        self._kill_started(node)
        process.wait(LIMIT)
        _say(f"SIGKILL to {count} processes.")

    def _stands_by(self, node: str) -> bool:
        """It has seen who holds the lock, and has nothing to clean up."""
        from ..places import places
        from .common import managers

        for _, answer in managers(places(str(self.directory)), node)[0]:
            (package,) = answer["packages"]
            return package["state"] == "stand-by" and "held by" in package["lock"]
        return False

    def _judge(self, outage: float) -> None:
        from ..timing import Timing

        timing = Timing(**TIMES)
        bound = timing.worst_failover()
        _say(
            f"Nobody answered for {outage:.2f} s. The bound that btw check prints is {bound:.2f} s until the start "
            f"(timeout {timing.timeout:g} s + stop_timeout {timing.stop_timeout:g} s + clocks and looking), "
            "then comes the start itself."
        )

    def _ended(self, node: str) -> None:
        process = self.processes[node]
        _until(lambda: process.poll() is not None, f"{node} has not ended")
        if process.returncode:
            log = (self.directory / f"{node}.log").read_text(errors="replace")
            raise Failed(f"{node} ended with exit code {process.returncode}:\n{log[-2000:]}")

    def _write(self) -> None:
        server = self.directory / "server.py"
        server.write_text(_SERVER.replace("PORT", str(self.port)))
        times = "".join(f"{key} = {value}\n" for key, value in TIMES.items())
        words = ", ".join(f"'{word}'" for word in (sys.executable, "-P", str(server)))
        (self.directory / "packages").mkdir()
        text = f"[package]\n{times}\n[[resource]]\ntype = 'service'\ncommand = [{words}]\n"
        (self.directory / "packages" / f"{PACKAGE}.toml").write_text(text)

    # ---- leaving nothing behind
    def _started(self, node: str) -> Iterator[tuple[Callable[[], None], list[int]]]:
        """What kills them, and pids: zygote, observer, operations, services."""
        from ..containment import OBSERVER, ZYGOTE, containment, find_cgroup_root

        home = self._home(node)
        here = containment(home, find_cgroup_root(home) or "")
        for package in (ZYGOTE, OBSERVER, PACKAGE):
            for place, pids in here.members(package).items():
                yield partial(here.kill, place), pids

    def _home(self, node: str) -> str:
        from ..containment import home_of

        return home_of(node, self.directory / "state" / node)

    def _kill_started(self, node: str) -> int:
        count = 0
        for kill, pids in self._started(node):
            kill()
            count += len(pids)
        return count

    def _run_of(self, node: str) -> Iterator[tuple[int, int]]:
        """Pid and start of keeper and manager and of what they have forked: it writes to the journal, or is about to
        become another manager. All have the demo's directory and the node in their command line."""
        from ..pulse import start_of

        for each in Path("/proc").iterdir():
            if each.name.isdigit() and int(each.name) != os.getpid():
                with contextlib.suppress(OSError):  # it has ended
                    words = (each / "cmdline").read_bytes().split(b"\0")
                    if all(word.encode() in words for word in (node, str(self.directory))):
                        yield int(each.name), start_of(int(each.name))

    def _kill_run(self, node: str) -> None:
        """Until none is left: one that was just being forked is seen with the next look."""
        from ..cutoff import kill

        end = time.monotonic() + LIMIT
        while (found := list(self._run_of(node))) and time.monotonic() < end:
            for pid, start in found:
                kill(pid, start)
            time.sleep(0.02)

    def _kill_all(self) -> None:
        end = time.monotonic() + LIMIT
        for node in self.nodes:
            self._kill_run(node)
        for process in self.processes.values():
            process.wait(LIMIT)
        while sum(map(self._kill_started, self.nodes)) and time.monotonic() < end:
            time.sleep(0.02)

    def _remove(self) -> None:
        from ..containment import find_cgroup_root
        from ..store_guard import Guard

        guard = Guard(self.guards, (self.directory / "state" / "local.db").resolve()).file
        for node in self.nodes:
            root = find_cgroup_root(self._home(node))
            for directory, _, _ in os.walk(root, topdown=False) if root else ():
                with contextlib.suppress(OSError):  # a process in D state: its cgroup cannot be removed
                    Path(directory).rmdir()
        guard.unlink(missing_ok=True)
        if self.guards_are_new:
            with contextlib.suppress(OSError):  # in use by now
                self.guards.rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)


class Stream:
    """Shows both journals as one, from a thread."""

    def __init__(self, state: Path, nodes: list[str]) -> None:
        from .events import Tail

        self._tail, self._nodes = Tail(state), nodes
        self._events: list[dict[str, Any]] = []
        self._next = 0  # what `wait` has not looked at
        self._stopped = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def wait(self, what: str, node: str, state: str) -> None:
        """For the next transition of the node to that state. Raises Failed."""

        def came() -> bool:
            while self._next < len(self._events):
                each = self._events[self._next]
                self._next += 1
                if (each["node"], each["event"], each.get("state")) == (node, "transition", state):
                    return True
            return False

        _until(came, f"{what}: it did not happen")

    def stop(self) -> None:
        self._stopped = True
        self._thread.join(LIMIT)

    def _work(self) -> None:
        from ..journal import words

        while True:
            last = self._stopped
            for event in self._tail.read():
                node = str(event["node"])
                name = click.style(node, fg=_COLOURS[self._nodes.index(node)], bold=True)
                text = words({key: value for key, value in event.items() if key != "node"})
                click.echo(f"   {event['at'][11:23]} {name} {text}")
                self._events.append(event)
            if last:
                return
            time.sleep(0.03)


class Client:
    """Asks again and again, from a thread, and knows when who answered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._answers: list[tuple[float, str]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def forget(self) -> None:
        """What was before does not count for `outage`."""
        with self._lock:
            self._answers = self._answers[-1:]

    def wait(self, node: str) -> None:
        """Until the node answers. Raises Failed."""
        _until(lambda: self._last()[1] == node, f"no answer from {node}")
        _say(f"The client gets answers from {node}.")

    def outage(self) -> float:
        """Seconds of the longest time without an answer."""
        with self._lock:
            times = [when for when, _ in self._answers]
        return max((b - a for a, b in pairwise(times)), default=0.0)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(LIMIT)

    def _last(self) -> tuple[float, str]:
        with self._lock:
            return self._answers[-1] if self._answers else (0.0, "")

    def _work(self) -> None:
        while not self._stopped.wait(ASK):
            with contextlib.suppress(OSError):
                node = self._ask()
                with self._lock:
                    self._answers.append((time.monotonic(), node))

    def _ask(self) -> str:
        """Which node answers. Raises OSError."""
        with socket.create_connection(("127.0.0.1", self._port), ANSWER) as channel:
            channel.settimeout(ANSWER)
            channel.sendall(b"GET / HTTP/1.0\r\n\r\n")
            data = b"".join(iter(lambda: channel.recv(4096), b""))
        head, _, body = data.partition(b"\r\n\r\n")
        if b" 200 " not in head or not body:
            raise OSError("no whole answer")
        return body.decode()


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        if _interrupted.is_set():
            raise Interrupted
        if time.monotonic() >= end:
            raise Failed(f"{what} within {LIMIT:g} s")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _step(number: int, text: str) -> None:
    time.sleep(0.2)  # what belongs to the former step has been shown by then
    click.echo()
    click.secho(f"{number}. {text}", bold=True)


def _say(text: str) -> None:
    click.secho(f"   {text}", bold=True)
