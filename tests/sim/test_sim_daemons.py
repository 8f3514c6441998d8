"""Clusters of daemons in a storm: random rules and dependencies, faults, people; see testing/sim/council.py."""

from __future__ import annotations

import os

import pytest

from btw_core.testing.sim.runner import explain, run_seed, run_seeds

#: In all (BTW_CLUSTERS=N: more), and in one test.
SEEDS, PART = int(os.environ.get("BTW_CLUSTERS", "40")), 10


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_every_cluster_comes_to_rest_where_it_should(first: int) -> None:
    """Never two, no decision without a cause; at the end everything runs that could, nothing went to and fro."""
    failed = next((each for each in run_seeds(range(first, first + PART), daemons=True) if each.problem), None)
    if failed is not None:
        pytest.fail(explain(failed, daemons=True), pytrace=False)


def test_much_happens_in_them() -> None:
    """Starts, stops, take-overs and adoptions, and words of people."""
    verdicts = [run_seed(seed, daemons=True, keep_trace=True) for seed in range(8)]
    assert sum(each.starts for each in verdicts) > 60
    assert sum(each.stops for each in verdicts) > 60
    assert sum(each.adoptions for each in verdicts) > 5
    lines = [line for each in verdicts for line in each.trace]
    assert sum("FAULT a person: " in line for line in lines) > 50
    assert any("placement: takes here" in line for line in lines)


def test_the_same_seed_is_the_same_cluster() -> None:
    """Nothing depends on anything but the seed."""
    assert [run_seed(seed, daemons=True).digest for seed in (3, 4)] == [
        run_seed(seed, daemons=True).digest for seed in (3, 4)
    ]
