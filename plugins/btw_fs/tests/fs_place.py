"""A computer for tests of file systems: mounts and processes of its own, and real disks (loop devices).

    @alone
    def test_something(tmp_path):   # runs in a process of its own, which is pid 1 there; ends with all its children
        ...

    with disk(tmp_path, "ext4") as device: ...
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec

import msgspec
import pytest

from btw_core import Status
from btw_core.testing import FakeContext
from btw_core.types import Verb
from btw_fs.fs import Fs
from btw_fs.target import Device, Directory, Options

P = ParamSpec("P")
#: Seconds for anything that has to happen.
GENEROUS = 30.0
_CLONE_NEWNS, _CLONE_NEWPID, _MS_REC, _MS_PRIVATE = 0x20000, 0x20000000, 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)
#: mkfs and size in MB: what each type wants at least.
MAKE = {
    "ext4": (["mkfs.ext4", "-q", "-F"], 32),
    "xfs": (["mkfs.xfs", "-q", "-f"], 320),
    "btrfs": (["mkfs.btrfs", "-q", "-f"], 128),
    "ext2": (["mkfs.ext2", "-q", "-F"], 16),
}
root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def alone(test: Callable[P, None]) -> Callable[P, None]:
    """The test runs in a mount and a pid namespace of its own."""

    @root
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        inside(lambda: test(*args, **kwargs))

    return run


def inside(body: Callable[[], None]) -> None:
    """Run it there; raises AssertionError with the traceback of what it raised."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _first(body, writing)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    assert said == "ok", f"in its namespace:\n{said}"


def _first(body: Callable[[], None], writing: int) -> None:
    said = "unshare failed"
    try:
        if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWPID):
            raise OSError(ctypes.get_errno(), "unshare")
        pid = os.fork()
        if pid:  # its namespaces and all its children end with it
            os.waitpid(pid, 0)
            os._exit(0)
        mount(b"none", "/", b"", _MS_REC | _MS_PRIVATE)
        mount(b"proc", "/proc", b"proc", 0)
        body()
        said = "ok"
    except BaseException:  # noqa: BLE001 - whatever it was, the test has failed with it
        said = traceback.format_exc()
    finally:
        os.write(writing, said.encode())
        os._exit(0)


def mount(source: bytes, target: str | Path, kind: bytes, flags: int = 0, data: bytes = b"") -> None:
    """mount(2)."""
    if _libc.mount(source, os.fsencode(target), kind, flags, data):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def run(*words: str | Path) -> str:
    """A command that has to work; its output."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


@contextlib.contextmanager
def disk(directory: Path, fstype: str, *options: str) -> Iterator[str]:
    """A loop device with such a file system, "" for none."""
    words, size = MAKE[fstype] if fstype else ([], 16)
    handle, name = tempfile.mkstemp(dir=directory, prefix=f"{fstype}-")
    os.ftruncate(handle, size << 20)
    os.close(handle)
    if words:
        run(*words, *options, name)
    device = run("losetup", "--find", "--show", name)
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=False, timeout=30)
        Path(name).unlink()


class Host:
    """One `fs` on this computer, and what the core remembers of it."""

    def __init__(self, device: str, directory: str | Path, **parameters: Any) -> None:
        if "options" in parameters:
            parameters["options"] = Options(parameters["options"])
        self.fs = Fs(device=Device(device), directory=Directory(str(directory)), name="data", **parameters)
        self.state: dict[str, Any] = {}
        self.lines: list[str] = []

    def with_(self, **parameters: Any) -> Host:
        """The same with other parameters; state and lines are shared."""
        other = copy.copy(self)
        other.fs = msgspec.structs.replace(self.fs, **parameters)
        return other

    def start(self, seconds: float = GENEROUS) -> None:
        self._operate(Verb.START, self.fs.start, seconds)

    def stop(self, seconds: float = GENEROUS) -> None:
        """As the core does: what it says must be what status says then."""
        self._operate(Verb.STOP, self.fs.stop, seconds)
        assert self.status() is Status.DOWN

    def status(self) -> Status:
        context = FakeContext(None, state=dict(self.state))
        try:
            return self.fs.status(context)
        finally:
            self.lines += context.lines

    def _operate(self, verb: Verb, method: Callable[[Any], None], seconds: float) -> None:
        context = FakeContext(verb, state=self.state, seconds=seconds)
        try:
            method(context)
        finally:
            self.lines += context.lines

    @property
    def said(self) -> str:
        return "\n".join(self.lines)


@contextlib.contextmanager
def running(program: str, *words: str | Path, cwd: str | Path = "/") -> Iterator[subprocess.Popen[str]]:
    """A Python program that has printed a line."""
    command = [sys.executable, "-I", "-S", "-c", program, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=cwd) as process:
        try:
            assert process.stdout is not None and process.stdout.readline(), f"{program} said nothing"
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + GENEROUS
    while not condition():
        assert time.monotonic() < end, f"not within {GENEROUS:g} s: {what}"
        time.sleep(0.02)
