"""Resource type `service`."""

from __future__ import annotations

import getpass
import os
import pwd
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from btw_core import Failed, Status
from btw_core.command import alive, proc_stat
from btw_core.resource import CheckContext, Process
from btw_core.testing import FakeContext
from btw_core.types import Verb
from btw_exec.service import Service
from btw_exec.session import end_session

CHECK = CheckContext(cluster="c", node="n", package="p", everything=())
GENEROUS = 20.0
SLEEP = ("sleep", "1000")


class State(dict[str, Any]):
    """What the core hands from one operation to the next; remembers every process that was ever in it."""

    def __init__(self) -> None:
        self.processes: list[Process] = []

    def update(self, *args: Any, **more: Any) -> None:
        super().update(*args, **more)
        self.remember(self["pid"])

    def remember(self, pid: int) -> None:
        stat = proc_stat(pid)
        assert stat is not None
        self.processes.append(Process(pid=pid, start_time=stat.start_time))


@pytest.fixture
def state() -> Iterator[State]:
    """An empty state; what was started with it is killed in the end, whatever happened."""
    kept = State()
    yield kept
    for process in kept.processes:
        if alive(process):
            os.kill(process.pid, signal.SIGKILL)


def start(service: Service, state: State) -> int:
    service.start(FakeContext(state=state))
    return int(state["pid"])


def status(service: Service, state: dict[str, Any]) -> Status:
    return service.status(FakeContext(verb=None, state=state))


def stop(service: Service, state: dict[str, Any], seconds: float = GENEROUS) -> FakeContext:
    ctx = FakeContext(Verb.STOP, state=state, seconds=seconds)
    service.stop(ctx)
    return ctx


def heal(service: Service, state: State) -> FakeContext:
    ctx = FakeContext(Verb.HEAL, state=state)
    service.heal(ctx)
    return ctx


def kill(service: Service, state: State) -> None:
    """Kill the service and wait until that is seen."""
    (descriptor,) = service.watch(FakeContext(verb=None, state=state))
    try:
        os.kill(state["pid"], signal.SIGKILL)
        wait_readable(descriptor)
    finally:
        os.close(descriptor)


def wait_readable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(GENEROUS * 1000), "nothing happened"


def wait_line(fifo: Path) -> str:
    """The line that a process writes into a named pipe."""
    descriptor = os.open(fifo, os.O_RDWR)
    try:
        wait_readable(descriptor)
        return os.read(descriptor, 4096).decode().strip()
    finally:
        os.close(descriptor)


def gone(pid: int) -> bool:
    stat = proc_stat(pid)
    return stat is None or stat.state in "ZX"


def test_life(state: State) -> None:
    """Up while its process lives; start and stop may be repeated and touch nothing then."""
    service = Service(command=SLEEP)
    assert service.check(CHECK) == []
    assert status(service, state) is Status.DOWN
    pid = start(service, state)
    assert status(service, state) is Status.UP
    assert start(service, state) == pid
    stop(service, state)
    assert gone(pid)
    assert status(service, state) is Status.DOWN
    assert state == {}
    stop(service, state)


def test_end_is_seen(state: State) -> None:
    """watch gives a descriptor that becomes readable when the process ends; then it is down, with the reason logged."""
    service = Service(command=SLEEP)
    assert service.watch(FakeContext(verb=None, state=state)) == []
    pid = start(service, state)
    kill(service, state)
    ctx = FakeContext(verb=None, state=state)
    assert service.status(ctx) is Status.DOWN
    assert ctx.lines == [f"pid {pid} has ended"]
    assert service.watch(ctx) == []
    stop(service, state)


def test_adopted(state: State) -> None:
    """Only the state is needed to know, watch and stop it: another process can."""
    service = Service(command=SLEEP)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            start(service, state)
            os.write(writer, msgspec.json.encode(state))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    state.update(msgspec.json.decode(os.read(reader, 4096)))
    os.close(reader)
    pid = state["pid"]
    assert status(service, state) is Status.UP
    (descriptor,) = service.watch(FakeContext(verb=None, state=state))
    stop(service, state)
    wait_readable(descriptor)
    os.close(descriptor)
    assert gone(pid)


@pytest.mark.parametrize("change", [{"start_time": 1}, {"boot": "another"}])
def test_pid_of_somebody_else(state: State, change: dict[str, Any]) -> None:
    """A process with the same number, but another start time or of another boot, is neither up nor stopped."""
    service = Service(command=SLEEP)
    pid = start(service, state)
    other = {**state, **change}
    assert status(service, other) is Status.DOWN
    assert service.watch(FakeContext(verb=None, state=other)) == []
    stop(service, other)
    assert not gone(pid)


def test_ignores_term(state: State, tmp_path: Path) -> None:
    """A service that ignores TERM is killed with its children before the time of the stop is over."""
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    service = Service(command=f"trap '' TERM; sleep 1000 & echo $! > {ready}; while :; do wait; done")
    pid = start(service, state)
    child = int(wait_line(ready))
    state.remember(child)
    ctx = stop(service, state, seconds=2)
    assert gone(pid) and gone(child)
    assert any(line.startswith("SIGKILL after") and str(pid) in line for line in ctx.lines)


def test_ends_in_order(state: State, tmp_path: Path) -> None:
    """TERM comes first, to its children as well, and the service has the time to react."""
    ready, said = tmp_path / "ready", tmp_path / "said"
    os.mkfifo(ready)
    child = f"trap 'echo child >> {said}; exit' TERM; echo ready > {ready}; while :; do sleep 0.05; done"
    service = Service(command=f"trap 'wait; echo parent >> {said}; exit' TERM; sh -c \"{child}\" & wait")
    pid = start(service, state)
    assert wait_line(ready) == "ready"
    ctx = stop(service, state)
    assert gone(pid)
    assert said.read_text() == "child\nparent\n"
    assert ctx.lines == []


