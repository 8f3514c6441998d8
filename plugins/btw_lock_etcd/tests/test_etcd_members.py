"""Members that are dead, hanging, cut off or full: what it costs, and what is said."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from etcd_members import EtcdCluster, Host, eventually, frozen
from etcd_relay import Relay, Way
from etcd_stores import Opener, patiently

from btw_core.store import Conflict, Record, StoreUnavailable
from btw_lock_etcd.store import EtcdStore


@pytest.fixture
def breakable(etcd: None, tmp_path: Path) -> EtcdCluster:
    return EtcdCluster(tmp_path, 3)


# ---- one endpoint of several
def test_a_dead_member_costs_a_moment(cluster: EtcdCluster, prefix: str, opened: Opener) -> None:
    """When nobody listens at the first endpoints, the next one answers at once, and a conflict is certain."""
    store = opened(f"//127.0.0.1:1,127.0.0.1:2,{cluster.members[0].endpoint}/{prefix}")
    began = time.monotonic()
    first = store.put("a", b"1", expected=None, deadline=60)
    assert isinstance(first, int)
    assert store.put("a", b"2", expected=None, deadline=60) == Conflict()
    assert store.get("a", deadline=60) == Record("a", b"1", first)
    assert time.monotonic() - began < 20  # each endpoint's share of one call


def test_a_hanging_member_costs_its_share_once(breakable: EtcdCluster, opened: Opener) -> None:
    """A frozen follower takes its part of the deadline from the first call, nothing from the calls after it."""
    with breakable as cluster:
        hanging, *others = [*cluster.followers(), cluster.leader()]
        store = opened(cluster.rest(members=[hanging, *others]))
        opened(cluster.rest()).put("a", b"1", expected=None, deadline=30)
        with frozen(hanging):
            began = time.monotonic()
            assert store.get("a", deadline=9) is not None  # not a put, which a second slow member would leave in doubt
            first = time.monotonic() - began
            assert 2.9 < first < 9
            began = time.monotonic()
            for _ in range(10):
                assert store.get("a", deadline=9) is not None
            assert time.monotonic() - began < first


def test_ipv6(etcd: None, tmp_path: Path, opened: Opener) -> None:
    """Members may be named by IPv6 addresses."""
    with EtcdCluster(tmp_path, hosts=[Host("::1")]) as cluster:
        store = opened(cluster.rest())
        assert "[::1]:" in store.description
        assert isinstance(store.put("a", b"1", expected=None, deadline=30), int)


def test_names_are_resolved(cluster: EtcdCluster, prefix: str, opened: Opener) -> None:
    """A member may be named by a host name; a name that nobody knows is said, and the next member is asked."""
    port = cluster.members[0].client_port
    store = opened(f"//nobody.invalid:{port},localhost:{port}/{prefix}")
    assert isinstance(store.put("a", b"1", expected=None, deadline=30), int)
    with pytest.raises(StoreUnavailable, match=r"nobody.invalid:1: (its name is not known|no answer from the name)"):
        opened("//nobody.invalid:1/btw")


def test_proxies_of_the_environment_are_not_used(
    cluster: EtcdCluster, prefix: str, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY and its like lead nowhere, and are passed by."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert isinstance(opened(cluster.rest(prefix)).put("a", b"1", expected=None, deadline=30), int)


# ---- doubt
def test_a_put_whose_answer_was_lost_is_no_conflict(cluster: EtcdCluster, prefix: str, opened: Opener) -> None:
    """The first attempt is written and its answer lost, the second finds the key changed: nobody can tell, and a read
    shows that it was written. When the request was lost, the second attempt writes."""
    member = cluster.members[0]
    with Relay(member.client_port) as relay:
        store = opened(f"//127.0.0.1:{relay.port},{cluster.members[1].endpoint}/{prefix}")
        relay.way = Way.SWALLOW_ANSWERS
        with pytest.raises(StoreUnavailable, match="a has changed, perhaps by an attempt of this very put"):
            store.put("a", b"1", expected=None, deadline=30)
        found = store.get("a", deadline=30)
        assert found is not None and found.value == b"1"
        relay.way = Way.OPEN
        store = opened(f"//127.0.0.1:{relay.port},{cluster.members[1].endpoint}/{prefix}")
        relay.way = Way.SWALLOW_REQUESTS
        second = store.put("a", b"2", expected=found.revision, deadline=30)
        assert store.get("a", deadline=30) == Record("a", b"2", second if isinstance(second, int) else 0)


# ---- many at once
_COUNTER = """
import sys
from btw_core.store import Conflict
from btw_lock_etcd.opening import open_store
store, times = open_store(sys.argv[1], {}), int(sys.argv[2])
while times:
    found = store.get("n", deadline=60)
    if store.put("n", b"%d" % (int(found.value) + 1), expected=found.revision, deadline=60) != Conflict():
        times -= 1
