"""The node's memory on a real file system."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from btw_core.disk import LARGEST, Busy, FileDisk
from btw_core.identity import incarnation
from btw_core.types import Incarnation, Saved


@pytest.fixture
def disk(tmp_path: Path) -> FileDisk:
    made = FileDisk(tmp_path / "n1")
    made.lock("web")
    return made


def life() -> Incarnation:
    return incarnation("n1", "web", Path("/nonexistent"))


def test_what_is_saved_is_loaded(disk: FileDisk) -> None:
    """Everything comes back, for each package its own; nothing was remembered before."""
    assert disk.load("web") is None
    state = {"r": {"pid": 1}}
    saved = Saved(incarnation=life(), term=7, may_be_up=True, pending=("a.1",), state=state)
    disk.save("web", saved)
    assert disk.load("web") == saved
    assert disk.load("other") is None
    assert sorted(path.name for path in disk.directory.iterdir()) == ["web.json", "web.lock", "web.now"]


def test_what_a_crash_of_the_computer_leaves(disk: FileDisk) -> None:
    """In this boot the last word counts. In another one: the highest term that had to last, and whether the package is
    switched off here. Nothing else is written for good, for nothing else is true after a crash."""
    first = Saved(incarnation=life(), term=7)
    disk.save("web", first)
    up = msgspec.structs.replace(first, may_be_up=True, pending=("a.1",))
    disk.save("web", up)
    taken = msgspec.structs.replace(up, term=8)
    disk.save("web", taken, durable=False)
    assert FileDisk(disk.directory).load("web") == taken
    _crash(disk)
    assert FileDisk(disk.directory).load("web") == first
    for lasting in (taken, msgspec.structs.replace(taken, off="critical")):
        disk.save("web", lasting)
        _crash(disk)
        assert FileDisk(disk.directory).load("web") == lasting


@pytest.mark.parametrize("torn", [b"", b"{half", b"\xff\xfe"])
def test_news_of_another_boot_are_none(disk: FileDisk, torn: bytes) -> None:
    """Whole or torn: they were never on the disk for good. In this boot, which has written the one and the other, torn
    news are damage like any other."""
    mine = life()
    before = Saved(incarnation=msgspec.structs.replace(mine, boot="another"), term=7)
    disk.save("web", before)
    for content in (msgspec.json.encode(msgspec.structs.replace(before, term=3, may_be_up=True)) + b"\n", torn):
        (disk.directory / "web.now").write_bytes(content)
        assert FileDisk(disk.directory).load("web") == before
    disk.save("web", Saved(incarnation=mine, term=8))
    (disk.directory / "web.now").write_bytes(torn)
    with pytest.raises(ValueError, match=r"web\.now is damaged .* mv "):
        disk.load("web")


def _crash(disk: FileDisk) -> None:
    """The computer's: what was not written with fsync(2) is gone."""
    (disk.directory / "web.now").unlink(missing_ok=True)


def test_a_life_knows_its_ethernet_addresses() -> None:
    """Those that sysfs shows, each once, without the loopback's."""
    shown = {path.read_text().strip() for path in Path("/sys/class/net").glob("*/address")}
    found = life().macs
    assert len(set(found)) == len(found) and "00:00:00:00:00:00" not in found
    assert set(found) <= shown


def test_known_asks_every_node_of_the_computer(disk: FileDisk) -> None:
    """A package is known where a node beside this one has seen a term of it, had it up, or cannot say."""
    assert not disk.known("web")
    disk.save("web", Saved(incarnation=life()))
    assert not disk.known("web")  # it was only waited for
    other = FileDisk(disk.directory.parent / "n2")
    other.lock("web")
    other.save("web", Saved(incarnation=life(), term=1))
    assert disk.known("web") and not disk.known("we*")
    other.save("web", Saved(incarnation=life(), may_be_up=True))
    assert disk.known("web")
    (other.directory / "web.json").write_bytes(b"{")
    assert disk.known("web")


def test_incarnations_differ_in_their_nonce_alone() -> None:
    """Two managers in one process life are told apart, and both name this process."""
    first, second = life(), life()
    assert first.nonce != second.nonce and "." not in first.nonce
    assert first == msgspec.structs.replace(second, nonce=first.nonce)
    assert first.pid == os.getpid() and first.pid_start > 0


