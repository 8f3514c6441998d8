"""The simulation over many seeds: faults of every kind, no promise broken."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from btw_core.testing.sim import Setting, Verdict, World
from btw_core.testing.sim.adversary import Adversary, Drizzle, Reaper
from btw_core.testing.sim.runner import explain, run_seed, run_seeds
from btw_core.timing import Timing
from btw_core.types import PackageSpec, ResourceSpec

#: In all; and in one test, so that both processors have their share.
SEEDS, PART = 2000, 100


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(0, SEEDS, PART))
def test_every_seed_keeps_every_promise(first: int) -> None:
    """3 nodes x 10 simulated minutes each: never two, always one, and all that the judge checks."""
    failed = next((verdict for verdict in run_seeds(range(first, first + PART)) if verdict.problem), None)
    if failed is not None:
        pytest.fail(explain(failed), pytrace=False)


def test_the_storm_is_one() -> None:
    """The seeds do contain starts, stops, take-overs and adoptions: nothing is proved by a world that sleeps."""
    verdicts = list(run_seeds(range(60)))
    assert sum(v.starts for v in verdicts) > 300
    assert sum(v.stops for v in verdicts) > 200
    assert sum(v.takeovers for v in verdicts) > 20
    assert sum(v.adoptions for v in verdicts) > 20


def test_the_same_seed_is_the_same_run() -> None:
    """Also under another hash seed: nothing depends on the order of a set."""
    script = "from btw_core.testing.sim.runner import run_seed; print([run_seed(s).digest for s in range(8)])"
    found = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=900
        )
        found.add(done.stdout)
    assert found == {f"{[run_seed(s).digest for s in range(8)]}\n"}


@pytest.mark.parametrize("seed", range(25))
def test_short_outages_stop_nothing(seed: int) -> None:
    """Outages shorter than T - P - 2 r and no other fault: no stop, no take-over."""
    verdict = World(seed, Setting(adversary=Drizzle)).run()
    assert verdict.problem == ""
    assert verdict.stops == 0
    assert verdict.takeovers == 0


PATIENT = PackageSpec(
    name="p",
    timing=Timing(pace=1.0, timeout=20.0, start_timeout=10.0, stop_timeout=4.0),
    resources=tuple(ResourceSpec(name=name, type="sim") for name in ("disk", "web")),
)


def reaped(seed: int) -> Verdict:
    """Managers are killed, and keepers start others at once."""
    return World(seed, Setting(specs=(PATIENT,), self_fence="stop", kept=True, adversary=Reaper)).run()


@pytest.mark.parametrize("seed", range(25))
def test_a_manager_killed_at_any_call_is_adopted(seed: int) -> None:
    """Also the one that was just about to adopt: no start, no stop, no take-over."""
    verdict = reaped(seed)
    assert verdict.problem == ""
    assert verdict.adoptions > 10


@pytest.mark.parametrize("seed", range(10))
def test_without_faults_it_is_started_once(seed: int) -> None:
    """Each resource is started exactly once in ten minutes, and nothing is stopped."""
    world = World(seed, Setting(adversary=Adversary))
    verdict = world.run()
    assert verdict.problem == ""
    assert verdict.starts == sum(len(spec.resources) for spec in world.specs)
    assert verdict.stops == 0
