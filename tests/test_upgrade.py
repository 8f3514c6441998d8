"""A newer wheel is installed beneath a running package: the next manager is of that version and goes on with it.

Run by `nox -s wheel`, like tests/test_packaging.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from test_packaging import ROOT, Environment, until, wheel

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(600)]

NEWER = "0.1.999"
SERVER = """\
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""
PACKAGE = """
[package]
pace = 0.5
timeout = 30
stop_timeout = 5

[[resource]]
type = "service"
command = ["{python}", "-P", "{server}"]
"""


class Client:
    """Asks again and again, from a thread: which process answered, and what failed."""

    def __init__(self, port: int) -> None:
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._port, self._end = port, Event()
        self._thread = Thread(target=self._work, daemon=True)

    @contextmanager
    def asking(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._end.set()
            self._thread.join(60)

    def _work(self) -> None:
        while not self._end.wait(0.02):
            try:
                with socket.create_connection(("127.0.0.1", self._port), 30) as channel:
                    channel.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    self.answers.append(b"".join(iter(lambda: channel.recv(4096), b"")).rpartition(b"\r\n")[2].decode())
            except OSError as error:
                self.failures.append(str(error))


def events(environment: Environment) -> list[dict[str, Any]]:
    return [json.loads(line) for line in environment.btw("events", "--json").splitlines()]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def newer(directory: Path) -> Path:
    """The wheel of this core under a higher version."""
    source = directory / "btw_core"
    shutil.copytree(ROOT / "btw_core", source, ignore=shutil.ignore_patterns(".*_cache", "__pycache__"))
    for file in (source / "pyproject.toml", source / "src/btw_core/__init__.py"):
        text, count = re.subn(r'(?m)^((?:__)?version(?:__)? = )"[^"]+"', rf'\1"{NEWER}"', file.read_text())
        assert count == 1, file
        file.write_text(text)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=source, capture_output=True, timeout=120, check=True)
    return next(directory.glob(f"btw_core-{NEWER}-*.whl"))


@pytest.mark.parametrize("how", ["the keeper is told USR1", "the manager is killed"])
def test_a_newer_wheel_beneath_a_running_package(tmp_path_factory: pytest.TempPathFactory, how: str) -> None:
    """The journal shows the newer version and an adoption, no start and no stop; the client sees no error, and the very
    same process answers it."""
    directory = tmp_path_factory.mktemp("u")
    environment = Environment(directory)
    for name in ("btw_core", "btw_exec"):
        environment.install(wheel(name))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = environment.home / "server.py"
    server.write_text(SERVER.format(port=port))
    file = environment.btw_dir / "packages" / "web.toml"
    file.write_text(PACKAGE.format(python=sys.executable, server=server))
    client = Client(port)
    with environment.running("web") as keeper:
        until(lambda: answers(port), "the server answers")
        with client.asking():
            until(lambda: any(each.get("state") == "running" for each in events(environment)), "running")
            (began,) = [each for each in events(environment) if each["event"] == "began"]
            assert NEWER not in began["cause"]
            environment.install(newer(directory))
            assert environment.btw("status", "web")  # the newer command asks the older manager
            seen = len(events(environment))
            if how == "the manager is killed":
                os.kill(began["data"]["pid"], signal.SIGKILL)
            else:
                os.kill(keeper.pid, signal.SIGUSR1)
            until(lambda: "adopted" in str(events(environment)[seen:]), "another manager adopts")
            until(lambda: "running" in environment.btw("status", "web"), "running")
            count = len(client.answers)
            until(lambda: len(client.answers) > count + 5, "the client gets answers")
            new = events(environment)[seen:]
            assert [each["cause"] for each in new if each["event"] == "began" and f"btw {NEWER}" in each["cause"]]
            assert not {"starting", "halting", "failing", "stuck", "healing"} & {str(each.get("state")) for each in new}
        assert client.failures == []
        assert len(set(client.answers)) == 1, "one process all the time"
