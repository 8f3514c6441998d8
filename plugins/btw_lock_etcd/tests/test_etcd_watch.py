"""Watches: nothing is missed, and a stream that has gone silent is noticed."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from etcd_certificates import make_ca, make_pair
from etcd_members import EtcdCluster, Tls, eventually, frozen
from etcd_relay import Relay, Way
from etcd_stores import Opener

from btw_core.store import Record, StoreUnavailable
from btw_lock_etcd.store import EtcdStore


class Watching:
    """Watches again and again from the last revision seen, as btw_core.store_port does."""

    def __init__(self, store: EtcdStore, prefix: str = "") -> None:
        self.seen: dict[str, Record] = {}
        self.troubles: list[str] = []
        self.yields = 0
        self._store, self._prefix = store, prefix
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        since = 0
        while not self._stop.is_set():
            try:
                for records in self._store.watch(self._prefix, since):
                    self.yields += 1
                    for record in records:
                        self.seen[record.key] = record
                        since = max(since, record.revision)
                    if self._stop.is_set():
                        return
            except StoreUnavailable as error:
                self.troubles.append(str(error))
                self._stop.wait(0.1)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


@contextmanager
def watching(store: EtcdStore, prefix: str = "") -> Iterator[Watching]:
    """Begun: what was there has been seen."""
    made = Watching(store, prefix)
    try:
        eventually(lambda: made.yields > 1, "the watch does not begin")
        yield made
    finally:
        made.end()


def write(store: EtcdStore, keys: list[str]) -> dict[str, Record]:
    """New records, whatever it takes."""
    written: dict[str, Record] = {}
    for key in keys:
        until = time.monotonic() + 60
        while key not in written:
            try:
                store.put(key, key.encode(), expected=None, deadline=3)
                found = store.get(key, deadline=3)
                assert found is not None
                written[key] = found
            except StoreUnavailable:
                assert time.monotonic() < until
    return written


def test_a_release_is_seen_at_once(store: EtcdStore, cluster: EtcdCluster, prefix: str, opened: Opener) -> None:
    """A change by another node is seen by the watch, below its prefix only; a deletion is not reported."""
    other = opened(cluster.rest(prefix))
    with watching(store, "packages/") as watch:
        written = write(other, ["packages/a", "sessions/a", "packages/b"])
        eventually(lambda: "packages/b" in watch.seen, "not seen")
        assert cluster.etcdctl("del", f"{prefix}/packages/a") == "1\n"
        written |= write(other, ["packages/c"])
        eventually(lambda: "packages/c" in watch.seen, "not seen")
        del written["sessions/a"]
        assert watch.seen == written and not watch.troubles


def test_no_gap_when_its_member_is_killed_or_frozen(etcd: None, tmp_path: Path, opened: Opener) -> None:
    """The member that serves the watch is killed, the next one frozen: the watch goes to another one and shows all."""
    with EtcdCluster(tmp_path, 3) as cluster:
        first, second, third = cluster.members
        store, writer = opened(cluster.rest()), opened(cluster.rest(members=[third]))
        with watching(store) as watch:
            written = write(writer, ["a1", "a2"])
            eventually(lambda: watch.seen == written, "not seen")
            first.kill()
            written |= write(writer, ["b1", "b2"])
            eventually(lambda: watch.seen == written, "not seen after a kill")
            assert watch.troubles
            first.start()
            cluster.wait_healthy()
            with frozen(second):
                written |= write(writer, ["c1", "c2"])
                for _ in range(3):  # what other answers show, the watch must come to
                    store.list("", deadline=9)
                eventually(lambda: watch.seen == written, "not seen after a freeze")


def test_a_dead_path_is_noticed(cluster: EtcdCluster, prefix: str, opened: Opener) -> None:
    """The stream's connection stays open and nothing comes: what this store reads elsewhere shows that it is behind."""
    with Relay(cluster.members[0].client_port) as relay:
        store = opened(f"//127.0.0.1:{relay.port},{cluster.members[1].endpoint}/{prefix}")
        with watching(store) as watch:
            relay.way = Way.DEAD
            written = write(store, ["a"])
            eventually(lambda: watch.seen == written, "not seen")
            assert any("it is behind: at revision" in trouble for trouble in watch.troubles), watch.troubles


