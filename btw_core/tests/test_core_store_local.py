"""The embedded store: other processes, one file at a time, bad places, full disks. That it keeps the contract of
stores is in test_core_store_contract.py."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from btw_core.mounts import parse
from btw_core.store import Record, Store, StoreUnavailable
from btw_core.store_guard import file_system
from btw_core.store_local import RESERVE, SCHEMA, LocalStore, btw_stores

SLOW = 30.0  # seconds: generous bound for anything that should be quick


class Place:
    """A lock file to be, its runtime directory, and what was opened on it."""

    def __init__(self, directory: Path) -> None:
        self.runtime = directory / "run"
        self.directory = directory / "data"
        self.directory.mkdir()
        self.path = self.directory / "local.db"
        self.opened: list[LocalStore] = []
        self.patience = SLOW

    def open(self) -> LocalStore:
        store = LocalStore(str(self.path), runtime=self.runtime, patience=self.patience)
        self.opened.append(store)
        return store


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    for store in found.opened:
        store.close()


@contextmanager
def python(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that talks over its standard streams; killed at the end, stopped or not."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        yield process
    finally:
        process.kill()
        with suppress(BrokenPipeError):
            process.communicate(timeout=SLOW)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def say(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


def put(store: Store, key: str, value: bytes, expected: int | None = None) -> int:
    revision = store.put(key, value, expected=expected, deadline=SLOW)
    assert isinstance(revision, int)
    return revision


class Watch:
    """A watch with an end, whatever kind of iterator it is."""

    def __init__(self, records: Iterator[list[Record]]) -> None:
        self._records = records

    def __next__(self) -> list[Record]:
        return next(self._records)

    def close(self) -> None:
        if hasattr(self._records, "close"):
            self._records.close()


COUNT = """
import sys
from pathlib import Path
from btw_core.store_local import LocalStore
from btw_core.store import Conflict
def count(store, times):
    while times:
        record = store.get("packages/n", deadline=30)
        new = b"%d" % (int(record.value) + 1)
        if store.put("packages/n", new, expected=record.revision, deadline=30) != Conflict():
            times -= 1
"""

# ---- other processes -----------------------------------------------------------------------------------------------


def test_processes_lose_no_increment(place: Place) -> None:
    """Three processes that count by compare-and-swap come to the full sum, each put with a revision of its own."""
    store = place.open()
    put(store, "packages/n", b"0")
    script = COUNT + "count(LocalStore(sys.argv[1], runtime=Path(sys.argv[2])), 40); print('done')"
    with (
        python(script, place.path, place.runtime) as a,
        python(script, place.path, place.runtime) as b,
        python(script, place.path, place.runtime) as c,
    ):
        assert [line(process) for process in (a, b, c)] == ["done"] * 3
    assert store.get("packages/n", deadline=SLOW) == Record("packages/n", b"120", 121)


def test_a_watch_has_no_gaps(place: Place) -> None:
    """Every one of 120 new records of another process's making arrives once, in the order of revisions, and nothing
    at or below `since`, nor of another prefix."""
    store = place.open()
    put(store, "w/old", b"")
    put(store, "v/other", b"")
    script = COUNT + (
        "s = LocalStore(sys.argv[1], runtime=Path(sys.argv[2])); sys.stdin.readline()\n"
        "for n in range(120): s.put(f'w/{n}', b'', expected=None, deadline=30)"
    )
    with python(script, place.path, place.runtime) as writer, closing(Watch(store.watch("w/", 1))) as watch:
        say(writer, "go")
        seen: list[Record] = []
        until = time.monotonic() + SLOW
        while len(seen) < 120 and time.monotonic() < until:
            seen += next(watch)
    assert [record.key for record in seen] == [f"w/{n}" for n in range(120)]
    assert [record.revision for record in seen] == list(range(3, 123))


# ---- others in the way ------------------------------------------------------------------------------------------


FREEZE = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("frozen", flush=True)
time.sleep(600)
"""


