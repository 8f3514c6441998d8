"""Running one command with bounded time and memory, and naming processes for ever.

Nothing here waits without a limit, and nothing waits for end-of-file: a start script may leave a daemon behind that
keeps the pipe open for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .clock import boottime
from .resource import Completed, Failed, Process
from .timing import KILL_GRACE

Command = Sequence[str] | str

#: Bytes of a command's output that are kept: the last ones.
TAIL = 64 * 1024
#: Bytes still read after the command has ended: more than a pipe holds, less than a daemon left behind can write.
_DRAIN = 1024 * 1024
_PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


# ---- processes ----------------------------------------------------------------------------------------------------
class Stat(NamedTuple):
    """What proc_pid_stat(5) says: name, state letter, session id, start time in ticks since boot."""

    name: str
    state: str
    session: int
    start_time: int


def proc_stat(pid: int) -> Stat | None:
    """The process as it is now (a zombie is one), or None when there is none. Raises PermissionError where /proc is
    mounted with hidepid."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, tail = text.rpartition(")")  # the name may hold spaces and parentheses
    fields = tail.split()
    return Stat(head.partition("(")[2], fields[0], int(fields[3]), int(fields[19]))


def alive(process: Process) -> bool:
    """Whether this very process still runs: pid and start time agree, and it is no zombie. Does not block."""
    stat = proc_stat(process.pid)
    return stat is not None and stat.start_time == process.start_time and stat.state not in "ZX"


def describe(pid: int) -> str:
    """ "pid 12 (sleep), state D in fuse_wait": for messages about a process that does not go away."""
    stat = proc_stat(pid)
    if stat is None:
        return f"pid {pid}"
    place = ""
    with contextlib.suppress(OSError):  # wchan is an extra: only root may read it
        place = Path(f"/proc/{pid}/wchan").read_text().strip("0\n")
    return f"pid {pid} ({stat.name}), state {stat.state}" + (f" in {place}" if place else "")


def ending(code: int) -> str:
    """The exit code of `Completed` in words: "exit code 3", "killed by SIGKILL"."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):  # real-time signals have no name
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def shown(command: Command) -> str:
    """The command as one would type it, cut at 200 characters."""
    text = command if isinstance(command, str) else shlex.join(command)
    return text if len(text) <= 200 else text[:199] + "…"


def last_said(output: str) -> str:
    """The last line of output, to be put behind a message."""
    lines = output.split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"; it said last: {last[:200]}" if last else ""


def argv_of(command: Command) -> list[str]:
    """The command's words; a string goes through /bin/sh -c. Raises Failed when there is none."""
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    if not argv or not argv[0]:
        raise Failed("the command is empty; give the program as its first word")
    return argv


def cannot_execute(argv: list[str], cwd: str | None, error: OSError | ValueError) -> Failed:
    """Why execve(2) or chdir(2) refused, and the remedy."""
    program, code = argv[0], getattr(error, "errno", None)
    if cwd is not None and getattr(error, "filename", None) == cwd:
        return Failed(f"working directory {cwd}: {error.strerror}; create it or correct `cwd`")  # type: ignore[union-attr]
    where = Path(cwd or ".", program) if "/" in program else None
    if code == errno.ENOENT and where is None:
        remedy = "no such program in PATH; install it or give its full path"
    elif code == errno.ENOENT and where is not None and where.exists():
        remedy = "the interpreter named in its first line (#!) does not exist; install it or correct that line"
    elif code == errno.EACCES:
        remedy = f"it may not be executed: chmod +x {where or program}; or its file system is mounted noexec"
    elif code == errno.ENOEXEC:
        remedy = "it is no program for this machine; a script needs a first line such as #!/bin/sh"
    else:
        remedy = "correct the command"
    return Failed(f"cannot execute {shown(argv)}: {getattr(error, 'strerror', None) or error}; {remedy}")


