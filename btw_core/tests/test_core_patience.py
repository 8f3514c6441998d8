"""successor_halt_timeout: for how long a halt waits for what needs the package."""

from __future__ import annotations

import msgspec
import pytest

from btw_core.cluster import ClusterView, Dependency, NodeView, PackageView, Phase
from btw_core.patience import Patience, past, waiting
from btw_core.placement import What, placement

DRAINED = {"n1": NodeView(drained="by hand"), "n2": NodeView()}
NEEDS_DB = (Dependency(package="db"),)


def _view(app: Phase, *, seconds: float | None = 60.0, nodes: dict[str, NodeView] = DRAINED) -> ClusterView:
    """`app` needs `db` on n1, where both are."""
    packages = {
        "db": PackageView(at={"n1": Phase.UP}, successor_halt_timeout=seconds),
        "app": PackageView(at={"n1": app}, dependencies=NEEDS_DB),
    }
    return ClusterView(nodes=nodes, packages=packages)


def _said(view: ClusterView, package: str = "db") -> tuple[What, str]:
    found = placement(view).of(package, "n1")
    assert found is not None
    return found.what, found.cause


def _look(patience: Patience, view: ClusterView, now: float) -> float | None:
    return patience.look(view, placement(view), now)


def test_dependents_halt_first_and_why_says_for_how_long_they_are_waited_for() -> None:
    what, cause = _said(_view(Phase.UP))
    assert what is What.WAIT
    assert cause.startswith("halts when app is down (or after 60 s, successor_halt_timeout): goes to n2: drained")
    assert _said(_view(Phase.UP), "app")[0] is What.HALT


@pytest.mark.parametrize("app", [Phase.UP, Phase.HALTING, Phase.STUCK])
def test_when_the_time_is_over_it_halts_all_the_same(app: Phase) -> None:
    view, patience = _view(app), Patience("n1")
    assert _look(patience, view, 100.0) == 160.0
    assert _look(patience, view, 159.0) == 160.0
    assert not patience.over
    assert _look(patience, view, 160.0) == 160.0
    assert patience.over == {"db"}
    what, cause = _said(past(view, [("db", "n1")]))
    assert what is What.HALT
    assert "without waiting for app any longer: successor_halt_timeout is over" in cause


def test_without_the_parameter_it_waits_until_they_are_down() -> None:
    view = _view(Phase.STUCK, seconds=None)
    assert waiting(view, placement(view)) == {}
    assert _said(view) == (What.STAY, "runs here, and cannot halt before app is down, which is stuck here")


def test_what_does_not_want_to_go_does_not_wait() -> None:
    """`app` is stuck beside it, and nothing wants `db` to leave: no time begins to run."""
    view = _view(Phase.STUCK, nodes={"n1": NodeView(), "n2": NodeView()})
    assert _look(Patience("n1"), view, 100.0) is None
    assert _said(view)[0] is What.STAY


def test_the_time_begins_anew_when_it_need_not_halt_any_more() -> None:
    patience, calm = Patience("n1"), _view(Phase.UP, nodes={"n1": NodeView(), "n2": NodeView()})
    assert _look(patience, _view(Phase.UP), 100.0) == 160.0
    assert _look(patience, calm, 130.0) is None
    assert _look(patience, _view(Phase.UP), 150.0) == 210.0


def test_it_is_over_until_the_package_is_down() -> None:
    patience, view = Patience("n1"), past(_view(Phase.STUCK), [("db", "n1")])
    _look(patience, _view(Phase.STUCK), 0.0)
    _look(patience, _view(Phase.STUCK), 60.0)
    halting = msgspec.structs.replace(view.packages["db"], at={"n1": Phase.HALTING})
    _look(patience, msgspec.structs.replace(view, packages={**view.packages, "db": halting}), 61.0)
    assert patience.over == {"db"}
    down = msgspec.structs.replace(view.packages["db"], at={}, waited=())
    _look(patience, msgspec.structs.replace(view, packages={**view.packages, "db": down}), 62.0)
    assert not patience.over


def test_zero_seconds_is_not_to_wait_at_all() -> None:
    patience = Patience("n1")
    assert _look(patience, _view(Phase.UP, seconds=0.0), 5.0) == 5.0
    assert patience.over == {"db"}


def test_a_node_counts_for_itself_only() -> None:
    patience = Patience("n2")
    assert _look(patience, _view(Phase.STUCK), 0.0) is None
    _look(patience, _view(Phase.STUCK), 1000.0)
    assert not patience.over
