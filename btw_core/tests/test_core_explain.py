"""On what a process hangs: what is told, and that telling it never hangs."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuse_hang import hanging_mount
from zygote_stock import SOON, manager, run, wait_until

from btw_core.cli.status import advice
from btw_core.clock import boottime
from btw_core.command import proc_stat
from btw_core.containment import find_cgroup_root
from btw_core.explain import PROCESSES, newest, operations, processes
from btw_core.types import Verb

CGROUPS = find_cgroup_root(f"test-{os.getpid()}")
if CGROUPS is not None:
    Path(CGROUPS).rmdir()


@contextlib.contextmanager
def program(source: str, directory: Path) -> Iterator[int]:
    """The pid of a Python program that has said that it is ready."""
    command = [sys.executable, "-c", f"import os, time\n{source}"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, cwd=directory, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_process_in_d_state(tmp_path: Path) -> None:
    """What hangs in a mount that does not answer, and survives SIGKILL, is told with state, wchan, working directory,
    open files and the mount; telling it asks the mount nothing."""
    (tmp_path / "mount").mkdir()
    (tmp_path / "file").write_text("")
    try:
        mounted = hanging_mount(tmp_path / "mount")
        mount = mounted.__enter__()
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    source = "file = open('file')\nos.chdir('mount')\nprint('ready', flush=True)\nopen('there')"
    try:
        with program(source, tmp_path) as pid:
            mount.wait_hung(SOON)
            os.kill(pid, 9)
            wait_until(lambda: (stat := proc_stat(pid)) is not None and stat.state == "D")
            (text,) = processes([pid], SOON)
            with pytest.raises(TimeoutError):
                mount.wait_hung(0)  # nobody else has looked into it
            mount.release()
    finally:
        mount.release()
        mounted.__exit__(None, None, None)
    assert text.startswith(f"pid {pid} ({sys.executable} -c import os, time")
    assert re.search(r", state D in request_wait_answer, in openat; works in ", text), text
    assert f"; works in {tmp_path}/mount; open: {tmp_path}/file; on {tmp_path}/mount (fuse btw-hang)" in text


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="system calls have no names here")
@pytest.mark.skipif(not Path("/proc/self/syscall").exists(), reason="a kernel without /proc/PID/syscall")
def test_the_file_that_is_waited_for(tmp_path: Path) -> None:
    """A system call on a descriptor is told with its file; a few of the other open files are named."""
    os.mkfifo(tmp_path / "pipe")
    opened = "kept = [open(f'file{n}', 'w') for n in range(6)]\n"
    source = f"{opened}pipe = os.open('pipe', os.O_RDWR)\nprint('ready', flush=True)\nos.read(pipe, 1)"
    with program(source, tmp_path) as pid:
        wait_until(lambda: "in read" in processes([pid], SOON)[0])
        (text,) = processes([pid], SOON)
    assert f", in read of {tmp_path}/pipe; works in {tmp_path};" in text
    listed = ", ".join(f"{tmp_path}/file{n}" for n in range(4))
    assert f"; open: {listed} and 3 more" in text


def test_who_cannot_be_looked_at_is_named_all_the_same(tmp_path: Path) -> None:
    """A look that never ends is given up; so is one at a process that is gone. State and pid are told."""
    never = threading.Event()
    try:
        begun = boottime()
        texts = processes([os.getpid(), 1], 0.2, lambda _: "never" * never.wait(SOON))
        assert boottime() - begun < SOON / 2
    finally:
        never.set()
    assert [text.partition(" (")[0] for text in texts] == [f"pid {os.getpid()}", "pid 1"]

    def gone(pid: int) -> str:
        raise ProcessLookupError(pid)

    assert [text.partition(",")[0] for text in processes([1], SOON, gone)] == ["pid 1 (" + name_of(1) + ")"]


def name_of(pid: int) -> str:
    stat = proc_stat(pid)
    assert stat is not None
    return stat.name


def test_only_some_are_looked_at_closely() -> None:
    """Of many processes the first are told in full, the others in short."""
    pids = range(1, PROCESSES + 4)
    texts = processes(pids, SOON, lambda pid: f"close {pid}")
    assert [text.startswith("close") for text in texts] == [True] * PROCESSES + [False] * 3


def test_the_newest_of_a_session(tmp_path: Path) -> None:
    """Of a script the process that it waits for comes first."""
    script = "sleep 1000 & echo $! > child; echo ready; wait"
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, cwd=tmp_path, start_new_session=True) as p:
        try:
            assert p.stdout is not None
            assert p.stdout.readline() == b"ready\n"
            child = int((tmp_path / "child").read_text())
            wait_until(lambda: name_of(child) == "sleep")
            texts = newest(p.pid)
        finally:
            os.killpg(p.pid, 9)
    assert texts[0].startswith(f"pid {child} (sleep")
    assert texts[1].startswith(f"pid {p.pid} (")


@pytest.mark.skipif(CGROUPS is None, reason="no cgroup v2 to write to")
def test_operations_that_run(tmp_path: Path) -> None:
    """The processes of a running operation are told, those of services only where everything is asked for; without
    cgroups nothing is."""

    async def test() -> None:
        packages = {"p": {"r": {"on_start": "spawns"}, "d": {"on_start": "hangs"}}}
        async with manager(tmp_path, packages, cgroups=True) as m:
            assert (await m.do(Verb.START)).ok
            assert operations(m.cgroup, "p", everything=False) == ()
            assert len(operations(m.cgroup, "p", everything=True)) == 1
            m.begin(Verb.START, "d")
            await m.until((tmp_path / "hangs").exists)
            running = operations(m.cgroup, "p", everything=False)
            assert running
            assert len(operations(m.cgroup, "p", everything=True)) == len(running) + 1
            assert operations("", "p", everything=True) == operations(m.cgroup, "q", everything=True) == ()

    run(test)


# ---- what a person is told
ROW = {
    "package": "web",
    "node": "n1",
    "state": "stuck",
    "cause": "stop took too long; the lock is kept: stop of disk, 30.0 s; it said last: umounting",
    "off": "",
    "seconds": 4.0,
    "resources": [],
    "processes": [],
    "managers": [41, 40],
}


def test_the_ways_out_of_stuck() -> None:
    """The cause, every process that is left, and the exact commands: mend and stop again, end what can be ended, unlock
    by hand. What is in state D is not to be killed."""
    hanging = "pid 12 (umount /srv), state D in nfs_wait, in umount2; on /srv (nfs4 h:/a)"
    told = list(advice({**ROW, "processes": [hanging, "pid 13 (tail -f x), state S in pipe_read"]}))
    assert told == [
        f"web on n1: stuck: {ROW['cause']}",
        f"  {hanging}",
        "  pid 13 (tail -f x), state S in pipe_read",
        "  mend what keeps it from stopping, then: btw stop web --node n1",
        "  or end what is left: kill -9 13",
        "  no signal ends 12 (state D): only the end of what it waits for, or a reboot",
        "  or, once you made sure that web is down on n1: kill -9 41 40; btw unlock web --confirmed",
    ]
    told = list(advice(ROW))
    assert [line.split()[0] for line in told] == ["web", "mend", "or,"]


def test_a_slow_stop_is_told_with_its_processes() -> None:
    """Where a start or stop takes long, what its processes are at stands below what it is doing."""
    row = {**ROW, "state": "halting", "cause": "halt asked for", "working_on": "stop of disk, 7.1 s"}
    told = list(advice({**row, "processes": ["pid 12 (umount /srv), state S"]}))
    assert told == [
        "web on n1: halting (stop of disk, 7.1 s): halt asked for; see btw events web",
        "  pid 12 (umount /srv), state S",
    ]
