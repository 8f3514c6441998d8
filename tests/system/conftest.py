"""Real `btw run` processes on several nodes of this computer, and waiting for what their journals say."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from btw_core.cli.events import Tail
from btw_core.clock import boot_id
from btw_core.containment import OBSERVER, ZYGOTE, containment, find_cgroup_root, home_of
from btw_core.cutoff import kill
from btw_core.pulse import KeeperHalf, ManagerHalf, Pulse, start_of
from btw_core.store_guard import Guard, default_runtime

if TYPE_CHECKING:
    from .daemons import Daemons

ROOT = Path(__file__).resolve().parent.parent.parent
#: Seconds for anything that has to happen: generous, for these computers are busy.
LIMIT = 60.0
Event = dict[str, Any]

#: A package script of one resource. It logs what it is asked to do and judges itself: two starts at a time are noted.
SCRIPT = """\
#!/bin/sh
d={data}
alive() {{ test -e /proc/$1 && ! grep -q ') [ZX] ' /proc/$1/stat 2>/dev/null; }}
case "$1" in
echo)
    case "$2" in
    pace) echo 0.5;; timeout) echo {timeout};; start_timeout) echo {start_timeout};; stop_timeout) echo 3;;
    esac;;
start)
    for pid in $(cat $d/starts 2>/dev/null); do alive $pid && echo "overlap $BTW_NODE" >> $d/log; done
    echo $$ >> $d/starts
    echo "begin $BTW_NODE" >> $d/log
    {start}
    touch $d/up-$BTW_NODE
    echo "end $BTW_NODE" >> $d/log;;
stop)
    echo "stop $BTW_NODE" >> $d/log
    {stop}
    rm -f $d/up-$BTW_NODE;;
status)
    test -e $d/up-$BTW_NODE || exit 1
    exit $(cat $d/status-$BTW_NODE 2>/dev/null || echo 0);;