def test_stopped_service(state: State) -> None:
    """A service that was suspended is continued, so that it sees the TERM."""
    service = Service(command=SLEEP)
    pid = start(service, state)
    os.kill(pid, signal.SIGSTOP)
    assert stop(service, state).lines == []
    assert gone(pid)


def test_end_session_without_leader() -> None:
    """Without the leader nothing is touched: the number may be another session's."""
    me = proc_stat(os.getpid())
    assert me is not None
    assert end_session(Process(pid=os.getpid(), start_time=me.start_time + 1), patience=1, log=print) == []


def test_restart_counts(state: State) -> None:
    """heal starts it again as often as `restart` says, then fails; a new start begins anew."""
    service = Service(command=SLEEP, restart=2)
    first = start(service, state)
    for number in (1, 2):
        kill(service, state)
        ctx = heal(service, state)
        assert status(service, state) is Status.UP
        assert state["restarts"] == number
        assert ctx.lines[0].endswith(f"has ended; restart {number} of 2")
    last = state["pid"]
    assert first != last
    kill(service, state)
    with pytest.raises(Failed, match=f"pid {last} has ended; restarted 2 times, restart = 2 allows no more"):
        heal(service, state)
    start(service, state)
    assert "restarts" not in state


def test_a_service_knows_how_often_it_was_restarted(state: State, tmp_path: Path) -> None:
    """0 at its start, then each restart; the package's variables and its own are there as well."""
    said = tmp_path / "said"
    os.mkfifo(said)
    command = f'echo "$BTW_RESTARTS $PEV_A $PEV_B" > {said}; exec sleep 1000'
    service = Service(command=command, restart="unlimited", env={"PEV_B": "own"})
    env = {"PEV_A": "package", "PEV_B": "package"}
    service.start(FakeContext(state=state, env=env))
    assert wait_line(said) == "0 package own"
    for number in (1, 2):
        kill(service, state)
        service.heal(FakeContext(Verb.HEAL, state=state, env=env))
        assert wait_line(said) == f"{number} package own"


def test_heal_of_a_living_service(state: State) -> None:
    """heal of a service that lives does nothing and counts nothing."""
    service = Service(command=SLEEP, restart=1)
    pid = start(service, state)
    assert heal(service, state).lines == []
    assert (state["pid"], state.get("restarts")) == (pid, None)


def test_unlimited(state: State) -> None:
    """`restart = "unlimited"` goes on past any number."""
    service = Service(command=SLEEP, restart="unlimited")
    start(service, state)
    state["restarts"] = 1_000_000
    kill(service, state)
    heal(service, state)
    assert state["restarts"] == 1_000_001
    assert status(service, state) is Status.UP


def test_no_restart_by_default(state: State) -> None:
    """Without `restart` the end of the service is a failure of the package."""
    service = Service(command=SLEEP)
    start(service, state)
    kill(service, state)
    with pytest.raises(Failed, match="restart = 0 allows no more"):
        heal(service, state)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo no; exit 3", "ended at once, exit code 3"),
        ("exit 0", "ended at once, exit code 0.*must stay in the foreground"),
        ("kill -9 $$", "ended at once, killed by SIGKILL"),
        (("/nonexistent/program",), "cannot execute /nonexistent/program: No such file"),
    ],
)
def test_ends_at_once(
    state: State, command: str | tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that cannot be executed or ends at once is a failed start, and can be stopped."""
    monkeypatch.setattr("btw_exec.service.LOOK", GENEROUS)  # the computer may be busy
    service = Service(command=command)
    with pytest.raises(Failed, match=message):
        start(service, state)
    assert status(service, state) is Status.DOWN
    stop(service, state)


def test_user(state: State) -> None:
    """Runs as another user, as the very process (nothing in between that would have to pass on signals)."""
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    service = Service(command=SLEEP, user="nobody", env={"HOME": "/"}, cwd="/")
    assert service.check(CHECK) == []
    pid = start(service, state)
    account = pwd.getpwnam("nobody")
    assert Path(f"/proc/{pid}").stat().st_uid == account.pw_uid
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00"
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {b"USER=nobody", b"HOME=/"} <= set(environment)
    stop(service, state)


def test_unknown_user(state: State) -> None:
    """A user that does not exist is said by check and by start."""
    service = Service(command=SLEEP, user="btw-no-such-user")
    (problem,) = service.check(CHECK)
    assert problem.key == "user"
    with pytest.raises(Failed, match="no such user"):
        start(service, state)
    assert [problem.key for problem in Service(command=SLEEP, user=getpass.getuser()).check(CHECK)] == []


def test_parameters() -> None:
    """restart is a number from 0 on or "unlimited"; the command may be text or a list."""
    for value in (0, 5, "unlimited"):
        assert msgspec.convert({"command": "sleep 1", "restart": value}, Service).restart == value
    for wrong in (-1, "often", 1.5):
        with pytest.raises(msgspec.ValidationError, match="restart"):
            msgspec.convert({"command": ["sleep"], "restart": wrong}, Service)


def test_check() -> None:
    """A missing program and a missing working directory are both said."""
    found = Service(command=("/nonexistent/program",), cwd="/nonexistent").check(CHECK)
    assert [problem.key for problem in found] == ["cwd", "command"]


def test_alive_needs_the_start_time(state: State) -> None:
    """What the state keeps names the process for the life of the computer."""
    start(Service(command=SLEEP), state)
    assert alive(Process(pid=state["pid"], start_time=state["start_time"]))
    assert set(state) == {"pid", "start_time", "boot", "since"}
