"""The node's memory, and a lock that one manager holds for its whole life.

Two files of JSON lines for each package; the last whole line counts. PKG.now is the last word, for the boot in which it
was written: a manager that is killed loses nothing of it, for the page cache outlives processes. PKG.json is on the
disk for good, and says what counts after a crash of the computer, when nothing is up any more: the highest term, and
whether the package is switched off here. So an fsync(2), which takes some ms on many disks, is not in the way of a
start or a release. Nor is a rename(2) over PKG.now, for which ext4 begins to write what is in it (`auto_da_alloc`,
ext4(5)): lines are appended, and one that a kill has torn is a save that has not been.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import sys
from pathlib import Path

import msgspec

from .clock import boot_id
from .types import Saved

#: Bytes of PKG.now after which it is written anew.
LARGEST = 64 * 1024


class Busy(Exception):
    """Another manager of this node has the package; the message names it."""


class FileDisk:
    """`ports.Disk` in `directory` (STATE/NODE), which is made when it is missing.

    PKG.lock is locked exclusively (flock(2)) from `lock` until `close` or the end of the process; children do not
    inherit it (O_CLOEXEC). Whoever holds it knows that the package's former managers on this node are dead."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._locks: dict[str, int] = {}
        self._written: dict[str, bytes] = {}  # by this object: what its files hold
        self._durable: dict[str, tuple[int, str]] = {}

    def lock(self, package: str) -> None:
        """Does not block. Raises Busy with the holder's name, OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / f"{package}.lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                opened, there = os.fstat(descriptor), path.stat()
            except BlockingIOError:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                os.close(descriptor)
                raise Busy(
                    f"package {package} is already managed on node {self.directory.name} by {holder}: "
                    f"see `btw status {package}`, end it with `btw stop {package} --node {self.directory.name}`"
                ) from None
            except FileNotFoundError:  # removed since it was opened: the lock on it would shut out nobody
                os.close(descriptor)
                continue
            if os.path.samestat(opened, there):
                break
            os.close(descriptor)
        self._locks[package] = descriptor
        os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):  # a full disk: the holder's name is for messages only
            os.pwrite(descriptor, f"pid {os.getpid()} ({_command_line()})\n".encode(), 0)

    def elsewhere(self, package: str) -> bool:
        """Another manager of this node has the package. Does not block."""
        try:
            descriptor = os.open(self.directory / f"{package}.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # no manager of this node has ever had it
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def load(self, package: str) -> Saved | None:
        """See `ports.Disk`. Raises ValueError (damaged, with the remedy)."""
        news = damage = None
        try:
            news = _read(self._path(package).with_suffix(".now"), package)
        except ValueError as error:
            damage = error
        if news is not None and news.incarnation.boot == boot_id():
            return news  # all that the other one has, whatever became of that
        lasting = _read(self._path(package), package)
        if damage is not None and lasting is not None and lasting.incarnation.boot == boot_id():
            raise damage  # both were written whole in this boot
        return lasting  # the news, if any, were torn by a crash of the computer

    def known(self, package: str, *, here: bool = False) -> bool:
        """See `ports.Disk`. Looks into the memory of every node beside this one."""
        name, where = glob.escape(package), glob.escape(self.directory.name) if here else "*"
        for path in (each for end in ("json", "now") for each in self.directory.parent.glob(f"{where}/{name}.{end}")):
            try:
                saved = _read(path, package)
            except ValueError:  # whatever it is, it is about this package
                return True
            if saved is not None and (saved.term > 0 or saved.may_be_up):
                return True
        return False

    def save(self, package: str, saved: Saved, *, durable: bool = True) -> None:
        """See `ports.Disk`. Blocks for two fsyncs when what lasts has changed, and hardly otherwise. Raises OSError;
        then the file that it names still has its former content."""
        data, path = msgspec.json.encode(saved) + b"\n", self._path(package)
        former = self._written.pop(package, None)
        if former is None:  # the last line may be torn: another life's, or of a save that failed
            self._write(path.with_suffix(".now"), data, lasting=False)
        elif former != data:
            self._append(path.with_suffix(".now"), data)
        self._written[package] = data
        if durable and self._durable.get(package) != saved.lasting:
            self._write(path, data, lasting=True)
            self._durable[package] = saved.lasting

    def _append(self, path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size + len(data) > LARGEST:
                self._write(path, data, lasting=False)
            elif os.write(descriptor, data) < len(data):
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error  # write(2) names no file
        finally:
            os.close(descriptor)

    def _write(self, path: Path, data: bytes, *, lasting: bool) -> None:
        temporary = path.with_suffix(".tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
            temporary.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):  # the first error is the one that counts
                temporary.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from error  # write(2) and fsync(2) name no file
        if lasting:
            directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)  # the new name is durable only with its directory (fsync(2))
            finally:
                os.close(directory)

    def close(self) -> None:
        """Let go of every lock. May be repeated."""
        while self._locks:
            os.close(self._locks.popitem()[1])

    def _path(self, package: str) -> Path:
        return self.directory / f"{package}.json"


def _read(path: Path, package: str) -> Saved | None:
    try:
        return msgspec.json.decode(path.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2], type=Saved)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # an OSError: of this file, as a bad sector is
        raise ValueError(
            f"{path} is damaged ({error}): what this node had begun for {package} is not known. Make sure that "
            f"{package} is down here, then: mv {path} {path}.damaged (its lock, if it was held, has to run out)"
        ) from error


def _command_line() -> str:
    return " ".join(["btw", *sys.argv[1:]])[:150]