@pytest.mark.parametrize("content", [b"", b"{half", b"[]", b'{"term": 1}', b"\xff\xfe"])
def test_damage_is_named_with_its_remedy(disk: FileDisk, content: bytes) -> None:
    """Damaged memory is never taken for no memory."""
    (disk.directory / "web.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"web\.json is damaged .* mv "):
        disk.load("web")
    saved = Saved(incarnation=life(), term=2)
    disk.save("web", saved)
    (disk.directory / "web.json").write_bytes(content)
    assert disk.load("web") == saved  # the last word, of this boot, is whole


def test_memory_that_cannot_be_read_is_damaged(disk: FileDisk) -> None:
    """As by a bad sector: whose it is, and what to do, is named."""
    (disk.directory / "web.json").mkdir()
    with pytest.raises(ValueError, match=r"web\.json is damaged .*Is a directory.* mv "):
        disk.load("web")


def test_a_failed_save_keeps_what_was_there(disk: FileDisk) -> None:
    """The former content survives a write that does not succeed."""
    before = Saved(incarnation=life(), term=1)
    disk.save("web", before)
    (disk.directory / "web.tmp").mkdir()  # in the way of the new content
    with pytest.raises(OSError, match="directory"):
        FileDisk(disk.directory).save("web", Saved(incarnation=life(), term=2))
    assert disk.load("web") == before


@pytest.mark.parametrize("room", [0, 10])
def test_a_line_for_which_there_is_no_room(disk: FileDisk, room: int) -> None:
    """None of it stays, and the next one counts."""
    first = Saved(incarnation=life(), term=1)
    disk.save("web", first)
    up = msgspec.structs.replace(first, may_be_up=True)
    with _room(disk.directory / "web.now", room), pytest.raises(OSError, match=r"web\.now"):
        disk.save("web", up)
    assert disk.load("web") == first
    disk.save("web", up)
    assert disk.load("web") == up


@contextmanager
def _room(file: Path, size: int) -> Iterator[None]:
    """Files of this process get no larger than this one and `size` bytes (setrlimit(2))."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_the_last_whole_line_counts(disk: FileDisk) -> None:
    """A manager that was killed while it wrote has not saved that; the next one goes on behind it."""
    first = Saved(incarnation=life(), term=1)
    disk.save("web", first)
    up = msgspec.structs.replace(first, may_be_up=True)
    disk.save("web", up)
    file = disk.directory / "web.now"
    assert file.read_bytes().count(b"\n") == 2
    with file.open("ab") as stream:
        stream.write(file.read_bytes()[:50])
    after = FileDisk(disk.directory)
    assert after.load("web") == up
    assert after.known("web")
    after.save("web", first)
    assert after.load("web") == first


def test_the_last_word_does_not_grow_for_ever(disk: FileDisk) -> None:
    """It is written anew now and then; each time what was saved last is there."""
    saved = Saved(incarnation=life(), term=1)
    largest = 0
    for number in range(1000):
        saved = msgspec.structs.replace(saved, pending=(f"a.{number}",))
        disk.save("web", saved)
        largest = max(largest, (disk.directory / "web.now").stat().st_size)
        if number % 100 == 0:
            assert disk.load("web") == saved
    assert disk.load("web") == saved
    assert largest <= LARGEST < 1000 * len(msgspec.json.encode(saved))


def test_a_full_disk_is_named_with_the_file(disk: FileDisk) -> None:
    """write(2) says ENOSPC without a name; who reads it at night wants to know which disk."""
    (disk.directory / "web.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*/web\.now'"):
        disk.save("web", Saved(incarnation=life(), term=1))


def test_one_manager_for_each_package_of_a_node(disk: FileDisk) -> None:
    """A second one is refused with the first one's pid, another package is free, and `close` lets go."""
    other = FileDisk(disk.directory)
    with pytest.raises(Busy, match=f"package web is already managed on node n1 by pid {os.getpid()} "):
        other.lock("web")
    other.lock("db")
    disk.close()
    other.lock("web")


def test_a_lock_file_that_was_removed_is_made_anew(disk: FileDisk) -> None:
    """The lock counts on the file that has the name, not on one that nobody can find."""
    (disk.directory / "web.lock").unlink()
    other = FileDisk(disk.directory)
    other.lock("web")
    with pytest.raises(Busy):
        FileDisk(disk.directory).lock("web")


def test_children_do_not_keep_the_lock(disk: FileDisk) -> None:
    """A service that outlives its manager must not look like a manager."""
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, close_fds=False) as child:
        disk.close()
        end = time.monotonic() + 30
        while True:  # exec closes descriptors one after the other, and Popen may return in the middle of that
            try:
                FileDisk(disk.directory).lock("web")
                break
            except Busy:
                assert time.monotonic() < end, "the child has kept the lock"
        assert child.poll() is None
        child.communicate(b"\n", timeout=60)
