"""The Context: commands with bounded time and memory, services, environment. All with real processes."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from btw_core.clock import boottime
from btw_core.command import alive, describe, ending, proc_stat
from btw_core.context import LINE, LINES, RealContext
from btw_core.resource import CannotTell, Failed, Process
from btw_core.testing import FakeContext
from btw_core.types import Reason, Verb

GENEROUS = 20.0


@pytest.fixture
def ended() -> Iterator[list[int]]:
    """Pids that a test made: killed at its end, whatever happened."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_gone(pid: int) -> None:
    """Until the process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        wait_readable(descriptor)
    finally:
        os.close(descriptor)


def wait_readable(descriptor: int) -> None:
    """Until there is something to read, or the end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(GENEROUS * 1000), "nothing came"


def read_line(fifo: Path) -> str:
    """The line that a process writes into a named pipe; waits for it."""
    descriptor = os.open(fifo, os.O_RDWR)  # so that opening does not wait, and closing writers do not end it
    try:
        wait_readable(descriptor)
        return os.read(descriptor, 4096).decode().strip()
    finally:
        os.close(descriptor)


class TestRun:
    def test_string_and_list(self) -> None:
        """A string goes through the shell, a list does not; both streams come back in one."""
        ctx = FakeContext()
        assert ctx.run("echo a; echo b >&2").output == "a\nb\n"
        assert ctx.run(["echo", "$HOME;"]).output == "$HOME;\n"

    def test_exit_codes(self) -> None:
        """A code that is not allowed is Failed with the code and the last words; `ok=()` allows any."""
        ctx = FakeContext()
        with pytest.raises(Failed, match=r"exit code 3, allowed: 0, 1; it said last: no space"):
            ctx.run("echo no space; exit 3", ok=(0, 1))
        assert ctx.run("exit 3", ok=()).code == 3
        assert ctx.run("kill -9 $$", ok=()).code == -signal.SIGKILL
        with pytest.raises(Failed, match="killed by SIGKILL"):
            ctx.run("kill -9 $$")

    def test_in_status_it_is_cannot_tell(self) -> None:
        """In status every refusal is CannotTell, never Failed and never an answer."""
        ctx = FakeContext(verb=None)
        for command in ("exit 1", ["/nonexistent/program"], []):
            with pytest.raises(CannotTell):
                ctx.run(command)
        with pytest.raises(CannotTell, match="did not end within"):
            ctx.run("sleep 1000", timeout=0.1)

    def test_hundred_megabytes(self) -> None:
        """Of 100 MB printed the last 64 KiB stay in memory, and a bounded number of lines in the journal."""
        ctx = FakeContext(seconds=100)
        done = ctx.run("head -c 100000000 /dev/zero | tr '\\0' x | fold -w 999; echo; echo end")
        assert len(done.output) == 64 * 1024
        assert done.output.endswith("end\n")
        assert len(ctx.lines) == LINES + 1
        assert max(map(len, ctx.lines)) == LINE
        assert ctx.lines[-1] == f"... {100100101 // 1000 + 1 + 1 - LINES} more lines not shown"

    def test_endless_line(self) -> None:
        """A line without an end does not fill memory either and is one line of the journal."""
        ctx = FakeContext(seconds=100)
        ctx.run("head -c 20000000 /dev/zero | tr '\\0' x")
        assert ctx.lines == ["x" * (LINE - 1) + "…"]

    def test_lines_are_bounded_over_all_commands(self) -> None:
        """The limit counts for the operation: many small commands do not get around it."""
        ctx = FakeContext()
        for _ in range(5):
            ctx.run("seq 100")
            ctx.log("once more")
        assert len(ctx.lines) <= LINES + 5
        assert sum(line.isdecimal() for line in ctx.lines) <= LINES

    def test_status_is_silent(self) -> None:
        """What a status command prints is not logged each pace; it is in the answer."""
        ctx = FakeContext(verb=None)
        assert ctx.run("echo fine").output == "fine\n"
        assert ctx.lines == []

    def test_closed_descriptors(self, tmp_path: Path) -> None:
        """A command that closes its standard descriptors is still waited for."""
        FakeContext().run(f"exec <&- >&- 2>&-; sleep 0.2; : > {tmp_path}/done")
        assert (tmp_path / "done").exists()

    def test_daemon_left_behind(self, tmp_path: Path, ended: list[int]) -> None:
        """A daemon that holds the pipe open does not hang the command, and does not die when it prints later."""
        go, told = tmp_path / "go", tmp_path / "told"
        os.mkfifo(go)
        os.mkfifo(told)
        # setsid -f forks, and the daemon forks once more
        daemon = f"read x < {go}; seq 100000; echo $$ lives > {told}; exec sleep 1000"
        done = FakeContext().run(f"setsid -f sh -c '({daemon}) & echo $! > {tmp_path}/pid; echo up'; sleep 0.2")
        pid = int((tmp_path / "pid").read_text())
        ended.append(pid)
        assert "up" in done.output
        with open(os.open(go, os.O_RDWR), "w") as file:
            file.write("go\n")
            file.flush()
            assert read_line(told).endswith("lives")
        assert proc_stat(pid) is not None

    def test_time_limit_kills_the_group(self, tmp_path: Path, ended: list[int]) -> None:
        """At the deadline the command and its children are killed, also those that ignore TERM."""
        ctx = FakeContext(seconds=1.5)
        before = boottime()
        words = r"did not end within 1\.[0-9]+ s and was killed; it said last: working"
        with pytest.raises(Failed, match=words) as told:
            ctx.run(f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/pid; echo working; wait")
        assert boottime() - before < GENEROUS
        child = int((tmp_path / "pid").read_text())
        assert f"; until then: pid {child} (sleep" in str(told.value)
        ended.append(child)
        wait_gone(child)

    def test_time_limit_with_output(self) -> None:
        """A command that prints without end is ended at the deadline as well."""
        with pytest.raises(Failed, match="did not end within"):
            FakeContext().run("exec yes", timeout=0.3)

    def test_survivor_of_sigkill(self, ended: list[int]) -> None:
        """The wait after SIGKILL is bounded too; the process that survives is named with its state. (Here it survives
        because it has become another user's; a process in an uninterruptible wait takes the same way.)"""
        setpriv = shutil.which("setpriv")
        if os.geteuid() != 0 or setpriv is None:
            pytest.skip("only root can make a set-user-id program")
        with tempfile.TemporaryDirectory() as directory:  # tmp_path is closed to other users
            program = Path(directory, "become-root")
            shutil.copy(setpriv, program)
            program.chmod(0o4755)
            Path(directory).chmod(0o755)
            reader, writer = os.pipe()
            operation = os.fork()
            if operation == 0:
                try:
                    os.setgroups([])
                    os.setresgid(65534, 65534, 65534)
                    os.setresuid(65534, 65534, 65534)
                    FakeContext(seconds=0.5).run([str(program), "--reuid=0", "sleep", "1000"])
                except BaseException as error:  # noqa: BLE001 - the child reports whatever it is
                    os.write(writer, f"{type(error).__name__}: {error}".encode())
                finally:
                    os._exit(0)
            os.close(writer)
            ended.append(operation)
            try:
                wait_readable(reader)
                told = os.read(reader, 4096).decode()
            finally:
                os.close(reader)
            os.waitpid(operation, 0)
        found = re.search(r"pid ([0-9]+) \(sleep\), state S", told)
        assert found is not None, told
        ended.append(int(found[1]))
        assert told.startswith("Failed: ") and "survives SIGKILL" in told

    def test_no_time_left(self, tmp_path: Path) -> None:
        """Nothing is begun when the deadline has passed."""
        ctx = FakeContext(seconds=0)
        assert ctx.remaining() == 0
        with pytest.raises(Failed, match="no time is left"):
            ctx.run(f": > {tmp_path}/done")
        assert not (tmp_path / "done").exists()

    def test_input(self) -> None:
        """Input of any size arrives, whether it is read or not; without input there is none to wait for."""
        ctx = FakeContext()
        text = "line\n" * 100_000
        assert ctx.run("wc -c", input=text).output.strip() == str(len(text))
        assert ctx.run("exit 0", input=text).code == 0
        assert ctx.run("cat").output == ""

    def test_cwd_and_env(self, tmp_path: Path) -> None:
        """A relative program counts from cwd; `env` is added to the contract's variables."""
        (tmp_path / "packages").mkdir()
        script = tmp_path / "packages" / "web"
        script.write_text('#!/bin/sh\necho "$0 $PWD $EXTRA $BTW_PACKAGE"\n')
        script.chmod(0o755)
        done = FakeContext(package="shop").run(["packages/web"], cwd=str(tmp_path), env={"EXTRA": "more"})
        assert done.output == f"packages/web {tmp_path} more shop\n"

    @pytest.mark.parametrize(
        ("text", "mode", "message"),
        [
            ("#!/bin/sh\n", 0o644, r"chmod \+x .*/script"),
            ("echo no first line\n", 0o755, r"a script needs a first line such as #!/bin/sh"),
            ("#!/nonexistent/interpreter\n", 0o755, r"interpreter named in its first line"),
            ("#!/bin/sh\r\n", 0o755, r"interpreter named in its first line"),
            (None, 0, r"No such file or directory; correct the command"),
        ],
    )
    def test_cannot_be_executed(self, tmp_path: Path, text: str | None, mode: int, message: str) -> None:
        """A program that cannot be executed is Failed with its name and the remedy."""
        script = tmp_path / "script"
        if text is not None:
            script.write_text(text)
            script.chmod(mode)
        for run in (FakeContext().run, FakeContext().spawn):
            with pytest.raises(Failed, match=f"(?s)cannot execute .*script.*{message}"):
                run([str(script)])

    def test_no_such_program_or_directory(self) -> None:
        """Not in PATH, a missing working directory, a null byte: each named."""
        ctx = FakeContext()
        with pytest.raises(Failed, match="no such program in PATH"):
            ctx.run(["btw-no-such-program"])
        with pytest.raises(Failed, match="working directory /nonexistent: No such file"):
            ctx.run(["true"], cwd="/nonexistent")
        with pytest.raises(Failed, match="null byte"):
            ctx.run(["true", "a\0b"])
        with pytest.raises(Failed, match="the command is empty"):
            ctx.run([])

    def test_dies_with_the_operation(self, tmp_path: Path, ended: list[int]) -> None:
        """When the operation process is killed the command that it runs is killed by the kernel."""
        fifo = tmp_path / "pid"
        os.mkfifo(fifo)
        operation = os.fork()
        if operation == 0:
            try:
                FakeContext().run(f"echo $$ > {fifo}; exec sleep 1000")
            finally:
                os._exit(0)
        ended.append(operation)
        command = int(read_line(fifo))
        ended.append(command)
        os.kill(operation, signal.SIGKILL)
        os.waitpid(operation, 0)
        wait_gone(command)

    def test_no_foreign_descriptors(self) -> None:
        """A command gets 0, 1 and 2 and nothing else, even of descriptors that are inheritable."""
        descriptor = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(descriptor, True)
        try:
            # the listing itself opens one more
            listed = FakeContext().run(["ls", "/proc/self/fd"]).output.split()
        finally:
            os.close(descriptor)
        assert len(listed) == 4
        assert {"0", "1", "2"} <= set(listed)

    def test_many_threads(self) -> None:
        """status may run in several threads at once (the observer's pool)."""
        found: list[str] = []

        def one(number: int) -> None:
            found.append(FakeContext(verb=None).run(f"echo {number}").output.strip())

        threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(GENEROUS)
        assert sorted(found, key=int) == [str(number) for number in range(16)]


class TestSpawn:
    def test_service(self, tmp_path: Path, ended: list[int]) -> None:
        """A service has a session of its own, three descriptors, and is named by pid and start time."""
        inherited = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(inherited, True)
        try:
            process = FakeContext().spawn(["sleep", "1000"])
        finally:
            os.close(inherited)
        ended.append(process.pid)
        stat = proc_stat(process.pid)
        assert stat is not None
        assert (stat.session, stat.start_time) == (process.pid, process.start_time)
        end = boottime() + GENEROUS  # while it is loaded it opens files itself
        while sorted(entry.name for entry in Path(f"/proc/{process.pid}/fd").iterdir()) != ["0", "1", "2"]:
            assert boottime() < end
        assert alive(process)
        assert not alive(Process(pid=process.pid, start_time=process.start_time + 1))

    def test_outlives_the_operation(self, tmp_path: Path, ended: list[int]) -> None:
        """The service goes on when the operation that started it has been killed."""
        reader, writer = os.pipe()
        operation = os.fork()
        if operation == 0:
            try:
                process = FakeContext().spawn(["sleep", "1000"])
                os.write(writer, f"{process.pid} {process.start_time}".encode())
                signal.pause()
            finally:
                os._exit(0)
        ended.append(operation)
        pid, start_time = map(int, os.read(reader, 100).split())
        ended.append(pid)
        os.close(reader)
        os.close(writer)
        os.kill(operation, signal.SIGKILL)
        os.waitpid(operation, 0)
        assert alive(Process(pid=pid, start_time=start_time))

    def test_zombie_is_not_alive(self, ended: list[int]) -> None:
        """A service that has ended and was not reaped yet does not count as alive."""
        ctx = FakeContext()  # kept: without it the process would be reaped
        process = ctx.spawn("exit 3")
        wait_gone(process.pid)
        stat = proc_stat(process.pid)
        assert stat is not None and stat.state == "Z"
        assert not alive(process)

    def test_log(self, tmp_path: Path) -> None:
        """Its output is appended to the log it was given; a log that cannot be opened is named."""
        log = tmp_path / "log"
        log.write_text("before\n")
        process = FakeContext(service_log=str(log)).spawn("echo out; echo err >&2")
        wait_gone(process.pid)
        assert log.read_text() == "before\nout\nerr\n"
        with pytest.raises(Failed, match="/nonexistent/log: No such file or directory"):
            FakeContext(service_log="/nonexistent/log").spawn("true")

    def test_script_log(self, tmp_path: Path) -> None:
        """It prints to the package's own log where there is one, and to the usual one where that cannot be opened."""
        usual, own = tmp_path / "usual", tmp_path / "own"
        wait_gone(FakeContext(service_log=str(usual), script_log=str(own)).spawn("echo one").pid)
        assert (own.read_text(), usual.exists()) == ("one\n", False)
        ctx = FakeContext(service_log=str(usual), script_log=f"{tmp_path}/none/own")
        wait_gone(ctx.spawn("echo two").pid)
        assert usual.read_text() == "two\n"
        assert ctx.lines == [f"log {tmp_path}/none/own: No such file or directory; it prints to {usual}"]

    def test_not_in_status(self) -> None:
        """status changes nothing."""
        with pytest.raises(Failed, match="status and watch change nothing"):
            FakeContext(verb=None).spawn("true")

    def test_default_signals(self) -> None:
        """What this process ignores or blocks does not reach commands."""
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            done = FakeContext().run("grep -E '^Sig(Blk|Ign)' /proc/self/status")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            signal.signal(signal.SIGTERM, before)
        masks = [int(line.split()[1], 16) for line in done.output.splitlines()]
        assert len(masks) == 2
        assert all(not mask & 1 << (signal.SIGTERM - 1) for mask in masks)


def _context(log: Callable[[str], None] = lambda text: None, deadline: float | None = None) -> RealContext:
    return RealContext(
        cluster="c",
        node="n",
        package="p",
        resource="r",
        term=7,
        verb=Verb.STOP,
        reason=Reason.LOCK_LOST,
        state={},
        deadline=deadline,
        operation="abc-1",
        log=log,
    )


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """BTW_* is the contract's and nothing inherited; the rest of the environment stays."""
    monkeypatch.setenv("BTW_DIR", "/somewhere")
    monkeypatch.setenv("OTHER", "kept")
    environment = _context().environment()
    assert environment["OTHER"] == "kept"
    assert {name: value for name, value in environment.items() if name.startswith("BTW_")} == {
        "BTW_CLUSTER": "c",
        "BTW_NODE": "n",
        "BTW_PACKAGE": "p",
        "BTW_TERM": "7",
        "BTW_RESOURCE": "r",
        "BTW_VERB": "stop",
        "BTW_REASON": "lock_lost",
        "BTW_OPERATION": "abc-1",
    }
    assert _context().run("echo $BTW_REASON").output == "lock_lost\n"


def test_remaining() -> None:
    """remaining() counts down to 0 and not below; without a deadline there is no end."""
    assert _context(deadline=boottime() - 5).remaining() == 0
    assert 0 < _context(deadline=boottime() + 100).remaining() <= 100
    assert _context().remaining() == float("inf")


def test_log_lines() -> None:
    """Text of several lines becomes several lines; blank ones are left out, long ones are cut."""
    ctx = FakeContext()
    ctx.log("a\n\nb\n")
    ctx.log("c" * 600)
    assert ctx.lines == ["a", "b", "c" * (LINE - 1) + "…"]


def _made() -> list[int]:
    return [1]


def _fails() -> int:
    raise OSError("not now")


def test_shared() -> None:
    """One object per factory and process, also for two contexts; a factory that raises is asked again."""
    assert FakeContext().shared(_made) is FakeContext().shared(_made)
    for _ in range(2):
        with pytest.raises(OSError, match="not now"):
            FakeContext().shared(_fails)


def test_proc_stat_of_odd_names(tmp_path: Path, ended: list[int]) -> None:
    """A program name with spaces and parentheses is read right; a pid that is not there is None."""
    program = tmp_path / "a ) (b"
    program.symlink_to(sys.executable)
    process = FakeContext().spawn([str(program), "-S", "-c", "import signal; signal.pause()"])
    ended.append(process.pid)
    stat = proc_stat(process.pid)
    assert stat is not None
    assert (stat.name, stat.session) == ("a ) (b", process.pid)
    assert "a ) (b" in describe(process.pid)
    assert proc_stat(2**22 + 1) is None
    assert describe(2**22 + 1) == f"pid {2**22 + 1}"


def test_ending_in_words() -> None:
    """Exit codes and signals are named."""
    assert [ending(code) for code in (0, 3, -9, -15, -40)] == [
        "exit code 0",
        "exit code 3",
        "killed by SIGKILL",
        "killed by SIGTERM",
        "killed by signal 40",
    ]


def test_environment_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches commands, services and status, over what btw was started with; the command's own comes over it."""
    monkeypatch.setenv("PEV_A", "inherited")
    env = {"PEV_A": "package", "PEV_B": "package"}
    for verb in (Verb.START, Verb.STOP, None):
        done = FakeContext(verb=verb, env=env).run("echo $PEV_A $PEV_B $BTW_NODE", env={"PEV_B": "command"})
        assert done.output == "package command node1\n"