def test_a_member_without_a_leader_ends_its_watch(etcd: None, tmp_path: Path, opened: Opener) -> None:
    """Cut off from the quorum a member ends the stream by itself, without any other answer to compare with."""
    with EtcdCluster(tmp_path, 3) as cluster:
        left, *gone = cluster.members
        store = opened(cluster.rest(members=[left]))
        with watching(store) as watch:
            for member in gone:
                member.kill()
            eventually(lambda: watch.troubles, "the watch goes on")
            assert "watch at" in watch.troubles[0] and "no quorum (no leader)" in watch.troubles[0], watch.troubles
            cluster.start()
            written = write(opened(cluster.rest()), ["a"])
            eventually(lambda: watch.seen == written, "not seen")


def test_compaction_does_not_matter(store: EtcdStore, cluster: EtcdCluster) -> None:
    """A watch from a revision whose history is gone shows the newest of each key that changed since."""
    first = store.put("a", b"1", expected=None, deadline=30)
    store.put("b", b"1", expected=None, deadline=30)
    assert isinstance(first, int)
    second = store.put("a", b"2", expected=first, deadline=30)
    assert isinstance(second, int)
    cluster.etcdctl("compact", str(second))
    watch = store.watch("", first - 1)
    assert [(record.key, record.value) for record in next(watch)] == [("b", b"1"), ("a", b"2")]
    third = store.put("a", b"3", expected=second, deadline=30)
    until = time.monotonic() + 30
    while not (found := next(watch)):
        assert time.monotonic() < until
    assert isinstance(third, int) and found == [Record("a", b"3", third)]
    store.close()


def test_large_messages_come_whole(store: EtcdStore) -> None:
    """An event of a megabyte comes in many chunks, and two events in one: both are seen as they were written."""
    with watching(store) as watch:
        values = {"big": b"\x00\xff\n" * 300_000, "small": b"\n"}
        for key, value in values.items():
            store.put(key, value, expected=None, deadline=60)
        eventually(lambda: {key: record.value for key, record in watch.seen.items()} == values, "not seen")
        assert not watch.troubles


def test_closing_ends_threads_and_watches(etcd: None, tmp_path: Path, opened: Opener) -> None:
    """close ends the watch and its reader, through TLS too, and everything after it is refused."""
    ca = make_ca(tmp_path, "ca")
    member = make_pair(tmp_path, "member", ca, "IP:127.0.0.1")
    with EtcdCluster(tmp_path, 1, tls=Tls(member.cert, member.key, ca.cert)) as cluster:
        store = opened(cluster.rest(), ca=str(ca.cert))
        with watching(store) as watch:
            readers = [thread for thread in threading.enumerate() if thread.name == "etcd-watch"]
            assert readers
            store.close()
            store.close()
            for thread in readers:
                thread.join(30)
                assert not thread.is_alive()
            eventually(lambda: watch.troubles, "the watch goes on")
            assert all("closed" in trouble for trouble in watch.troubles), watch.troubles
        with pytest.raises(StoreUnavailable, match="closed"):
            store.get("a", deadline=1)


def test_a_watch_that_is_left_frees_its_connection(store: EtcdStore) -> None:
    """The end of the generator ends the reader."""
    before = {thread for thread in threading.enumerate() if thread.name == "etcd-watch"}
    watch = store.watch("", 0)
    next(watch), next(watch)
    (reader,) = {thread for thread in threading.enumerate() if thread.name == "etcd-watch"} - before
    assert isinstance(watch, Generator)
    watch.close()
    reader.join(30)
    assert not reader.is_alive()