def test_deadlines_hold_with_a_frozen_writer(place: Place) -> None:
    """A process stopped inside a write: writes here end in time as "cannot tell", from several threads at once, reads
    go on, another manager can open, and when it is gone writes go on."""
    store = place.open()
    put(store, "a", b"1")
    with python(FREEZE, place.path) as writer:
        assert line(writer) == "frozen"
        writer.send_signal(signal.SIGSTOP)
        errors: list[str] = []

        def try_it() -> None:
            with pytest.raises(StoreUnavailable) as caught:
                store.put("a", b"2", expected=1, deadline=0.5)
            errors.append(str(caught.value))

        threads = [threading.Thread(target=try_it) for _ in range(3)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        assert store.get("a", deadline=1) == Record("a", b"1", 1)
        for thread in threads:
            thread.join(SLOW)
        assert time.monotonic() - began < 10
        assert len(errors) == 3
        assert any("locked by another process" in error for error in errors)
        assert place.open().list("", deadline=1) == [Record("a", b"1", 1)]
    assert put(store, "a", b"2", 1) == 2


def unlink(place: Place) -> None:
    place.path.unlink()


def move(place: Place) -> None:
    place.path.rename(place.directory / "elsewhere.db")


def replace(place: Place) -> None:
    """By a whole lock file of its own, with the name of the former one."""
    other = place.directory / "other.db"
    LocalStore(str(other), runtime=place.runtime).close()
    other.rename(place.path)


def empty(place: Place) -> None:
    place.path.unlink()
    place.path.touch()


def remove_all(place: Place) -> None:
    for file in place.directory.iterdir():
        file.unlink()
    place.directory.rmdir()
    place.directory.mkdir()


@pytest.mark.parametrize("harm", [unlink, move, replace, empty, remove_all])
def test_a_file_that_is_gone_is_not_made_again_while_in_use(place: Place, harm: Callable[[Place], None]) -> None:
    """Every call raises "cannot tell" once the file is not the one opened, and a second opener is refused with the
    pid of the user of the former file; when that one is closed, a new opener gets an empty or the replacing file."""
    store = place.open()
    put(store, "packages/a", b"1")
    harm(place)
    place.patience = 0.1
    calls: list[Callable[[], object]] = [
        lambda: store.get("packages/a", deadline=1),
        lambda: store.put("packages/a", b"2", expected=1, deadline=1),
        lambda: store.list("", deadline=1),
        lambda: next(store.watch("", 0)),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="deleted or replaced while in use"):
            call()
    with pytest.raises(ValueError, match=rf"a manager still uses the former one \(pids {os.getpid()}\)"):
        place.open()
    store.close()
    place.patience = SLOW
    assert place.open().list("", deadline=1) == []


@pytest.mark.parametrize("end", ["-wal", "-shm"])
def test_a_helper_file_that_is_deleted_is_noticed(place: Place, end: str) -> None:
    """Two processes with different -wal or -shm files would not see each other's writes: cannot tell."""
    store = place.open()
    put(store, "a", b"1")
    Path(f"{place.path}{end}").unlink()
    with pytest.raises(StoreUnavailable, match=f"{end} was deleted"):
        store.put("a", b"2", expected=1, deadline=1)


def test_a_link_that_is_turned_is_noticed(place: Place) -> None:
    """A symbolic link as path: pointing it at another file counts as replacing."""
    link = place.directory / "link"
    link.symlink_to(place.path)
    with closing(LocalStore(str(link), runtime=place.runtime)) as store:
        put(store, "a", b"1")
        link.unlink()
        link.symlink_to(place.directory / "other.db")
        with pytest.raises(StoreUnavailable, match="deleted or replaced"):
            store.get("a", deadline=1)


def test_a_killed_manager_frees_the_place(place: Place) -> None:
    """While another process lives the deleted file is not made again, and it is named; killed, its lock is gone."""
    script = COUNT + "s = LocalStore(sys.argv[1], runtime=Path(sys.argv[2])); print('open', flush=True); input()"
    with python(script, place.path, place.runtime) as other:
        assert line(other) == "open"
        place.path.unlink()
        place.patience = 0.1
        with pytest.raises(ValueError, match=rf"is gone but .*pids {other.pid}\): stop it first"):
            place.open()
    put(place.open(), "a", b"1")


def test_a_deleted_guard_file_is_made_again(place: Place) -> None:
    """Deleting the guard (a cleaner of /tmp) opens no door: the next call takes it again, then the file is deleted,
    and a second opener is still refused."""
    store, other = place.open(), place.open()
    for file in place.runtime.iterdir():
        file.unlink()
    assert put(store, "a", b"1") == 1
    assert put(other, "a", b"2", 1) == 2
    place.path.unlink()
    place.patience = 0.1
    with pytest.raises(ValueError, match="is gone but a manager still uses"):
        place.open()


def test_two_creators_at_once_both_work(place: Place) -> None:
    """Twenty times two processes open the same empty place at the same moment: both work, on one file."""
    script = COUNT + (
        "for n, path in enumerate(sys.stdin):\n"
        "    s = LocalStore(path.strip(), runtime=Path(sys.argv[1]))\n"
        "    s.put(f'by/{sys.argv[2]}', b'', expected=None, deadline=30)\n"
        "    print('ok', flush=True)\n"
    )
    with python(script, place.runtime, "a") as a, python(script, place.runtime, "b") as b:
        for n in range(20):
            path = place.directory / f"{n}.db"
            say(a, str(path))
            say(b, str(path))
            assert (line(a), line(b)) == ("ok", "ok")
            with closing(LocalStore(str(path), runtime=place.runtime)) as store:
                assert [record.key for record in store.list("", deadline=SLOW)] == ["by/a", "by/b"]


def test_a_new_file_takes_nothing_of_a_deleted_one(place: Place) -> None:
    """The -wal of a killed manager stays behind when a person removes only the file: it is not replayed."""
    script = COUNT + (
        "s = LocalStore(sys.argv[1], runtime=Path(sys.argv[2]))\n"
        "s.put('packages/old', b'', expected=None, deadline=30); print('put', flush=True); input()"
    )
    with python(script, place.path, place.runtime) as other:
        assert line(other) == "put"
    assert Path(f"{place.path}-wal").stat().st_size > 0
    place.path.unlink()
    assert place.open().list("", deadline=SLOW) == []


# ---- the file itself --------------------------------------------------------------------------------------------


def test_records_cannot_be_deleted_by_hand(place: Place) -> None:
    """DELETE, REPLACE and an older revision are refused in SQL, with words; triggers that were lost come back."""
    store = place.open()
    put(store, "a", b"1")
    put(store, "b", b"1")
    with closing(sqlite3.connect(place.path, isolation_level=None)) as db:
        for statement, words in (
            ("DELETE FROM record", "records are never deleted: use btw unlock"),
            ("REPLACE INTO record VALUES ('a', x'00', 9)", "only grow"),
            ("UPDATE record SET revision = 1 WHERE key = 'b'", "only grow"),
            ("UPDATE record SET key = 'c', revision = 9 WHERE key = 'b'", "only grow"),
        ):
            with pytest.raises(sqlite3.IntegrityError, match=words):
                db.execute(statement)
        db.execute("DROP TRIGGER record_stays")
        place.open()
        with pytest.raises(sqlite3.IntegrityError, match="never deleted"):
            db.execute("DELETE FROM record")
    assert len(store.list("", deadline=1)) == 2


def test_what_a_file_is_made_of(place: Place) -> None:
    """Mode 0600 for all three files, WAL, room kept in -wal, the running boot and the schema noted."""
    store = place.open()
    put(store, "a", b"1")
    ends = [Path(f"{place.path}{end}") for end in ("", "-wal", "-shm")]
    assert [oct(file.stat().st_mode & 0o777) for file in ends] == ["0o600"] * 3
    assert ends[1].stat().st_size >= RESERVE
    with closing(sqlite3.connect(place.path)) as db:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert db.execute("SELECT schema, boot FROM meta").fetchall() == [(SCHEMA, boot)]
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_boot_id_is_renewed(place: Place) -> None:
    """A file last opened in another boot gets this boot's id at opening; records stay."""
    put(place.open(), "a", b"1")
    with closing(sqlite3.connect(place.path, isolation_level=None)) as db:
        db.execute("UPDATE meta SET boot = 'another'")
        store = place.open()
        assert db.execute("SELECT boot <> 'another' FROM meta").fetchone() == (1,)
    assert len(store.list("", deadline=1)) == 1


def test_damage_is_refused_with_a_remedy(place: Place) -> None:
    """Garbage, a page overwritten, an alien database and a newer schema: each a ValueError with path and remedy."""
    store = place.open()
    for n in range(50):
        put(store, f"packages/{n}", b"x" * 300)
    store.close()
    whole = place.path.read_bytes()

    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: place.path.write_bytes(b"no database at all\n" * 100), "is not an SQLite database"),
        (lambda: place.path.write_bytes(whole[:4096] + b"\xff" * 8192 + whole[12288:]), "is damaged"),
        (lambda: place.path.write_bytes(whole[:8192]), "is damaged"),
        (lambda: sql("CREATE TABLE meta (x)"), "not a lock file of btw"),
    ]

    def sql(statement: str) -> None:
        place.path.unlink()
        with closing(sqlite3.connect(place.path, isolation_level=None)) as db:
            db.execute(statement)

    for harm, words in cases:
        harm()
        with pytest.raises(ValueError, match=words) as caught:
            place.open()
        assert str(place.path) in str(caught.value)
        assert "Name another path; or, with every btw" in str(caught.value)

    place.path.write_bytes(whole)
    with closing(sqlite3.connect(place.path, isolation_level=None)) as db:
        db.execute(f"UPDATE meta SET schema = {SCHEMA + 1}")
    with pytest.raises(ValueError, match=f"schema version {SCHEMA + 1}, .* upgrade btw-core"):
        place.open()


