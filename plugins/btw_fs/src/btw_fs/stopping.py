"""Stop of an `fs`: unmount first, look for users only when it is busy, never lazily."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from pathlib import Path

from btw_core import Context, Failed
from btw_core.clock import boottime
from btw_core.command import describe, proc_stat
from btw_core.containment import kill_process
from btw_core.explain import processes
from btw_core.resource import Process

from . import holders, kernel
from .child import Hung, call
from .fs import Fs
from .holders import Found
from .mountinfo import Table
from .placing import remembered, target_of
from .target import Kind, Target

#: Seconds for the last system call, should the time be over when it begins.
BRIEF = 0.2
#: Seconds kept for saying what still holds it.
RESERVE = 1.5
#: Seconds between two tries while users end.
PAUSE, LONGEST = 0.02, 0.5
#: Seconds that a plain unmount of a network file system may take before its requests are given up (MNT_FORCE).
POLITE = 5.0


def stop(fs: Fs, ctx: Context) -> None:
    """See `Fs.stop`. Blocks until it is unmounted, `ctx.remaining()` at most. Raises Failed with who holds it."""
    _Stop(fs, ctx).run()
    ctx.state.clear()


class _Stop:
    def __init__(self, fs: Fs, ctx: Context) -> None:
        self.fs, self.ctx = fs, ctx
        self.began = boottime()
        self.end = self.began + min(ctx.remaining(), 3600.0)
        self.end -= min(RESERVE, (self.end - self.began) / 4)
        self.target: Target | None = None
        self.told: set[int] = set()  # processes that were named
        self.termed: set[int] = set()
        self.found = Found((), (), ())
        self.force = False
        self.freed: set[str] = set()

    def run(self) -> None:
        pause = PAUSE
        while True:
            table = kernel.table()
            target = target_of(self.fs, self.ctx, table)
            busy = self._unmount(target, table)
            if not busy and target.everywhere(kernel.table()):
                busy = "is still mounted"
            if not busy and self._alive(target):
                busy = self._unmount_copies(target) or "it is in use without being mounted here"
            if not busy:
                return
            if boottime() >= self.end:
                raise Failed(self._words(busy))
            self._clear(target, kernel.table())
            if target.forceable and not self.force:
                self._give_up()
            self._pause(pause)
            pause = min(LONGEST, 1.5 * pause)

    def _left(self) -> float:
        return max(BRIEF, self.end - boottime())

    # ---- unmounting
    def _unmount(self, target: Target, table: Table) -> str:
        """Everything that is ours here. Returns what is busy, "" when nothing is left."""
        busy = ""
        for mount in target.everywhere(table):
            cover = table.cover(mount)
            if cover is not None and not any(each.id == cover.id for each in target.everywhere(table)):
                raise Failed(
                    f"{mount.point}: covered by the mount of {cover.source} on {cover.point}, which is not the "
                    f"package's; unmount that first: umount {cover.point}"
                )
            busy = busy or self._one(mount.point, target)
        return busy

    def _one(self, point: str, target: Target, inside: int = 0) -> str:
        """Unmount one place, `inside`: in that process's mount namespace."""

        def act() -> None:
            if inside:
                kernel.enter(inside)
            kernel.unmount(point, force=self.force)

        limit = min(POLITE, self._left() / 3) if target.forceable and not self.force else self._left()
        where = f"{point} in the mount namespace of pid {inside}" if inside else point
        try:
            call(f"umount {where}", act, max(BRIEF, limit))
        except Hung as hung:
            if target.forceable and not self.force:
                self.force = True
                self.ctx.log(f"{hung}; its requests are given up now (umount -f)")
                return str(hung)
            raise Failed(f"{hung}; {self._words('not unmounted')}") from None
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ESRCH):
                return ""  # somebody else was faster; the next reading tells
            if error.errno == errno.EPERM:
                raise Failed(f"umount {where}: {error.strerror}; btw must run as root") from None
            return f"umount {where}: {error.strerror}"
        return ""

    def _alive(self, target: Target) -> bool:
        """Its superblock serves somebody who is not seen here: another mount namespace, a lazily unmounted place."""
        known = remembered(self.ctx)
        if target.kind is Kind.NETWORK:
            return bool(known and holders.copies(target, frozenset(target.numbers)))
        if target.kind is not Kind.BLOCK:
            return False
        device = self._device(target)
        if device == "" or _stacked(device):
            return False
        try:
            call(f"open {device}", lambda: _claim(device), self._left())
        except OSError as error:
            if error.errno == errno.EBUSY:
                return True
            self.ctx.log(f"{device}: {error.strerror}: whether it is still in use cannot be asked")
        return False

    def _device(self, target: Target) -> str:
        for number in sorted(target.numbers):
            with contextlib.suppress(OSError):
                return kernel.node(number)
        return ""

    def _unmount_copies(self, target: Target) -> str:
        busy = ""
        for copy in holders.copies(target, target.numbers):
            busy = busy or self._one(copy.point, target, inside=copy.pid)
        return busy

    # ---- users
    def _clear(self, target: Target, table: Table) -> None:
        """Find who uses it, name them once, signal them."""
        here = target.everywhere(table)
        numbers = {mount.number for mount in here if target.is_(mount)} | set(target.numbers)
        self.found = holders.find(target, table, numbers)
        for holder in self.found.processes:
            if holder.pid not in self.told:
                self.told.add(holder.pid)
                self.ctx.log(f"{self.fs.directory} is busy: {holder}")
        for text in self.found.kernel:
            if text not in self.freed:
                self.freed.add(text)
                self.ctx.log(f"{self.fs.directory} is busy: {text}")
        if self.fs.kill_users == "never":
            return
        for name in self.found.looped:
            self._free(name, target, table)
        half = self.began + (self.end - self.began) / 2
        last = self.fs.kill_users == "kill" and boottime() >= half
        spared = _protected()
        for holder in self.found.processes:
            if holder.pid not in spared and (last or holder.pid not in self.termed):
                self.termed.add(holder.pid)
                very = Process(pid=holder.pid, start_time=holder.start_time)
                with contextlib.suppress(PermissionError):  # it stays, and is named
                    kill_process(very, signal.SIGKILL if last else signal.SIGTERM)

    def _give_up(self) -> None:
        """Who was killed and still waits for a server that does not answer keeps it busy, and an unmount that finds it
        busy never hangs. Nothing is lost that the process could still save."""
        dying = [tid for holder in self.found.processes for tid in _hanging(holder.pid) if _killed(tid)]
        if dying and boottime() - self.began >= min(POLITE, (self.end - self.began) / 3):
            self.force = True
            seen = "; ".join(map(describe, dying[:4]))
            self.ctx.log(f"killed, and still waiting for the server: {seen}; requests are given up now (umount -f)")

    def _free(self, loop: str, target: Target, table: Table) -> None:
        """A loop device on one of our files is a mount more that is nested."""
        number = Path(f"/dev/{loop}").stat().st_rdev
        for mount in reversed(table.mounts):
            if mount.number == (os.major(number), os.minor(number)):
                self._one(mount.point, target)
        with contextlib.suppress(OSError):  # still mounted somewhere: the next round names it again
            kernel.detach(f"/dev/{loop}")

    def _pause(self, seconds: float) -> None:
        """Until a user has ended, at most so long."""
        watched: list[int] = []
        for holder in self.found.processes[:64]:
            with contextlib.suppress(OSError):
                watched.append(os.pidfd_open(holder.pid))
        try:
            select.select(watched, [], [], max(0.0, min(seconds, self.end - boottime())))
        finally:
            for descriptor in watched:
                os.close(descriptor)

    def _words(self, busy: str) -> str:
        """What still holds it."""
        text = f"{self.fs.directory}: {busy}"
        if str(self.found):
            text += f"; used by: {self.found}"
            stuck = [tid for each in self.found.processes for tid in _hanging(each.pid)]
            if stuck:
                text += f"; in state D: {'; '.join(processes(stuck[:4]))}"
            if self.fs.kill_users != "kill":
                text += f'; kill_users = "{self.fs.kill_users}" lets them be'
        else:
            text += "; nobody is found who uses it: see `lsof`, or a mount namespace that no process is in"
        return text