esac
"""


class Cluster:
    """Everything below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.events: list[Event] = []
        self._processes: list[subprocess.Popen[str]] = []
        self._tail = Tail(directory / "state")
        (directory / "packages").mkdir(parents=True)
        self.data.mkdir()

    # ---- what a person does
    def script(
        self, name: str, *, start: str = ":", stop: str = ":", start_timeout: float = 10, timeout: float = 2
    ) -> None:
        """A package script; `start` and `stop` are lines of shell in the midst of those."""
        data = self.data / name
        data.mkdir()
        file = self.directory / "packages" / name
        file.write_text(SCRIPT.format(data=data, start=start, stop=stop, start_timeout=start_timeout, timeout=timeout))
        file.chmod(0o755)

    def log(self, package: str) -> list[str]:
        """What the script was asked to do."""
        file = self.data / package / "log"
        return file.read_text().splitlines() if file.exists() else []

    def says(self, package: str, node: str, code: int) -> None:
        """From now on `status` exits with this code on the node while it is up."""
        (self.data / package / f"status-{node}").write_text(str(code))

    def run(self, node: str, *packages: str) -> subprocess.Popen[str]:
        """`btw run` in a session of its own, which becomes a keeper; returns at once."""
        process = subprocess.Popen(
            self._command("run", *packages, "--node", node),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def btw(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Any other command, to its end."""
        return subprocess.run(self._command(*words), capture_output=True, text=True, timeout=LIMIT, check=False)

    def end(self, process: subprocess.Popen[str]) -> str:
        """TERM, and everything it has printed. The exit code must be 0."""
        process.terminate()
        output, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, output
        return output

    def halves(self, node: str, slot: str = "web") -> tuple[ManagerHalf, KeeperHalf]:
        """Who looks after it, and who is looked after. Waits until both have said so."""
        found: list[tuple[ManagerHalf, KeeperHalf]] = []

        def look() -> bool:
            with contextlib.suppress(OSError, ValueError):
                pulse = Pulse.open(self.directory / "run" / node / f"{slot}.pulse", boot_id())
                manager, keeper = pulse.manager(), pulse.keeper()
                pulse.close()
                if manager is not None and keeper is not None:
                    found.append((manager, keeper))
            return bool(found)

        self.until(look, f"pulse of {slot} on {node}")
        return found[0]

    def kill_manager(self, node: str, slot: str = "web") -> None:
        """SIGKILL; its keeper starts another one."""
        manager, _ = self.halves(node, slot)
        kill(manager.pid, manager.start)

    def crash(self, process: subprocess.Popen[str], node: str, slot: str = "web") -> None:
        """`kill_both`, and until both have ended."""
        manager, _ = self.kill_both(node, slot)
        process.wait(LIMIT)
        self.until(lambda: start_of(manager.pid) != manager.start, "the manager is gone")

    def kill_both(self, node: str, slot: str = "web") -> tuple[ManagerHalf, KeeperHalf]:
        """SIGKILL to keeper and manager of this `btw run` at once: nobody is left to start another one."""
        manager, keeper = self.halves(node, slot)
        for pid, start in ((keeper.pid, keeper.start), (manager.pid, manager.start)):
            if start_of(pid) == start:
                os.kill(pid, signal.SIGSTOP)
        kill(manager.pid, manager.start)
        kill(keeper.pid, keeper.start)
        return manager, keeper

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "btw_core.cli", *words, "--dir", str(self.directory)]

    # ---- what happens
    def wait(self, node: str, state: str, package: str = "", *, after: int = 0, event: str = "transition") -> Event:
        """The first such transition of the node (into `state`) that is not among the first `after` events."""
        def fits(each: Event) -> bool:
            if each["node"] != node or each["event"] != event or package not in ("", each.get("package")):
                return False
            return event != "transition" or (each.get("state") == state and each.get("before") != state)

        found: list[Event] = []

        def look() -> bool:
            self.read()
            found[:] = [each for each in self.events[after:] if fits(each)]
            return bool(found)

        self.until(look, f"{node} {package} {state or event}")
        return found[0]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > end:
                lines = "\n".join(str(each) for each in self.read())
                pytest.fail(f"did not happen within {LIMIT:g} s: {what}\n{lines}")
            time.sleep(0.05)

    def read(self) -> list[Event]:
        """All events so far. New ones are added at the end: positions stay."""
        self.events += self._tail.read()
        return self.events

    # ---- the end
    def kill_all(self) -> None:
        """Whatever is left of any node, and its cgroups."""
        end = time.monotonic() + LIMIT
        while self._kill_run() and time.monotonic() < end:
            time.sleep(0.05)
        for process in self._processes:
            process.communicate(timeout=LIMIT)
        while sum(map(self._kill_started, self._homes())) and time.monotonic() < end:
            time.sleep(0.05)
        for home in self._homes():
            root = find_cgroup_root(home)
            for directory, _, _ in os.walk(root, topdown=False) if root else ():
                with contextlib.suppress(OSError):  # still dying
                    Path(directory).rmdir()
        Guard(default_runtime(), (self.directory / "state" / "local.db").resolve()).file.unlink(missing_ok=True)

    def _kill_run(self) -> int:
        """Every keeper and manager of these nodes; they start each other, so until there is none."""
        mark, count = str(self.directory).encode() + b"\0", 0
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid, line = int(entry.name), (entry / "cmdline").read_bytes() + b"\0"
                ours = mark in line and (b"btw_core.cli\0run\0" in line or b"btw_core.cli\0daemon\0" in line)
                if ours and (start := start_of(pid)):
                    kill(pid, start)
                    count += 1
        return count

    def _homes(self) -> list[str]:
        return [home_of(state.name, state) for state in (self.directory / "state").glob("*/")]

    def _kill_started(self, home: str) -> int:
        here = containment(home, find_cgroup_root(home) or "")
        count = 0
        for package in (ZYGOTE, OBSERVER, *(file.stem for file in (self.directory / "packages").iterdir())):
            for place, pids in here.members(package).items():
                count += len(pids)
                here.kill(place)
        return count


def seconds_between(a: Event, b: Event) -> float:
    return (datetime.fromisoformat(b["at"]) - datetime.fromisoformat(a["at"])).total_seconds()


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C."""
    process.send_signal(signal.SIGINT)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "btw")
    try:
        yield cluster
    finally:
        cluster.kill_all()


@pytest.fixture
def hang(cluster: Cluster) -> Iterator[Callable[[Path], Any]]:
    """Makes a directory, and mounts there what hangs (a HangingMount of btw_core/tests/fuse_hang.py, which is of
    another distribution's tests). Released before the processes of `cluster` are to end."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    spec = importlib.util.spec_from_file_location("fuse_hang", ROOT / "btw_core/tests/fuse_hang.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with contextlib.ExitStack() as stack:

        def mount(directory: Path) -> Any:
            directory.mkdir(parents=True)
            try:
                return stack.enter_context(module.hanging_mount(directory))
            except OSError as error:
                pytest.skip(f"no FUSE here: {error}")

        yield mount


@pytest.fixture(params=["local", "etcd"])
def daemons(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemons]:
    """Nothing runs yet; everything has ended afterwards."""
    from .daemons import Daemons, ended, etcd

    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(etcd(tmp_path)) if request.param == "etcd" else None
        yield stack.enter_context(ended(Daemons(cluster, lock)))
