"""Real members for the tests: one cluster for all that only use it; who breaks members starts some of their own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
from etcd_members import EtcdCluster, installed
from etcd_stores import Opener

from btw_lock_etcd.opening import open_store
from btw_lock_etcd.store import EtcdStore

_numbers = itertools.count()


@pytest.fixture(scope="session")
def etcd() -> None:
    """Everything that starts members asks for this."""
    if not installed():
        message = "etcd, etcdctl or setpriv is missing (Debian: etcd-server etcd-client)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def cluster(etcd: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Three members that nobody breaks."""
    with EtcdCluster(tmp_path_factory.mktemp("etcd"), 3) as made:
        yield made


@pytest.fixture
def prefix() -> str:
    """A fresh place."""
    return f"test{next(_numbers)}"


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens a store that is closed at the end: opened(rest, **settings)."""
    stores: list[EtcdStore] = []

    def opener(rest: str, **settings: Any) -> EtcdStore:
        stores.append(open_store(rest, settings))
        return stores[-1]

    yield opener
    for store in stores:
        store.close()


@pytest.fixture
def store(cluster: EtcdCluster, prefix: str, opened: Opener) -> EtcdStore:
    """On the three members, empty."""
    return opened(cluster.rest(prefix))