def _claim(device: str) -> None:
    """Raises OSError, EBUSY when somebody has it. May block while its disk does not answer."""
    if kernel.held(device):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _stacked(device: str) -> bool:
    """Device-mapper or md is made of it: then that has claimed it."""
    holding = Path(f"/sys/class/block/{device.removeprefix('/dev/')}/holders")
    return holding.is_dir() and any(holding.iterdir())


def _protected() -> set[int]:
    """This process, its ancestors (zygote, manager, keeper) and pid 1."""
    found, pid = {1}, os.getpid()
    while pid > 1:
        found.add(pid)
        try:
            with open(f"/proc/{pid}/stat", errors="replace") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found


def _hanging(pid: int) -> list[int]:
    """Its threads in state D. Each has a place of its own in /proc, though nobody lists it there."""
    found = []
    with contextlib.suppress(OSError):  # it ends
        tids = [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
        found = [tid for tid in sorted(tids) if (stat := proc_stat(tid)) is not None and stat.state == "D"]
    return found


def _killed(tid: int) -> bool:
    """SIGKILL waits for it (proc(5), "SigPnd")."""
    waiting = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{tid}/status").read_text(errors="replace").splitlines():
            if line.startswith(("SigPnd:", "ShdPnd:")):
                waiting |= int(line.split()[1], 16)
    return bool(waiting >> (signal.SIGKILL - 1) & 1)