"""


def test_processes_and_threads_lose_no_increment(store: EtcdStore, cluster: EtcdCluster, prefix: str) -> None:
    """Two processes and two threads count one key up to the full sum."""
    store.put("n", b"0", expected=None, deadline=60)
    words = [sys.executable, "-c", _COUNTER, cluster.rest(prefix), "30"]
    processes = [subprocess.Popen(words) for _ in range(2)]

    def count() -> None:
        times = 30
        while times:
            found = store.get("n", deadline=60)
            assert found is not None
            value = b"%d" % (int(found.value) + 1)
            if store.put("n", value, expected=found.revision, deadline=60) != Conflict():
                times -= 1

    threads = [threading.Thread(target=count, daemon=True) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert [process.wait(100) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = store.get("n", deadline=60)
    assert found is not None and found.value == b"120"


def test_what_was_answered_survives_the_leader(breakable: EtcdCluster, opened: Opener) -> None:
    """The leader is killed in the middle of puts: everything that was answered is there, exactly as answered."""
    with breakable as cluster:
        store = opened(cluster.rest())
        answered: dict[str, Record] = {}
        stop = threading.Event()

        def write(name: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                key = f"{name}/{number}"
                try:
                    revision = store.put(key, key.encode(), expected=None, deadline=3)
                except StoreUnavailable:
                    continue
                assert isinstance(revision, int)
                answered[key] = Record(key, key.encode(), revision)

        threads = [threading.Thread(target=write, args=(f"t{n}",), daemon=True) for n in range(3)]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: len(answered) > 50, "too few puts")
            cluster.leader().kill()
            before = len(answered)
            eventually(lambda: len(answered) > before + 50, "too few puts after the leader was killed")
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        there = {record.key: record for record in store.list("", deadline=30)}
        assert {key: there.get(key) for key in answered} == answered


# ---- no quorum
def test_a_member_that_is_cut_off_answers_nothing(breakable: EtcdCluster, opened: Opener) -> None:
    """Two of three are gone: the third one answers no read and no write, says why, and opening works all the same."""
    with breakable as cluster:
        store = opened(cluster.rest())
        revision = store.put("a", b"1", expected=None, deadline=30)
        assert isinstance(revision, int)
        left, *gone = cluster.members
        for member in gone:
            member.kill()
        alone = opened(cluster.rest(members=[left]))
        for call in (
            lambda: alone.get("a", deadline=1),
            lambda: alone.list("", deadline=1),
            lambda: alone.put("a", b"2", expected=revision, deadline=1),
            lambda: next(iter(alone.watch("", 0))),
        ):
            with pytest.raises(StoreUnavailable):
                call()
        eventually(lambda: "no quorum (no leader)" in said(alone), "never says that there is no quorum")
        text = said(store)
        assert f"{left.endpoint}: no quorum" in text
        assert f"{gone[0].endpoint}: connection refused" in text
        cluster.start()
        assert patiently(lambda: store.get("a", deadline=5)) == Record("a", b"1", revision)


def said(store: EtcdStore) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        store.get("a", deadline=0.7)
    return str(caught.value)


# ---- refusals
def test_a_full_cluster_says_what_to_do(etcd: None, tmp_path: Path, opened: Opener) -> None:
    """The alarm NOSPACE is StoreUnavailable with its remedy, at once; reads go on, and opening."""
    with EtcdCluster(tmp_path, 1, extra=["--quota-backend-bytes=500000"]) as cluster:
        store = opened(cluster.rest())
        with pytest.raises(StoreUnavailable, match=r"NOSPACE.*alarm disarm"):
            for number in range(20):
                store.put(f"a{number}", b"x" * 100_000, expected=None, deadline=60)
        assert store.list("", deadline=30)
        assert opened(cluster.rest()).list("", deadline=30)


def test_a_request_that_is_too_large_says_so(store: EtcdStore) -> None:
    """More than etcd takes in one request (1.5 MiB) is refused with that reason."""
    with pytest.raises(StoreUnavailable, match="request is too large"):
        store.put("a", b"x" * 2_000_000, expected=None, deadline=60)
    assert store.get("a", deadline=30) is None


def test_what_is_no_etcd_is_refused(etcd: None, cluster: EtcdCluster, opened: Opener) -> None:
    """The port of the peers, a port nobody listens at, one member twice, and two clusters: each is told apart."""
    with pytest.raises(ValueError, match=r"answers 'Not Found', as no etcd of version 3.4"):
        opened(f"//127.0.0.1:{cluster.members[0].peer_port}/btw")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1: connection refused"):
        opened("//127.0.0.1:1/btw")


def test_two_clusters_are_not_one_lock(cluster: EtcdCluster, tmp_path: Path, opened: Opener) -> None:
    """Members of different clusters, and single members that were never joined, are refused at opening; a member that
    comes up as another cluster later is not believed."""
    with EtcdCluster(tmp_path, 1) as other:
        (stranger,) = other.members
        with pytest.raises(ValueError, match="different clusters"):
            opened(cluster.rest(members=[*cluster.members[:2], stranger]))
        port = stranger.client_port
        with pytest.raises(ValueError, match="a cluster of a single member"):
            opened(f"//127.0.0.1:{port},localhost:{port}/btw")
        with Relay(cluster.members[2].client_port) as relay:
            store = opened(f"//127.0.0.1:{relay.port},127.0.0.1:1,127.0.0.1:2/{tmp_path.name}")
            assert store.list("", deadline=30) == []
            relay.target = port
            relay.cut()
            with pytest.raises(StoreUnavailable, match="belongs to another cluster"):
                store.list("", deadline=2)