def test_damage_while_running_is_cannot_tell(place: Place) -> None:
    """Pages overwritten below a running store: StoreUnavailable, no answer that could be wrong."""
    store = place.open()
    for n in range(300):
        put(store, f"packages/{n:03}", b"x" * 500)
    with closing(sqlite3.connect(place.path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # Another process: closing a descriptor of the file in this one would drop SQLite's locks.
    script = "import os, sys; f = os.open(sys.argv[1], os.O_WRONLY); os.pwrite(f, b'\\xff' * 100000, 8192); print('ok')"
    with python(script, place.path) as vandal:
        assert line(vandal) == "ok"
    with pytest.raises(StoreUnavailable, match="damaged"):
        store.list("", deadline=1)


def test_bad_places_are_refused_with_a_remedy(place: Place) -> None:
    """No path, a directory, a fifo, a missing parent: each a ValueError that says what to do."""
    fifo = place.directory / "fifo"
    os.mkfifo(fifo)
    for path, words in (
        ("", "needs a path, such as"),
        (place.directory, "is a directory: name a file"),
        (fifo, "is not a regular file: name a file"),
        (place.directory / "no" / "local.db", r"does not exist: create it \(mkdir -p "),
    ):
        with pytest.raises(ValueError, match=words):
            LocalStore(str(path), runtime=place.runtime)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become an ordinary user")
def test_a_directory_or_file_of_somebody_else_is_refused(place: Place) -> None:
    """An ordinary user is told who cannot write what."""
    place.open().close()
    for directory in (place.directory, *place.directory.parents):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)
    script = (
        "import os, sys; from pathlib import Path; from btw_core.store_local import LocalStore\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: LocalStore(sys.argv[1], runtime=Path(sys.argv[2]))\n"
        "except ValueError as error: print(error)"
    )
    with python(script, place.path, place.runtime) as user:
        assert "is not writable for uid 65534" in line(user)
    place.directory.chmod(0o777)
    with python(script, place.path, place.runtime) as user:
        assert "cannot be read and written by uid 65534: chown it" in line(user)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "gfs2", "ocfs2", "fuse.sshfs", "hostfs"])
