"""The whole etcd away for less than T - P - r: the package is not stopped. `--outages 20` for 20 of each kind."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator

import pytest

from .cluster import Cluster
from .conftest import Measured
from .lab import until

#: Seconds that a cluster of etcd mostly takes from its start to its first write.
RECOVERY = 1.5


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    with Cluster(timeout=10.0) as cluster:
        yield cluster


def outage(cluster: Cluster, kind: str, seconds: float) -> float:
    """All members frozen, or killed and started again. Seconds until something can be written again."""
    begin = time.monotonic()
    for member in cluster.etcd.members:
        getattr(member, kind)()
    time.sleep(seconds)
    for member in cluster.etcd.members:
        member.resume()
    cluster.etcd.start()
    until(lambda: cluster.etcd.ctl("put", "outage", "over").returncode == 0, "a write after the outage", pause=0.1)
    return time.monotonic() - begin


@pytest.mark.parametrize("kind", ["freeze", "kill"])
@pytest.mark.timeout(1200)
def test_a_short_outage_of_the_whole_store_stops_nothing(
    cluster: Cluster, kind: str, pytestconfig: pytest.Config, measured: Measured
) -> None:
    """Not once, whenever between two renewals it begins. Outages that happen to last too long prove nothing: they are
    repeated, at most as many again."""
    wanted = pytestconfig.getoption("--outages")
    seed = pytestconfig.getoption("--seed")
    seed = secrets.randbelow(2**32) if seed is None else seed
    chance = random.Random(seed)
    lengths: list[float] = []
    for _ in range(2 * wanted):
        span = cluster.active()
        time.sleep(chance.uniform(0, cluster.timing.pace))
        away = outage(cluster, kind, chance.uniform(0.5, cluster.calm - RECOVERY))
        cluster.wait_renewals(span)
        if away < cluster.calm:
            cluster.stays(span)
            lengths.append(away)
        if len(lengths) == wanted:
            break
    shown = " ".join(f"{length:.1f}" for length in sorted(lengths))
    measured(f"seed {seed}: {len(lengths)} of {wanted} outages survived; of {shown} s (T - P - r {cluster.calm:g} s)")
    assert len(lengths) == wanted
