"""Random clusters: whatever happens, every decision has a cause, exclusions hold, and it comes to rest."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btw_core.cluster import RUNNING, Kind
from btw_core.placement import LEFT, What, placement
from btw_core.testing.clusters import Cluster, random_view

#: After the last misfortune nothing (of a multi-node package: no instance) is started more often than this: by a
#: stand-by because the node that it is for did not act, once where it was to go, and once more with what it needs.
MOVES = 3

SEEDS = int(os.environ.get("BTW_CLUSTERS", "16"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_random_cluster_comes_to_rest(seed: int) -> None:
    """2 to 8 nodes, 1 to 40 packages, random dependencies, misfortunes and commands: no decision without a cause,
    never two, no exclusion broken at any turn, few moves after the last one, and at rest everything runs that could."""
    dice = random.Random(seed)
    cluster = Cluster(random_view(dice, dice.randint(2, 8), dice.randint(1, 40)), dice)
    history = []
    for _ in range(3):
        cluster.trouble = 0.15
        for _ in range(dice.randint(1, 40)):
            if dice.random() < 0.3:
                history.append(cluster.misfortune())
            cluster.turn()
        cluster.trouble = 0.0
        cluster.starts.clear()
        assert cluster.rest(2000), f"does not come to rest: {history}"
        assert max(cluster.starts.values(), default=0) <= MOVES, cluster.starts.most_common(3)
        assert not cluster.idle_without_reason(), cluster.idle_without_reason()


@settings(max_examples=20, deadline=None)
@given(nodes=st.integers(2, 6), packages=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_one_node_at_a_time_is_asked(nodes: int, packages: int, seed: int) -> None:
    """In whatever picture: a failover package is for one node, one node at most may try for its lock at once, each
    later one a pace after another; who has it elsewhere keeps all others out; the same picture, the same plan."""
    dice = random.Random(seed)
    cluster = Cluster(random_view(dice, nodes, packages), dice)
    cluster.trouble = 0.2
    for _ in range(dice.randint(0, 30)):
        if dice.random() < 0.3:
            cluster.misfortune()
        cluster.turn()
    plan = placement(cluster.view)
    assert plan == placement(cluster.view)
    for name, package in cluster.view.packages.items():
        if package.type is not Kind.FAILOVER:
            continue
        delays = [d.delay for d in plan.decisions if d.package == name and d.what is What.TAKE]
        after = LEFT if package.heir == next(iter(plan.targets[name]), "") else 0
        assert len(plan.targets[name]) <= 1
        assert sorted(delays) == [0, *(after + n for n in range(1, len(delays)))][: len(delays)]
        kept = [n for n, phase in package.at.items() if phase in RUNNING and not cluster.view.nodes[n].lost]
        assert not (kept and delays), f"{name} runs on {kept} and others are sent for its lock"
