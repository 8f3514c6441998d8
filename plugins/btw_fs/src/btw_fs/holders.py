"""Who uses a mount: processes by what /proc says of them, and what in the kernel needs no process.

Matched by mount ID (fdinfo, statx) and device number (maps), in all mount namespaces, never by the beginning of a path.
Nothing of the file system itself is asked; still a look at one process may block (a dead network mount revalidates on
the way, `maps` waits for mmap_lock): the walk runs in a thread that is left behind when it stands still, and goes on
with the next process. A process that cannot be looked at is told by its state, and matched by what its links read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from btw_core.command import describe, proc_stat

from . import sockets
from .kernel import Where, swaps, table, where
from .mountinfo import Number, Table, plain
from .target import Target

#: Seconds for one step of the walk.
PATIENCE = 0.1
#: Uses of one process that are named, and characters of its command.
USES, COMMAND = 3, 80
_PF_KTHREAD = 0x00200000
_LOOP_GET_STATUS64 = 0x4C05


class Holder(NamedTuple):
    """A process (pid and start time name it for ever), and what it does there."""

    pid: int
    start_time: int
    text: str  # "pid 12 (tail -f log): /srv/log is open"

    def __str__(self) -> str:
        return self.text


class Found(NamedTuple):
    """`kernel`: what keeps it busy without a process, each with its remedy. `looped`: loop devices on files of it."""

    processes: tuple[Holder, ...]
    kernel: tuple[str, ...]
    looped: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join([*map(str, self.processes[:8]), *self._more(), *self.kernel])

    def _more(self) -> list[str]:
        return [f"and {len(self.processes) - 8} more processes"] if len(self.processes) > 8 else []


class Copy(NamedTuple):
    """A mount of ours as the mount namespace of `pid` has it."""

    pid: int
    point: str
    id: int


class Sought(NamedTuple):
    """How a use is recognised. `numbers`: superblocks that are ours alone."""

    mounts: frozenset[int]
    numbers: frozenset[Number]  # of the superblock, whoever else has it
    exclusive: bool

    def is_(self, place: Where) -> bool:
        return place.mount in self.mounts or (self.exclusive and place.number in self.numbers)


def find(target: Target, here: Table, numbers: Iterable[Number]) -> Found:
    """Everything that uses our mounts, those in other mount namespaces as well. `numbers`: of their superblocks. Blocks
    for the walk through /proc (1 ms for 10 processes), and PATIENCE for each process that cannot be looked at."""
    known = frozenset(numbers)
    mounts = {each.id for each in target.everywhere(here)} | {copy.id for copy in copies(target, known)}
    sought = Sought(frozenset(mounts), known, target.exclusive)
    looped = tuple(_loops(sought))
    on_loops = {_number(name) for name in looped}  # who uses what is mounted of them uses ours
    mounts |= {each.id for each in here if each.number in on_loops}
    sought = Sought(frozenset(mounts), known, target.exclusive)
    owners = sockets.bound(known) if target.exclusive else {}
    processes = tuple(_walk(lambda pid: _process(pid, sought, owners), lambda pid: _by_links(pid, sought)))
    kernel = [f"loop device /dev/{name} is on a file of it: losetup -d /dev/{name}" for name in looped]
    return Found(processes, (*kernel, *_swap(sought), *_exported(sought)), looped)


def copies(target: Target, numbers: frozenset[Number]) -> list[Copy]:
    """Our file system in other mount namespaces, as seen by one process in each, the innermost mount first."""
    own = _namespace(os.getpid())
    seen = {own} if own else set()
    found: list[Copy] = []
    for pid in pids():
        key = _namespace(pid)
        if key is None or key in seen:
            continue
        seen.add(key)
        with contextlib.suppress(OSError, ValueError):  # it has ended
            for mount in reversed(table(f"/proc/{pid}/mountinfo").mounts):
                if mount.number in numbers and target.is_(mount) and all(mount.id != copy.id for copy in found):
                    found.append(Copy(pid, mount.point, mount.id))
    return found


def pids() -> list[int]:
    """Every process, but not kernel threads nor those that have ended."""
    found = []
    for entry in _names("/proc"):
        if entry.isdigit() and not _kernel_thread(int(entry)):
            found.append(int(entry))
    return sorted(found)


def _kernel_thread(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return True
    return bool(int(fields[6]) & _PF_KTHREAD)


def _namespace(pid: int) -> tuple[str, str] | None:
    """Its mount namespace and, for what it shows of it, its root."""
    try:
        return _link(f"/proc/{pid}/ns/mnt"), _link(f"/proc/{pid}/root")
    except OSError:
        return None


# ---- processes
class _Walker(threading.Thread):
    """Looks at one process after the other; `at` is the one that it is looking at."""

    def __init__(self, todo: list[int], look: Callable[[int], Holder | None]) -> None:
        super().__init__(daemon=True)
        self.todo, self.look = todo, look
        self.at, self.found = 0, list[Holder]()

    def run(self) -> None:
        while self.at < len(self.todo):
            holder = self.look(self.todo[self.at])
            if holder is not None:
                self.found.append(holder)
            self.at += 1


def _walk(look: Callable[[int], Holder | None], blind: Callable[[int], Holder | None]) -> Iterator[Holder]:
    """`look` may block; who is looked at when it does is left to `blind`."""
    todo = pids()
    while True:
        walker = _Walker(todo, look)
        walker.start()
        before = -1
        while walker.is_alive() and walker.at != before:
            before = walker.at
            walker.join(PATIENCE)
        alive, at = walker.is_alive(), walker.at
        yield from list(walker.found)
        if not alive:
            return
        holder = blind(todo[at])
        if holder is not None:
            yield holder
        todo = todo[at + 1 :]


def _process(pid: int, sought: Sought, owners: dict[int, str]) -> Holder | None:
    stat = proc_stat(pid)
    if stat is None or (stat.state in "ZX" and not _threads(pid)):
        return None
    uses: dict[str, None] = {}
    with contextlib.suppress(OSError):  # it ends
        for use in _uses(pid, sought, owners):
            uses[use] = None
            if len(uses) == USES:
                break
    return Holder(pid, stat.start_time, f"pid {pid} ({command(pid)}): {', '.join(uses)}") if uses else None


def _uses(pid: int, sought: Sought, owners: dict[int, str]) -> Iterator[str]:
    """What it does with it; threads may have places and files of their own (unshare(2), CLONE_FS and CLONE_FILES)."""
    for number, place in enumerate(f"/proc/{pid}/task/{tid}" for tid in _threads(pid)):
        for link, text in (("cwd", "works in {}"), ("root", "has {} as its root"), ("exe", "runs {}")):
            if number == 0 or link != "exe":
                with contextlib.suppress(OSError):
                    if sought.is_(where(f"{place}/{link}")):
                        yield text.format(_link(f"{place}/{link}"))
        yield from _files(place, sought, owners)
    yield from _mapped(pid, sought)


def _threads(pid: int) -> list[str]:
    """Those that live, the first one first: where it has ended, the others have the files."""
    try:
        names = sorted(_names(f"/proc/{pid}/task"), key=int)
    except OSError:
        return []
    if len(names) == 1:
        return names if os.path.lexists(f"/proc/{pid}/exe") or _has_files(pid) else []
    return names


def _has_files(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(_names(f"/proc/{pid}/fd"))
    return False


def _files(place: str, sought: Sought, owners: dict[int, str]) -> Iterator[str]:
    for name in _names(f"{place}/fdinfo"):
        with contextlib.suppress(OSError):  # closed meanwhile
            if _mount_of(f"{place}/fdinfo/{name}") in sought.mounts:
                yield f"{_link(f'{place}/fd/{name}')} is open"
            elif sought.exclusive:
                link = _link(f"{place}/fd/{name}")
                if link.startswith("socket:[") and int(link[8:-1]) in owners:
                    yield f"listens at {owners[int(link[8:-1])]}"
                elif link.startswith(("/", "(")) and where(f"{place}/fd/{name}").number in sought.numbers:
                    yield f"{link} is open"  # of a mount that is in no namespace any more (umount -l)


def _mapped(pid: int, sought: Sought) -> Iterator[str]:
    for line in Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or fields[4] == "0":
            continue
        major, _, minor = fields[3].partition(":")
        if (int(major, 16), int(minor, 16)) not in sought.numbers:
            continue
        if not sought.exclusive:
            with contextlib.suppress(OSError):
                if not sought.is_(where(f"/proc/{pid}/map_files/{fields[0]}")):
                    continue
        yield f"{fields[5]} is mapped"


def _by_links(pid: int, sought: Sought) -> Holder | None:
    """For one that cannot be looked at: what is open by its mount ID, and other links, which are read without asking
    any file system, walked in the mounts that the process itself sees."""
    stat, uses = proc_stat(pid), []
    with contextlib.suppress(OSError, ValueError):  # it has ended
        theirs = table(f"/proc/{pid}/mountinfo")
        for link in ("cwd", "root", "exe") if _link(f"/proc/{pid}/root") == "/" else ():
            mount = theirs.holding(text := _link(f"/proc/{pid}/{link}"))
            uses += [text] if mount is not None and mount.id in sought.mounts else []
        for name in _names(f"/proc/{pid}/fdinfo"):
            if _mount_of(f"/proc/{pid}/fdinfo/{name}") in sought.mounts:
                uses.append(_link(f"/proc/{pid}/fd/{name}"))
    if stat is None or not uses:
        return None
    shown = ", ".join(uses[:USES])
    return Holder(pid, stat.start_time, f"{describe(pid)}: {shown}; more of it cannot be looked at")


def _mount_of(fdinfo: str) -> int:
    """Mount ID of an open file (proc(5))."""
    return int(Path(fdinfo).read_text().partition("mnt_id:")[2].split(maxsplit=1)[0])


def _link(path: str) -> str:
    """What a link reads: no file system is asked."""
    return str(Path(path).readlink())


def _names(directory: str) -> list[str]:
    return [each.name for each in Path(directory).iterdir()]


def command(pid: int) -> str:
    """What it was called with, in one line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
        text = re.sub(r"\s+", " ", words.decode(errors="replace")) or _comm(pid)
    except OSError:
        return "?"
    return text if len(text) <= COMMAND else text[: COMMAND - 1] + "…"


