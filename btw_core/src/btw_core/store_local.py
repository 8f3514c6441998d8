"""The embedded store: one SQLite file for all managers of one computer. Scheme `local`, place `local:PATH`.

What holds it together, beyond SQLite's own locking (WAL, synchronous=FULL, one BEGIN IMMEDIATE per write):

- *One file.* At every transaction PATH, PATH-wal and PATH-shm must still be the files that were opened. A process
  that goes on in an unlinked file, or beside another -shm, would not see the others (sqlite.org/howtocorrupt.html).
- *One generation.* A lock file is made only when no manager is left on a former one (`store_guard`).
- *One computer.* Network file systems are refused: their locks and memory maps are not shared between machines.
- *Records stay.* Triggers refuse DELETE, and revisions that do not grow.

The row `meta` holds the schema version and the boot id of the last opening; it is information for people: that a
holder lived in another boot is proved by the incarnation in its record.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from .clock import boot_id
from .hooks import hookimpl
from .mounts import MOUNTINFO
from .store import Conflict, Record, Store, StoreFactory, StoreUnavailable
from .store_guard import FileId, Guard, default_runtime, file_id, refuse_bad_place

T = TypeVar("T")

SCHEMA = 1
#: Seconds between two looks of a watch.
POLL = 0.05
#: Bytes that PATH-wal has at least, and as many free ones inside PATH: where updates go when the disk is full.
RESERVE = 64 * 1024
#: Bytes that must be free on the disk for a new record. One that fitted into -wal, but never into PATH, would keep
#: -wal from being begun anew, and so stop the updates.
ROOM = 1024 * 1024

_TABLES = f"""
CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), schema INTEGER, boot TEXT, reserve BLOB);
CREATE TABLE record (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL UNIQUE) WITHOUT ROWID;
INSERT INTO meta VALUES (1, {SCHEMA}, '', NULL);
"""
# Repeated at every opening: a file that lost its triggers (.dump and restore of the tables) gets them back.
_TRIGGERS = """
CREATE TRIGGER IF NOT EXISTS record_stays BEFORE DELETE ON record BEGIN
    SELECT RAISE(ABORT, 'btw records are never deleted: use btw unlock to free a package');
END;
CREATE TRIGGER IF NOT EXISTS record_grows BEFORE UPDATE ON record
    WHEN new.key <> old.key OR new.revision <= (SELECT max(revision) FROM record) BEGIN
    SELECT RAISE(ABORT, 'btw revisions only grow');
END;
CREATE TRIGGER IF NOT EXISTS record_is_new BEFORE INSERT ON record
    WHEN EXISTS (SELECT 1 FROM record WHERE key = new.key) OR new.revision <= (SELECT max(revision) FROM record) BEGIN
    SELECT RAISE(ABORT, 'btw revisions only grow');