def test_network_file_systems_are_refused(place: Place, kind: str) -> None:
    """By the type of the mount that holds the path, named in the message with the ways out."""
    mountinfo = place.directory / "mountinfo"
    holding = f"30 27 0:9 / {place.directory} rw - {kind} server:/x rw\n"
    mountinfo.write_text(f"27 1 254:0 / / rw - ext4 /dev/vda rw\n{holding}")
    with pytest.raises(ValueError, match=rf"network file system \({re.escape(kind)}\).*use a local disk"):
        LocalStore(str(place.path), runtime=place.runtime, mountinfo=mountinfo)


def test_the_mount_that_holds_a_path() -> None:
    """The longest mount point counts, whole names only, escapes undone, and the last of two on one another."""
    table = (
        "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n"
        "2 1 0:5 / /srv/a\\040b rw,relatime shared:2 master:1 - nfs4 host:/x rw\n"
        "3 1 0:6 / /srv rw - xfs /dev/b rw\n"
        "4 1 0:7 / /over rw - xfs /dev/c rw\n"
        "5 4 0:8 / /over rw - cifs //host/y rw\n"
    )
    for path, kind in (
        ("/srv/a b/local.db", "nfs4"),
        ("/srv/a bc/local.db", "xfs"),
        ("/srvx/local.db", "ext4"),
        ("/over/local.db", "cifs"),
    ):
        assert file_system(Path(path), parse(table)) == kind