def _comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()


# ---- what needs no process
def _loops(sought: Sought) -> Iterator[str]:
    for backing in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        name = backing.parent.parent.name
        with contextlib.suppress(OSError):
            alone = sought.exclusive and _backed(name) in sought.numbers
            if alone or sought.is_(where(os.fsdecode(backing.read_bytes()).rstrip("\n"))):
                yield name


def _number(name: str) -> Number:
    """Of a loop device."""
    major, _, minor = Path(f"/sys/block/{name}/dev").read_text().strip().partition(":")
    return int(major), int(minor)


def _backed(name: str) -> Number:
    """Number of the file system that a loop device's file is on (loop(4))."""
    descriptor = os.open(f"/dev/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        (device,) = struct.unpack_from("=Q", fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(232)))
    finally:
        os.close(descriptor)
    return os.major(device), os.minor(device)


def _swap(sought: Sought) -> Iterator[str]:
    for path, kind in swaps().items():
        with contextlib.suppress(OSError):
            if kind == "file" and sought.is_(where(path)):
                yield f"swap file {path}: swapoff {path}"


def _exported(sought: Sought) -> Iterator[str]:
    with contextlib.suppress(OSError):  # no nfsd here
        for line in Path("/proc/fs/nfsd/exports").read_bytes().splitlines():
            path = plain(line.split(b"\t")[0])
            if path.startswith("/") and sought.is_(where(path)):
                yield f"{path} is exported by the NFS server: exportfs -u, or stop it before"
