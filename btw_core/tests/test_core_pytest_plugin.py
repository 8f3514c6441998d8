"""The fixtures that btw-core gives to the tests of plugins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from btw_core.resource import Failed
from btw_core.testing import Bench, FakeContext
from btw_core.testing.fakes import ManualClock
from btw_core.testing.sim import Verdict
from btw_core.types import Status, Verb


def test_a_bench_for_each_table(btw_bench: Callable[..., Bench], tmp_path: Path) -> None:
    """Two resources on nodes of their own, run by real processes; both are gone when the fixture is (see there)."""
    pytest.importorskip("btw_exec", reason="needs btw-exec")
    one, two = (btw_bench({"type": "flag", "path": str(tmp_path / name)}, patience=60.0) for name in ("a", "b"))
    assert one.operate(Verb.START).ok
    assert (tmp_path / "a").exists() and not (tmp_path / "b").exists()
    assert [bench.look().status for bench in (one, two)] == [Status.UP, Status.DOWN]


def test_a_context_that_runs_commands(btw_context: type[FakeContext]) -> None:
    """As the real one, its lines kept."""
    ctx = btw_context(Verb.STOP, seconds=30)
    assert ctx.run(["echo", "hello"]).output == "hello\n"
    with pytest.raises(Failed, match="exit code 3"):
        ctx.run("exit 3")
    ctx.log("a line")
    assert ctx.lines[-1] == "a line"


def test_a_clock_that_stands_still(btw_clock: ManualClock) -> None:
    """Until the test moves it."""
    before = btw_clock.now()
    btw_clock.time += 5
    assert btw_clock.now() == before + 5


def test_a_simulated_cluster(btw_simulate: Callable[..., Verdict]) -> None:
    """One seed, one verdict: the same again."""
    one, two = btw_simulate(7, minutes=1, nodes=2), btw_simulate(7, minutes=1, nodes=2)
    assert one.problem == "" and one.starts > 0
    assert one == two