def child_setup(parent: int | None) -> Callable[[], None]:
    """What the child does after fork: take default signals, die with `parent`. Only for single-threaded processes
    (zygote, operations): Python code after fork may deadlock on a lock that another thread held, and PR_SET_PDEATHSIG
    is tied to the forking *thread*."""

    def setup() -> None:
        # what the zygote ignores or blocks is its own business
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if parent is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:  # it died before the call above
                os._exit(1)

    return setup


@contextlib.contextmanager
def _output_pipe() -> Iterator[tuple[int, int]]:
    """(read end, descriptor for the child). The child's is open for reading too, so that a daemon left behind with it
    is not killed by SIGPIPE when it prints after we are gone; from then on it is non-blocking, so that a full pipe
    does not stop the daemon either: what it prints is dropped (fifo(7), pipe(7))."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_blocking(reader, False)
        sink = os.open(f"/proc/self/fd/{reader}", os.O_RDWR | os.O_CLOEXEC)
        try:
            yield reader, sink
        finally:
            os.set_blocking(sink, False)
            os.close(sink)
    finally:
        os.close(reader)
        os.close(writer)


def execute(
    command: Command,
    *,
    limit: float,
    env: Mapping[str, str],
    cwd: str | None = None,
    input: str | None = None,
    feed: Callable[[bytes], None] | None = None,
    stderr: bool = True,
    tied: bool = False,
    explain: Callable[[int], Sequence[str]] | None = None,
) -> Completed:
    """Run a command in a session of its own until *it* has ended; what it left behind is not waited for.

    Blocks at most `limit` seconds, then kills its process group and waits `KILL_GRACE` seconds more. `feed` gets the
    output as it comes; `stderr=False` leaves standard error out; `tied`: the command dies with this process (only in a
    single-threaded one). Any exit code is fine. Raises Failed when it cannot be executed or did not end in time, with
    what `explain` then says of the session that the command leads.
    """
    if limit <= 0:
        raise Failed(f"`{shown(command)}` was not begun: no time is left")
    argv, end, tail = argv_of(command), boottime() + limit, bytearray()

    def take(reader: int, most: int) -> None:
        while most > 0:
            try:
                data = os.read(reader, TAIL)
            except BlockingIOError:
                return
            most -= len(data)
            tail.extend(data)
            del tail[:-TAIL]
            if feed is not None:
                feed(data)

    with contextlib.ExitStack() as stack:
        reader, sink = stack.enter_context(_output_pipe())
        stdin = subprocess.DEVNULL
        if input is not None:  # a file in memory: written at once, whether the command reads it or not
            stdin = os.memfd_create("btw-input")
            file = stack.enter_context(open(stdin, "wb"))
            file.write(input.encode())
            file.seek(0)
        try:
            process = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=sink,
                stderr=sink if stderr else subprocess.DEVNULL,
                cwd=cwd,
                env=dict(env),
                start_new_session=True,
                preexec_fn=child_setup(os.getpid()) if tied else None,
            )
        except (OSError, ValueError) as error:  # ValueError: a null byte in an argument
            raise cannot_execute(argv, cwd, error) from None
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:  # no descriptor left
            process.kill()
            raise
        stack.callback(os.close, pidfd)
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        overrun = ""

        def where() -> str:
            return "; ".join(explain(process.pid) if explain else []) or describe(process.pid)

        while pidfd not in (ready := dict(poll.poll(max(0.0, end - boottime()) * 1000))):
            if reader in ready:
                take(reader, 1)
            if boottime() >= end:
                if overrun:
                    raise Failed(f"`{shown(command)}` survives SIGKILL: {where()}; mend what it waits for")
                overrun, end = where(), boottime() + KILL_GRACE
                # EPERM: it is another user's by now; then it survives and is named above
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        os.set_blocking(sink, False)
        take(reader, _DRAIN)
        code, output = process.wait(), tail.decode(errors="replace")
    if overrun:
        said = f"{last_said(output)}; until then: {overrun}"
        raise Failed(f"`{shown(command)}` did not end within {limit:.3g} s and was killed{said}")
    return Completed(code=code, output=output)
