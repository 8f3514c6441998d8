"""A snapshot is restored while the store is in use: revisions are given away a second time."""

from __future__ import annotations

from pathlib import Path

from etcd_members import EtcdCluster, eventually
from etcd_stores import Opener, patiently
from test_etcd_watch import watching

from btw_core.store import Conflict, Record


def test_a_revision_of_another_history_is_not_expected(etcd: None, tmp_path: Path, opened: Opener) -> None:
    """After a restore another node writes something else at the revision that this one has seen: its put is a
    conflict, because the content is compared too."""
    with EtcdCluster(tmp_path, 1) as cluster:
        store = opened(cluster.rest())
        first = store.put("a", b"old", expected=None, deadline=30)
        cluster.save(tmp_path / "snapshot")
        assert isinstance(first, int)
        second = store.put("a", b"mine", expected=first, deadline=30)
        assert isinstance(second, int)
        cluster.restore(tmp_path / "snapshot")
        theirs = opened(cluster.rest()).put("a", b"theirs", expected=first, deadline=30)
        assert theirs == second, "the restored history does not repeat revisions: this test shows nothing"
        assert patiently(lambda: store.put("a", b"next", expected=second, deadline=5)) == Conflict()
        assert store.get("a", deadline=30) == Record("a", b"theirs", second)
        third = store.put("a", b"next", expected=second, deadline=30)
        assert store.get("a", deadline=30) == Record("a", b"next", third if isinstance(third, int) else 0)


def test_the_store_goes_on_after_a_restore(etcd: None, tmp_path: Path, opened: Opener) -> None:
    """Three members are set back, as a new cluster by its token: calls and watch show the old records, without a
    restart here."""
    with EtcdCluster(tmp_path, 3) as cluster:
        store = opened(cluster.rest())
        first = store.put("a", b"old", expected=None, deadline=30)
        cluster.save(tmp_path / "snapshot")
        assert isinstance(first, int)
        revision = first
        for number in range(10):
            answer = store.put("a", b"new %d" % number, expected=revision, deadline=30)
            assert isinstance(answer, int)
            revision = answer
        with watching(store) as watch:
            assert watch.seen == {"a": Record("a", b"new 9", revision)}
            cluster.restore(tmp_path / "snapshot", token="another")
            assert patiently(lambda: store.get("a", deadline=5)) == Record("a", b"old", first)
            eventually(lambda: watch.seen == {"a": Record("a", b"old", first)}, f"{watch.seen} {watch.troubles}")
        second = store.put("a", b"next", expected=first, deadline=30)
        assert isinstance(second, int) and second < revision
