"""Where the embedded store may live, and the guard that keeps one generation of its file in use at a time.

Every open store holds a shared flock(2) on a guard file in the runtime directory, named by a hash of the lock file's
real path; the guard says which file (boot, device, inode) it stands for. A lock file is made, or another one taken
into use in its place, only under the exclusive flock: when no manager is left on the former one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import re
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from .clock import boot_id
from .mounts import Mount, mounts

FileId = tuple[int, int]

_NETWORK = re.compile(
    r"nfs4?|cifs|smb3|smbfs|9p|virtiofs|ceph|gfs2?|ocfs2|lustre|afs|coda|beegfs|orangefs|pvfs2|gpfs|vboxsf|vmhgfs"
    r"|hostfs|fuse|fuse\..*"
)


class Guard:
    """The flock on the guard file of one lock file: shared while the lock file is in use."""

    def __init__(self, runtime: Path, path: Path) -> None:
        self._path = path
        self._runtime = runtime
        self.file = runtime / f"store-{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.guard"
        self._fd = -1
        self._held: FileId | None = None  # the guard file that is locked

    def enter(self, renew: Callable[[Path], None], until: float) -> None:
        """Hold the shared lock, with the lock file there and named by the guard. `renew(path)` is called under the
        exclusive lock where there is no file, or an empty one, or another one than was in use before in this boot.
        Blocks until the monotonic instant `until` at most.
        Raises ValueError: other managers use a file that is gone from the path; and what `renew` raises."""
        try:
            while not self._try(renew):
                if time.monotonic() >= until:
                    raise ValueError(self._busy())
                time.sleep(random.uniform(0.005, 0.03))
        except BaseException:  # Ctrl-C included: no lock stays held; raised again
            self.close()
            raise

    def lost(self) -> bool:
        """Not held, or somebody deleted the guard file: the lock on it shuts out nobody any more."""
        return self._held is None or file_id(self.file) != self._held

    def holders(self) -> list[int]:
        """Processes with a lock on the guard, from /proc/locks (proc(5)); only those this pid namespace shows."""
        with suppress(OSError):  # without pids the message still says what to do
            found = self.file.stat()
            place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
            lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
            return sorted({int(line[4]) for line in lines if line[1] == "FLOCK" and line[5] == place})
        return []

    def close(self) -> None:
        """Lets go. May be repeated."""
        self._held = None
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _try(self, renew: Callable[[Path], None]) -> bool:
        """One attempt to enter; leaves nothing locked when it is False. After each lock everything is looked at
        again: a conversion is not atomic, and one that is refused loses the former lock (flock(2))."""
        self.close()
        _prepare(self._runtime)
        self._fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        opened = os.fstat(self._fd)
        mine = (opened.st_dev, opened.st_ino)

        found = file_id(self._path, empty=False)
        if (found is None or self._stands_for() != found) and self._flock(fcntl.LOCK_EX) and file_id(self.file) == mine:
            # No manager is left on a former file.
            found, former = file_id(self._path, empty=False), self._stands_for()
            if found is None or former not in (None, found):
                renew(self._path)
            found = file_id(self._path)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{boot_id()} {found[0]} {found[1]}".encode() if found else b"", 0)
        # Refused above: managers are left on a former file, or others are opening at this very moment: those pass.
        if self._flock(fcntl.LOCK_SH) and found is not None and self._stands_for() == found == file_id(self._path):
            self._held = mine
        if self.lost():
            self.close()
        return self._held is not None

    def _flock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _stands_for(self) -> FileId | None:
        """Not across boots: device numbers may change, and a file in a /tmp that stays knows nothing of that."""
        words = os.pread(self._fd, 100, 0).decode().split()
        return (int(words[1]), int(words[2])) if len(words) == 3 and words[0] == boot_id() else None

    def _busy(self) -> str:
        what = "gone" if file_id(self._path, empty=False) is None else "another one than before,"
        pids = ", ".join(str(pid) for pid in self.holders())
        return (
            f"lock file {self._path} is {what} but a manager still uses the former one"
            f"{f' (pids {pids})' if pids else ''}: stop it first"
        )


def default_runtime() -> Path:
    """Where guards live: /run/btw for root; $XDG_RUNTIME_DIR/btw, /run/user/UID/btw or /tmp/btw-UID for others."""
    uid = os.geteuid()
    if uid == 0:
        return Path("/run/btw")
    for place in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"):
        if place and Path(place).is_dir():
            return Path(place, "btw")
    return Path(f"/tmp/btw-{uid}")


def file_system(path: Path, there: Iterable[Mount]) -> str:
    """The type of the file system that holds the absolute `path`."""
    best, kind = -1, ""
    for mount in there:
        depth = len(Path(mount.point).parts)
        if depth >= best and path.is_relative_to(mount.point):  # of equals the last one is on top
            best, kind = depth, mount.kind
    return kind


def refuse_bad_place(path: Path, mountinfo: Path) -> None:
    """Raises ValueError with the remedy when a lock file cannot live at the real path `path`."""
    parent = path.parent
    if not parent.is_dir():
        raise ValueError(f"lock file {path}: the directory {parent} does not exist: create it (mkdir -p {parent})")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"lock file {path}: the directory {parent} is not writable for uid {os.geteuid()}")
    kind = file_system(path, mounts(mountinfo))
    if _NETWORK.fullmatch(kind):
        raise ValueError(
            f"lock file {path} is on a network file system ({kind}), where locks do not hold between computers:"
            " use a local disk for one computer, or a lock plugin (such as btw-lock-etcd) for several"
        )
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise ValueError(f"lock file {path} is {what}: name a file, such as {path / 'local.db'}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise ValueError(f"lock file {path} cannot be read and written by uid {os.geteuid()}: chown it, or run as root")


def _prepare(runtime: Path) -> None:
    """Make the directory of guards, or refuse one that others could tamper with."""
    try:
        runtime.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
        found = runtime.lstat()
    except OSError as error:
        raise ValueError(f"runtime directory {runtime} cannot be made: {error}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ValueError(
            f"runtime directory {runtime} must be a directory that belongs to uid {os.geteuid()} and that nobody else"
            f" can write (found uid {found.st_uid}, mode {stat.filemode(found.st_mode)}): remove it"
        )


def file_id(path: Path, *, empty: bool = True) -> FileId | None:
    """Device and inode; None when there is nothing (or, on demand, nothing in it). Never opens the file: closing a
    second descriptor would drop SQLite's locks on it (fcntl(2), advisory record locks)."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (found.st_dev, found.st_ino) if empty or found.st_size else None
