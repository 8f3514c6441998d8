"""The store on etcd keeps the contract of stores and of the lease, whatever becomes of the members."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from etcd_members import EtcdCluster, frozen

from btw_core.store import Store
from btw_core.testing import LeaseContract, OutageContract, StoreContract
from btw_lock_etcd.opening import open_store


@pytest.fixture(scope="module")
def breakable(etcd: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Three members; whoever breaks them mends them."""
    with EtcdCluster(tmp_path_factory.mktemp("breakable"), 3) as made:
        yield made


class EtcdPlace:
    """A prefix of its own for each test."""

    cluster: EtcdCluster
    prefix: str

    @pytest.fixture
    def make_store(self, breakable: EtcdCluster, prefix: str) -> Callable[[], Store]:
        self.cluster, self.prefix = breakable, prefix
        breakable.wait_healthy()
        return lambda: open_store(breakable.rest(prefix), {})

    def outage(self) -> AbstractContextManager[None]:
        """All members are frozen."""
        return frozen(*self.cluster.members)

    def remove(self, key: str) -> None:
        assert self.cluster.etcdctl("del", f"{self.prefix}/{key}") == "1\n"


class TestEtcdStore(EtcdPlace, StoreContract):
    """Every rule of a store."""


class TestEtcdLease(EtcdPlace, LeaseContract):
    """Every rule of the lease."""


class TestEtcdWithoutQuorum(EtcdPlace, OutageContract):
    """Every rule of an outage when one member of three is left: it is up, and cut off."""

    def outage(self) -> AbstractContextManager[None]:
        leader = self.cluster.leader()
        other = next(member for member in self.cluster.members if member is not leader)  # however leadership moves
        return frozen(leader, other)


class TestEtcdDown(EtcdPlace, OutageContract):
    """Every rule of an outage when all members are killed and started again."""

    @contextmanager
    def outage(self) -> Iterator[None]:
        for member in self.cluster.members:
            member.kill()
        try:
            yield
        finally:
            for member in self.cluster.members:
                member.start()
