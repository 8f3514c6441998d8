"""A keeper as a process, with a manager that does what a file says. For test_core_keeper.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from btw_core.clock import boot_id, boottime
from btw_core.cutoff import kill
from btw_core.pulse import KeeperHalf, ManagerHalf, Pulse, start_of

#: Seconds for whatever has to happen.
LIMIT = 60.0

#: Every 20 ms it reads its plan: {"leases": ..., "ready": bool, "exit": code or null}. Signals are noted; TERM ends it
#: with what "at_term" says, USR1 with 79.
MANAGER = """
import json, os, signal, sys, time
from pathlib import Path
from btw_core.clock import boot_id, boottime
from btw_core.pulse import ManagerHalf, Pulse, start_of
directory = Path(sys.argv[1])
pulse = Pulse.open(directory / "run" / "web.pulse", boot_id())
def note(file, text):
    with (directory / file).open("a") as out:
        out.write(f"{text}\\n")
asked = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: asked.append(number))
note("lives", f"{os.getpid()} {os.getppid()} {'NOTIFY_SOCKET' in os.environ}")
former = pulse.manager()
half = ManagerHalf(pid=os.getpid(), start=start_of(os.getpid()), leases=former.leases if former else {})
while True:
    plan = json.loads((directory / "plan").read_text())
    if "leases" in plan:
        half = half._replace(leases=plan["leases"])
    code = plan.get("exit")
    while asked:
        number = asked.pop(0)
        note("signals", signal.Signals(number).name)
        if number == signal.SIGUSR1:
            code = 79
        if number == signal.SIGTERM:
            code = plan.get("at_term", 0)
    half = half._replace(beat=boottime(), ready=plan.get("ready", True), said="web fine", ended=code,
                         home=plan.get("home", "none.such"), cgroup=plan.get("cgroup", ""))
    if code == 0 or "at_end" in plan:
        half = half._replace(leases=plan.get("at_end", {}))
    pulse.write(half)
    if code is not None:
        sys.exit(code)
    time.sleep(0.02)
"""


class Stage:
    """Everything of one keeper, below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "run" / "web.pulse"
        self.sysrq = directory / "sysrq"
        self.sysrq.touch()
        self.kmsg = directory / "kmsg"
        self.kmsg.touch()
        self.plan()

    def plan(self, **plan: Any) -> None:
        new = self.directory / "plan.new"
        new.write_text(json.dumps(plan))
        new.rename(self.directory / "plan")

    def command(self, *words: str) -> list[str]:
        command = [sys.executable, "-P", "-m", "btw_core.keeper", "--pulse", str(self.path), "--node", "n1"]
        command += ["--journal", str(self.directory / "journal.jsonl"), "--sysrq", str(self.sysrq)]
        command += ["--kmsg", str(self.kmsg), *words]
        return [*command, "--", sys.executable, "-P", "-c", MANAGER, str(self.directory)]

    def start(self, *words: str, notify: str = "") -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if key not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
        if notify:
            environment |= {"NOTIFY_SOCKET": notify, "WATCHDOG_USEC": "2000000"}
        return subprocess.Popen(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )

    # ---- what happens
    def lines(self, file: str) -> list[str]:
        path = self.directory / file
        return path.read_text().splitlines() if path.exists() else []

    def lives(self) -> list[int]:
        """Pids of the managers so far."""
        return [int(line.split()[0]) for line in self.lines("lives")]

    def said(self, event: str) -> list[str]:
        """Causes of the journal's lines of this kind."""
        found = [json.loads(line) for line in self.lines("journal.jsonl")]
        return [each.get("cause", "") for each in found if each["event"] == event]

    def halves(self) -> tuple[ManagerHalf | None, KeeperHalf | None]:
        with suppress(OSError, ValueError):
            pulse = Pulse.open(self.path, boot_id())
            try:
                return pulse.manager(), pulse.keeper()
            finally:
                pulse.close()
        return None, None

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"did not happen within {LIMIT:g} s: {what}; {self.lines('journal.jsonl')}")
            time.sleep(0.02)

    def until_up(self, lives: int = 1, **leases: tuple[float, float]) -> ManagerHalf:
        """Until that many managers have lived and the last one is ready, with these leases."""

        def look() -> bool:
            half, _ = self.halves()
            fit = half is not None and half.ready and half.ended is None and dict(half.leases) == leases
            return len(self.lives()) == lives and fit and half is not None and half.pid == self.lives()[-1]

        self.until(look, f"manager {lives} is ready with {leases}")
        half, _ = self.halves()
        assert half is not None
        return half

    def until_looked(self) -> None:
        """Until the keeper has seen what was there when this was called: it looks, then beats."""
        beats: set[float] = set()

        def look() -> bool:
            keeper = self.halves()[1]
            beats.add(keeper.beat if keeper else 0.0)
            return len(beats) > 2

        self.until(look, "the keeper looks")

    def kill_all(self) -> None:
        mark = str(self.directory).encode()
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            found = 0
            for entry in Path("/proc").iterdir():
                with suppress(OSError, ValueError):
                    pid = int(entry.name)
                    line = (entry / "cmdline").read_bytes()
                    if mark in line and b"btw_core" in line and pid != os.getpid() and (start := start_of(pid)):
                        kill(pid, start)
                        found += 1
            if not found:
                return
            time.sleep(0.02)


def soon(lost_in: float, hard_in: float) -> tuple[float, float]:
    now = boottime()
    return now + lost_in, now + hard_in


@contextmanager
def listening(path: Path) -> Iterator[Callable[[], list[str]]]:
    """A service manager's socket; call it for all that was said so far."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(path))
        channel.setblocking(False)
        heard: list[str] = []

        def read() -> list[str]:
            with suppress(BlockingIOError):
                while True:
                    heard.extend(channel.recv(65536).decode().splitlines())
            return heard

        yield read


def send(pid: int, number: int) -> None:
    os.kill(pid, signal.Signals(number))