def test_an_unsafe_runtime_directory_is_refused(place: Place) -> None:
    """One that others can write, or a symbolic link, could be used to take the guard away."""
    place.runtime.mkdir()
    place.runtime.chmod(0o777)
    with pytest.raises(ValueError, match=r"nobody else can write .*drwxrwxrwx\): remove it"):
        place.open()
    place.runtime.rmdir()
    place.runtime.symlink_to(place.directory)
    with pytest.raises(ValueError, match="must be a directory"):
        place.open()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of four megabytes."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    point = tmp_path / "small"
    point.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "btw-test", point], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield point
    subprocess.run(["umount", "-l", point], check=True)


def fill(directory: Path) -> None:
    with open(directory / "ballast", "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_renewals_survive_a_full_disk(small: Path, tmp_path: Path) -> None:
    """With not a block left, 300 updates in place succeed, from two stores; new records are refused as "the disk is
    full", and updates that grow find room; with room again so does everything."""
    path = str(small / "local.db")
    with (
        closing(LocalStore(path, runtime=tmp_path / "run")) as store,
        closing(LocalStore(path, runtime=tmp_path / "run")) as other,
    ):
        revision = put(store, "sessions/a/daemon", b"x" * 300)
        fill(small)
        for _ in range(150):
            revision = put(store, "sessions/a/daemon", b"y" * 300, revision)
            revision = put(other, "sessions/a/daemon", b"z" * 300, revision)
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            put(store, "packages/new", b"x" * 1000)
        revision = put(store, "sessions/a/daemon", b"last" * 500, revision)
        (small / "ballast").unlink()
        put(store, "packages/new", b"x" * 1000)
        assert store.get("sessions/a/daemon", deadline=1) == Record("sessions/a/daemon", b"last" * 500, revision)


def test_a_full_disk_at_opening_is_cannot_tell(small: Path, tmp_path: Path) -> None:
    """Nothing can be made there now: StoreUnavailable, not a wrong configuration; later it works."""
    fill(small)
    with pytest.raises(StoreUnavailable):
        LocalStore(str(small / "local.db"), runtime=tmp_path / "run")
    (small / "ballast").unlink()
    with closing(LocalStore(str(small / "local.db"), runtime=tmp_path / "run")) as store:
        put(store, "a", b"")


def test_the_scheme_opens_a_store_and_has_no_settings(tmp_path: Path) -> None:
    """`local` leads here; a table [plugins.local] is refused, and nothing is made."""
    factory = btw_stores()["local"]
    with pytest.raises(ValueError, match="no settings"):
        factory(str(tmp_path / "local.db"), {"sync": False})
    assert list(tmp_path.iterdir()) == []
    with closing(factory(str(tmp_path / "local.db"), {})) as store:
        assert store.description == f"local:{tmp_path / 'local.db'}"