END;
"""


@hookimpl
def btw_stores() -> Mapping[str, StoreFactory]:
    """The scheme `local`."""
    return {"local": _open}


def _open(path: str, settings: Mapping[str, Any]) -> Store:
    if settings:
        raise ValueError(f"[plugins.local] has {', '.join(settings)}, but the embedded store has no settings")
    return LocalStore(path)


class LocalStore:
    """`store.Store` in the SQLite file `path`, made when there is none. Opening blocks for some seconds at most.

    Deadlines hold against everything but a disk that hangs inside a system call (`store_port` holds that one).
    Raises ValueError (the place cannot be used, with the remedy) and StoreUnavailable (full, locked, I/O error).
    `patience` is how many seconds opening may wait for other openers and for locks; `runtime`, the directory of guard
    files, and `mountinfo` are for tests.
    """

    creates_itself = True

    def __init__(
        self,
        path: str,
        *,
        patience: float = 3.0,
        runtime: Path | None = None,
        mountinfo: Path = MOUNTINFO,
    ) -> None:
        if not path:
            raise ValueError('the lock "local:" needs a path, such as local:/var/lib/btw/local.db')
        self.path = Path(os.path.realpath(path))
        self.description = f"local:{self.path}"
        # The name as given, not resolved: a symbolic link that is turned elsewhere counts as replaced.
        self._names = (Path(path).absolute(), Path(f"{self.path}-wal"), Path(f"{self.path}-shm"))
        self._lock = threading.Lock()  # of the four below; never held over a system call on the file
        self._idle: list[sqlite3.Connection] = []
        self._busy = 0
        self._closed = False
        self._ended = threading.Event()
        self._writing = threading.Lock()  # writers of this process queue here: SQLite would let them poll
        self._guard_lock = threading.Lock()
        self._files: list[FileId | None] = []  # of the three names
        self._patience = patience
        refuse_bad_place(self.path, mountinfo)
        self._guard = Guard(runtime or default_runtime(), self.path)
        try:
            self._guard.enter(_renew, time.monotonic() + patience)
            self._anchor = self._open()
        except BaseException as error:
            self._guard.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise self._refusal(error) from error
            raise

    def get(self, key: str, *, deadline: float) -> Record | None:
        """The record, or None when there certainly is none."""
        with self._connection(deadline) as db:
            self._check()
            row = db.execute("SELECT key, value, revision FROM record WHERE key = ?", (key,)).fetchone()
        return None if row is None else Record(*row)

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        """Compare and swap in one transaction, on disk when it returns."""
        until = time.monotonic() + deadline
        if not self._writing.acquire(timeout=max(0.0, deadline)):
            raise StoreUnavailable(f"{self.description}: another write of this process took all of {deadline:g} s")
        try:
            with self._connection(until - time.monotonic()) as db:
                answer = _with_room(db, until, lambda: self._swap(db, key, value, expected))
                if expected is None:
                    _settle(db)
            return answer
        finally:
            self._writing.release()

    def watch(self, prefix: str, since: int) -> Iterator[list[Record]]:
        """Changed records newer than `since`, oldest first, within about POLL seconds; ends with StoreUnavailable."""
        with self._connection(1.0) as db:
            version, silent = None, 0.0
            while True:
                # Counts commits of all other connections, and this one never writes (sqlite.org/pragma.html).
                now = db.execute("PRAGMA data_version").fetchone()
                changed: list[Record] = []
                if now != version or silent >= 0.9:
                    self._check()  # not at each look: a third of what an idle node costs
                if now != version:
                    rows = db.execute(
                        "SELECT key, value, revision FROM record WHERE revision > ? AND key >= ? AND key < ?"
                        " ORDER BY revision",
                        (since, *_range(prefix)),
                    )
                    changed = [Record(*row) for row in rows]
                    version = now
                if changed or silent >= 0.9:
                    since = changed[-1].revision if changed else since
                    silent = 0.0
                    yield changed
                silent += POLL
                if self._ended.wait(POLL):
                    raise StoreUnavailable(f"{self.description}: closed")

    def close(self) -> None:
        """Frees everything (what is in use, once it comes back). May be repeated. Blocks for one checkpoint at most."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            idle, self._idle = self._idle, []
            last = self._busy == 0
        self._ended.set()
        for db in idle:
            db.close()
        if last:
            self._leave()

    def _leave(self) -> None:
        self._anchor.close()
        self._guard.close()

    @contextmanager
    def _connection(self, deadline: float) -> Iterator[sqlite3.Connection]:
        """A connection of this call alone. Errors of SQLite leave as StoreUnavailable."""
        with self._lock:
            if self._closed:
                raise StoreUnavailable(f"{self.description}: closed")
            self._busy += 1
            db = self._idle.pop() if self._idle else None
        sound = False
        try:
            if db is None:
                self._check()  # says it better than SQLite's "unable to open"
                db = self._connect()
            _be_patient(db, deadline)
            yield db
            sound = not db.in_transaction
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"{self.description}: {_reason(error, deadline)}") from error
        finally:
            if db is not None and not sound:
                db.close()  # rolls back
            self._give_back(db if sound else None)

    def _give_back(self, db: sqlite3.Connection | None) -> None:
        """The end of a call; after `close` the last one frees the rest."""
        with self._lock:
            self._busy -= 1
            last = self._closed and self._busy == 0
            if db is not None and not self._closed:
                self._idle.append(db)
                db = None
        if db is not None:
            db.close()
        if last:
            self._leave()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            _uri(self.path), uri=True, isolation_level=None, check_same_thread=False, timeout=self._patience
        )
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 100")  # pages: PATH-wal stays below half a megabyte
        return db

    def _open(self) -> sqlite3.Connection:
        """The first connection. It stays open: SQLite removes -wal and -shm with the last one."""
        before = file_id(self.path)
        db = self._connect()
        try:
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise ValueError(f"{self.path}: SQLite cannot use WAL here (it says {mode!r}): use a local file system")
            damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise ValueError(f"{self.path} is damaged ({damage}). {_REMEDY}")
            tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            row = None
            if {"meta", "record"} <= tables:
                row = db.execute("SELECT schema, boot FROM meta").fetchone()
            if row is None:
                raise ValueError(f"{self.path} is an SQLite database, but not a lock file of btw. {_REMEDY}")
            if row[0] > SCHEMA:
                raise ValueError(
                    f"{self.path} has schema version {row[0]}, this btw knows up to {SCHEMA}: upgrade btw-core here"
                )
            db.executescript(_TRIGGERS)
            self._files = [file_id(name) for name in self._names]
            if self._files[0] != before or None in self._files:
                raise StoreUnavailable(f"{self.description}: deleted or replaced while it was opened: try again")
            if row[1] != boot_id() or self._names[1].stat().st_size < RESERVE:
                until = time.monotonic() + self._patience
                change = "UPDATE meta SET boot = ?, reserve = ?"
                for reserve in (bytes(RESERVE), None):  # written and freed: the room stays in -wal and in the file
                    _with_room(db, until, partial(db.execute, change, (boot_id(), reserve)))
            _settle(db)
        except BaseException:  # Ctrl-C included: no connection stays open; raised again
            db.close()
            raise
        return db

    def _check(self) -> None:
        """Raises StoreUnavailable unless path, -wal and -shm are the files that were opened, and guarded."""
        for name, opened in zip(self._names, self._files, strict=True):
            if file_id(name) != opened:
                raise StoreUnavailable(
                    f"lock file {name} was deleted or replaced while in use; stop every btw on this computer, then"
                    f" start again (only then may a new one be made)"
                )
        if self._guard.lost():
            with self._guard_lock:
                if self._guard.lost():
                    try:
                        self._guard.enter(_never, time.monotonic() + 0.5)
                    except (ValueError, OSError) as error:
                        raise StoreUnavailable(
                            f"{self.description}: its guard file was deleted and cannot be made again: {error}"
                            " (a runtime directory of a user ends with the last login: loginctl enable-linger)"
                        ) from error

    def _swap(self, db: sqlite3.Connection, key: str, value: bytes, expected: int | None) -> int | Conflict:
        db.execute("BEGIN IMMEDIATE")
        self._check()
        row = db.execute("SELECT revision FROM record WHERE key = ?", (key,)).fetchone()
        if (None if row is None else row[0]) != expected:
            db.execute("ROLLBACK")
            return Conflict()
        revision: int = db.execute("SELECT coalesce(max(revision), 0) + 1 FROM record").fetchone()[0]
        if expected is None:
            free = os.statvfs(self.path)
            if free.f_bavail * free.f_frsize < ROOM:
                raise StoreUnavailable(
                    f"{self.description}: the disk is full: a new record needs {ROOM >> 20} MiB free there"
                )
            db.execute("INSERT INTO record (key, value, revision) VALUES (?, ?, ?)", (key, value, revision))
        else:
            db.execute("UPDATE record SET value = ?, revision = ? WHERE key = ?", (value, revision, key))
        db.execute("COMMIT")
        return revision

    def _refusal(self, error: sqlite3.Error | OSError) -> Exception:
        """What an error of SQLite at opening means: a wrong or damaged file is for a person, the rest may pass."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            return ValueError(f"{self.path} is not an SQLite database. {_REMEDY}")
        if code == sqlite3.SQLITE_CORRUPT:
            return ValueError(f"{self.path} is damaged ({error}). {_REMEDY}")
        return StoreUnavailable(f"{self.description}: {_reason(error, self._patience)}")

    def list(self, prefix: str, *, deadline: float) -> list[Record]:
        """All records below `prefix`, by key, as of one instant."""
        with self._connection(deadline) as db:
            self._check()
            rows = db.execute(  # one statement is one read transaction
                "SELECT key, value, revision FROM record WHERE key >= ? AND key < ? ORDER BY key", _range(prefix)
            ).fetchall()
        return [Record(*row) for row in rows]


_REMEDY = "Name another path; or, with every btw of this computer stopped, move it away: then a new one is made"


def _renew(path: Path) -> None:
    """Make an empty lock file, whole or not at all, unless there is one (put in place of another)."""
    new = Path(f"{path}.new")
    # SQLite would replay the -wal of a former file into its successor.
    for left in (*(Path(f"{path}{end}") for end in ("-wal", "-shm", "-journal")), new, Path(f"{new}-journal")):
        left.unlink(missing_ok=True)
    if file_id(path, empty=False):
        return
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(_uri(new), uri=True, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(f"BEGIN; {_TABLES} {_TRIGGERS} COMMIT;")
    finally:
        db.close()
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _never(path: Path) -> None:
    raise ValueError(f"lock file {path} was deleted while in use")


def _uri(path: Path) -> str:
    return f"file:{quote(os.fsencode(path))}?mode=rw"


def _range(prefix: str) -> tuple[str, str]:
    return prefix, prefix + "\U0010ffff"  # the highest code point: no key goes on with it


def _be_patient(db: sqlite3.Connection, seconds: float) -> None:
    db.execute(f"PRAGMA busy_timeout = {max(0, int(seconds * 1000))}")


def _with_room(db: sqlite3.Connection, until: float, work: Callable[[], T]) -> T:
    """One write; on a full disk once more after a checkpoint: then it overwrites -wal from its beginning, which takes
    no new blocks (sqlite.org/pragma.html#pragma_wal_checkpoint; on copy-on-write file systems it does)."""
    try:
        return work()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
            raise
    if db.in_transaction:
        db.execute("ROLLBACK")
    _be_patient(db, until - time.monotonic())
    db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    return work()


def _settle(db: sqlite3.Connection) -> None:
    """Give new pages their place in the file now, while the disk has room for it."""
    with suppress(sqlite3.Error):  # the write itself is done; -wal is copied at another time
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def _reason(error: sqlite3.Error | OSError, deadline: float) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_BUSY:
        return f"locked by another process for all of {deadline:.2g} s (is one of them stopped or hanging?)"
    if code == sqlite3.SQLITE_FULL:
        return "the disk is full"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"damaged ({error})"
    if isinstance(error, OSError):
        return str(error)
    return f"{error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})"
