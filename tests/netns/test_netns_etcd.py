"""The real etcd of the lab: faults of members do what the other tests take for granted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .etcd import Etcd
from .lab import Lab, until


@pytest.fixture
def etcd() -> Iterator[Etcd]:
    with Lab() as lab:
        etcd = Etcd(lab)
        etcd.start()
        etcd.wait_healthy()
        yield etcd


def test_a_cluster_outlives_its_leader_and_not_two_members(etcd: Etcd) -> None:
    """A killed and a frozen leader are replaced; with two of three away nothing can be written; all comes back."""
    for fault in ("kill", "freeze"):
        leader = etcd.leader()
        getattr(leader, fault)()
        until(lambda gone=leader: etcd.leading() not in (None, gone), "another leader")  # type: ignore[misc]
        etcd.done("put", "fault", fault)
        leader.resume()
        etcd.start()
        etcd.wait_healthy()
    away = etcd.followers()
    for member in away:
        etcd.lab.cut(member.host)
    assert etcd.ctl("put", "fault", "cut").returncode != 0
    for member in away:
        etcd.lab.join(member.host)
    etcd.wait_healthy()


def test_a_snapshot_brings_back_what_was(etcd: Etcd) -> None:
    """Written after it: gone. The cluster goes on with the values of then."""
    etcd.done("put", "a", "1")
    saved = etcd.save("snapshot")
    etcd.done("put", "a", "2")
    etcd.restore(saved)
    etcd.wait_healthy()
    assert etcd.value("a") == 1
