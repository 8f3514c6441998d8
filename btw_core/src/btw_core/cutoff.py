"""What is up here and should not be: ended by the keeper without asking anybody. Standard library only.

These are the keeper's own few lines for what `containment` does for operations: it must not depend on what a plugin, a
store or a struct library does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from .clock import boottime
from .pulse import start_of

#: The kernel's door to SysRq (Documentation/admin-guide/sysrq.rst). Root may always use it: the value of
#: /proc/sys/kernel/sysrq is for keyboards.
SYSRQ = Path("/proc/sysrq-trigger")
#: The kernel's own log: consoles, pstore and netconsole have it also when no disk answers.
KMSG = Path("/dev/kmsg")


class Home(NamedTuple):
    """Where the operations of a node are. `cgroup` "": there are no cgroups, environments tell."""

    home: str
    cgroup: str


class Trigger:
    """Reboots the computer at once, without syncing or unmounting anything: /proc/sysrq-trigger, opened beforehand."""

    def __init__(self, path: Path = SYSRQ, log: Path = KMSG) -> None:
        """Raises OSError: it is not there (a container, a kernel without CONFIG_MAGIC_SYSRQ), or not for this user."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._log = log

    def pull(self, cause: str) -> None:
        """Says why in the kernel's log. Does not return where it works. Raises OSError."""
        with contextlib.suppress(OSError):  # a kernel without it
            descriptor = os.open(self._log, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                os.write(descriptor, f"<1>{cause[:900]}\n".encode())  # 1: "action must be taken immediately"
            finally:
                os.close(descriptor)
        os.write(self._descriptor, b"b")

    def close(self) -> None:
        os.close(self._descriptor)


def cut_off(home: Home, packages: Collection[str], patience: float) -> list[int]:
    """SIGKILL to every process of the packages' operations on this node, until none is left or `patience` seconds have
    passed. Returns who is left (D state). Blocks; may hang on a process in D state where there are no cgroups
    (/proc/PID/environ needs its memory's lock), so it is called in a process of its own."""
    end = boottime() + patience
    while left := list(_members(home, packages)):
        for package in packages if home.cgroup else ():
            with contextlib.suppress(OSError):  # Linux before 5.14, or no such directory: one by one then
                Path(home.cgroup, package, "cgroup.kill").write_text("1")
        for pid, start in left:
            kill(pid, start)
        if boottime() >= end:
            break
        time.sleep(0.02)
    return [pid for pid, _ in left]


def kill(pid: int, start: int) -> None:
    """SIGKILL to exactly this process; nothing when it is gone. Does not wait."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # another user's cannot be ended, only named
        pidfd = os.pidfd_open(pid)
        try:
            if start_of(pid) == start:  # the descriptor is bound to whoever has the pid now
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def _members(home: Home, packages: Collection[str]) -> Iterator[tuple[int, int]]:
    """Pid and start time of every live process of theirs, also of managers that lived in another cgroup."""
    places = [f"/btw/{home.home}/{package}/" for package in packages]
    cookies = [f"BTW_PACKAGE={package}".encode() for package in packages]
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            theirs = any(place in f"{(entry / 'cgroup').read_text(errors='replace')}/" for place in places)
            if not theirs and not home.cgroup:
                said = (entry / "environ").read_bytes().split(b"\0")
                theirs = f"BTW_HOME={home.home}".encode() in said and any(cookie in said for cookie in cookies)
        except OSError:  # it has just ended; or it is another user's, who may not be ended either
            continue
        if theirs and (start := start_of(int(entry.name))):
            yield int(entry.name), start
