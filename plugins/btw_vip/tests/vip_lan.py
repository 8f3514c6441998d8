"""Computers on one Ethernet for the tests: network namespaces on a bridge in one more.

with lan("a", "b") as net:
    net["a"].ip("address", "add", "10.77.0.1/24", "dev", "eth0")
    net["a"].call(function, argument)  # in a process of its own in that namespace; returns what it returns
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds for anything that has to happen.
GENEROUS = 60.0
_CLONE_NEWNET = 0x40000000
_numbers = count()
_libc = ctypes.CDLL(None, use_errno=True)


class Job(Generic[T]):
    """A function that runs in a process of its own."""

    def __init__(self, pid: int, answer: int) -> None:
        self.pid, self._answer = pid, answer

    def result(self) -> T:
        """Wait for it. Raises what it raised."""
        with os.fdopen(self._answer, "rb") as stream:
            data = stream.read()
        os.waitpid(self.pid, 0)
        ok, value = pickle.loads(data)
        if not ok:
            raise value
        answer: T = value
        return answer

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._answer)


class Computer:
    """`eth0` is up and on the bridge, with no address but its link-local one."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, *words: str) -> str:
        """ip(8) in the namespace. Raises RuntimeError."""
        return command("ip", "-n", self.name, *words)

    def run(self, *words: str) -> str:
        """Any program in the namespace. Raises RuntimeError."""
        return command("ip", "netns", "exec", self.name, *words)

    def call(self, function: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """In a process of its own, as an operation has one. Raises what it raises."""
        return self.start(function, *args, **more).result()

    def start(self, function: Callable[P, T], *args: P.args, **more: P.kwargs) -> Job[T]:
        """The same in the background."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                answer: tuple[bool, Any]
                try:
                    enter(self.name)
                    answer = (True, function(*args, **more))
                except BaseException as error:  # noqa: BLE001 - handed to the test, whatever it is
                    traceback.print_exc()
                    answer = (False, error)
                with os.fdopen(writing, "wb") as stream:
                    pickle.dump(answer, stream)
            finally:
                os._exit(0)
        os.close(writing)
        return Job(pid, reading)

    @property
    def mac(self) -> str:
        return self.run("cat", "/sys/class/net/eth0/address").strip()

    def addresses(self) -> str:
        return self.ip("address", "show")

    def processes(self) -> list[int]:
        return [int(each) for each in command("ip", "netns", "pids", self.name).split()]


@contextlib.contextmanager
def lan(*names: str) -> Iterator[dict[str, Computer]]:
    """Computers by name, and "switch", which has the bridge `br0`. All gone in the end, with all that runs in them."""
    prefix = f"vip{os.getpid()}-{next(_numbers)}-"
    computers = {name: Computer(prefix + name) for name in ("switch", *names)}
    try:
        for computer in computers.values():
            command("ip", "netns", "add", computer.name)
            computer.ip("link", "set", "lo", "up")
        switch = computers["switch"]
        switch.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        switch.ip("link", "set", "br0", "up")
        for name in names:
            plug(computers, name)
        yield computers
    finally:
        for computer in computers.values():
            with contextlib.suppress(RuntimeError):  # it was never made
                while pids := computer.processes():  # what one of them was just starting as well
                    for pid in pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                command("ip", "netns", "del", computer.name)


def plug(computers: dict[str, Computer], name: str) -> None:
    """Give it an `eth0` on the bridge."""
    there, switch = computers[name].name, computers["switch"]
    peer = ["peer", "name", "eth0", "netns", there]
    switch.ip("link", "add", f"to-{name}", "type", "veth", *peer)
    switch.ip("link", "set", f"to-{name}", "master", "br0", "up")
    computers[name].ip("link", "set", "eth0", "up")


def enter(name: str) -> None:
    """setns(2) to the named network namespace."""
    descriptor = os.open(Path("/run/netns", name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {name}")
    finally:
        os.close(descriptor)


def command(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=GENEROUS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
