"""On what a process hangs, in words for a person. Reads /proc only, and never hangs along.

Nothing that the process uses is opened or asked for (a hanging mount would hang us as well): the links in /proc/PID/fd
and /proc/PID/cwd are resolved from memory, no file system is asked (proc(5)). Some files of /proc wait for locks of the
process (cmdline and syscall: mmap_lock, exec_update_lock), which one in D state may hold for ever; that wait ends with
the waiting process (Linux 5.3), so they are read by a thread that is given up after a while.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .clock import boottime
from .command import describe, proc_stat
from .containment import Cgroups
from .mounts import mounts

#: So many processes are looked at closely, and so many open files of each are named.
PROCESSES, FILES = 8, 4
#: So many of a command that had to be killed.
NEWEST = 3
#: Seconds for all of them together: an operation has 0.3 s left when it explains itself.
PATIENCE = 0.2
_COMMAND = 80  # characters

#: System calls that are likely to hang, by number: asm/unistd_64.h and asm-generic/unistd.h. The first argument of
#: those in the first group is a descriptor.
_ON_FILE = "read write close fstat ioctl pread64 pwrite64 flock fsync fdatasync getdents64 fstatfs syncfs"
_OTHER = "openat newfstatat statx statfs unlinkat renameat2 sync mount umount2 wait4 clock_nanosleep futex connect"
_NUMBERS = {
    "x86_64": "0 1 3 5 16 17 18 73 74 75 217 138 306 257 262 332 137 263 316 162 165 166 61 230 202 42",
    "aarch64": "63 64 57 80 29 67 68 32 82 83 61 44 267 56 79 291 43 35 276 81 40 39 260 115 98 203",
}
_NAMES = dict(
    zip(
        map(int, _NUMBERS.get(os.uname().machine, "").split()),
        f"{_ON_FILE} {_OTHER}".split(),
        strict=False,  # another machine: its numbers have no names
    )
)


def processes(
    pids: Iterable[int], seconds: float = PATIENCE, look: Callable[[int], str] | None = None
) -> tuple[str, ...]:
    """One text for each: "pid 12 (umount /srv), state D in rpc_wait_bit_killable, in umount2; works in /srv; open:
    /srv/a; on /srv (nfs4 host:/a)". Blocks at most about `seconds`; who is not understood by then, and all but the
    first PROCESSES, are only named with state and wchan."""
    listed, end = list(pids), boottime() + seconds
    found: dict[int, str] = {}

    def inspect(pid: int) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended, or is another user's: named without details
            # names of files and mounts need not be UTF-8; what is told goes into JSON and to terminals
            found[pid] = (look or closely)(pid).encode(errors="replace").decode()

    threads = [threading.Thread(target=inspect, args=(pid,), daemon=True) for pid in listed[:PROCESSES]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - boottime()))
    return tuple(found.get(pid) or describe(pid) for pid in listed)


def newest(leader: int) -> tuple[str, ...]:
    """The last NEWEST processes of the session that `leader` has made (setsid(2)): what a script waits for is younger
    than the script. Blocks as `processes`."""
    found = []
    for pid in (int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()):
        stat = proc_stat(pid)
        if stat is not None and stat.session == leader and stat.state not in "ZX":
            found.append((stat.start_time, pid))
    return processes(pid for _, pid in sorted(found, reverse=True)[:NEWEST])


def operations(cgroup: str, package: str, *, everything: bool) -> tuple[str, ...]:
    """The processes of the operations of `package` that run now; `everything`: of ended ones as well (services, what a
    stop left). `cgroup`: see Incarnation; "" (there are none): nothing can be told. Blocks as `processes`."""
    if not cgroup:
        return ()
    places = Cgroups(Path(cgroup)).members(package).values()
    return processes(pid for pids in places if everything or any(map(_operates, pids)) for pid in pids)


def _operates(pid: int) -> bool:
    stat = proc_stat(pid)
    return stat is not None and stat.name.startswith("btw-")  # as the zygote calls them


def closely(pid: int) -> str:
    """All that can be told of one process. May block: see above. Raises OSError."""
    text = describe(pid)
    if command := _command(pid):
        text = re.sub(r"\(.*?\)", lambda _: f"({command})", text, count=1)
    files = dict(_files(pid))
    used = [*files.values()]
    if doing := _call(pid, files):
        text += f", in {doing}"
    with contextlib.suppress(OSError):  # a zombie has none
        if (directory := str(Path(f"/proc/{pid}/cwd").readlink())) != "/":
            text += f"; works in {directory}"
            used.append(directory)
    names = list(dict.fromkeys(files.values()))
    if names:
        more = f" and {len(names) - FILES} more" if len(names) > FILES else ""
        text += f"; open: {', '.join(names[:FILES])}{more}"
    mounts = list(dict.fromkeys(filter(None, (_mount(path) for path in used))))
    return text + (f"; on {', '.join(mounts[:FILES])}" if mounts else "")


def _command(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
    text = re.sub(r"\s+", " ", words.decode(errors="replace"))
    return text if len(text) <= _COMMAND else text[: _COMMAND - 1] + "…"


def _files(pid: int) -> Iterator[tuple[int, str]]:
    """Descriptor and path of what is open and has a place in a file system."""
    for link in sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda each: int(each.name)):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            path = str(link.readlink())
            if path.startswith("/") and not path.startswith(("/dev/", "/proc/", "/sys/", "/memfd:")):
                yield int(link.name), path


def _call(pid: int, files: dict[int, str]) -> str:
    """ "fsync of /srv/a"; "" when it runs or that cannot be told."""
    try:
        words = Path(f"/proc/{pid}/syscall").read_text().split()
    except OSError:  # only root may read it, and not every kernel has it
        return ""
    if len(words) < 2:  # "running"
        return ""
    name = _NAMES.get(int(words[0]))
    if name is None:
        return f"system call {words[0]}" if int(words[0]) >= 0 else ""  # -1: in the kernel, but in no call
    path = files.get(int(words[1], 16)) if name in _ON_FILE.split() else None
    return f"{name} of {path}" if path else name


def _mount(path: str) -> str:
    """The mount that holds it, "/srv (nfs4 host:/a)"; "" for the root file system."""
    best, text = 1, ""
    for mount in mounts():
        point = mount.point
        if len(point) >= best and point != "/" and (path == point or path.startswith(f"{point}/")):
            best, text = len(point), f"{point} ({mount.kind} {mount.source})"
    return text
