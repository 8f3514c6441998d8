"""The two switches of a package: every transition of the manuals, and who changed what."""

from __future__ import annotations

import pytest

from btw_core.cluster import Kind, PackageView, Switch
from btw_core.switches import ROWS, Happening, Refused, switched

FAILOVER, MULTI_NODE = Kind.FAILOVER, Kind.MULTI_NODE
#: happening, kind -> auto_run and node switching of the node afterwards, None: as before. As the manuals have it.
MANUAL = {
    (Happening.HALTED, FAILOVER): (False, None),
    (Happening.HALTED, MULTI_NODE): (None, None),
    (Happening.RUN, FAILOVER): (None, None),
    (Happening.RUN, MULTI_NODE): (None, None),
    (Happening.ENABLED, FAILOVER): (True, None),
    (Happening.ENABLED, MULTI_NODE): (True, None),
    (Happening.DISABLED, FAILOVER): (False, None),
    (Happening.DISABLED, MULTI_NODE): (False, None),
    (Happening.NODE_ENABLED, FAILOVER): (None, True),
    (Happening.NODE_ENABLED, MULTI_NODE): (None, True),
    (Happening.NODE_DISABLED, FAILOVER): (None, False),
    (Happening.NODE_DISABLED, MULTI_NODE): (None, False),
    (Happening.FAILED, FAILOVER): (None, False),
    (Happening.FAILED, MULTI_NODE): (None, False),
    (Happening.START_FINAL, FAILOVER): (False, None),
    (Happening.START_FINAL, MULTI_NODE): (False, None),
    (Happening.START_ELSEWHERE, FAILOVER): (None, False),
    (Happening.START_ELSEWHERE, MULTI_NODE): (None, False),
    (Happening.TIMED_OUT, FAILOVER): (False, False),
    (Happening.TIMED_OUT, MULTI_NODE): (False, False),
    (Happening.HALT_FAILED, FAILOVER): (False, None),
    (Happening.HALT_FAILED, MULTI_NODE): (False, None),
    (Happening.NODE_CRASHED, FAILOVER): (None, None),
    (Happening.NODE_CRASHED, MULTI_NODE): (None, None),
}


def package(kind: Kind, auto_run: bool, node: bool) -> PackageView:
    off = {} if node else {"n1": Switch(by="ann", why="noisy")}
    return PackageView(type=kind, switch=Switch(on=auto_run), off={**off, "n2": Switch(by="bob")})


@pytest.mark.parametrize("node", [True, False])
@pytest.mark.parametrize("auto_run", [True, False])
@pytest.mark.parametrize(("happening", "kind"), MANUAL)
def test_every_transition(happening: Happening, kind: Kind, auto_run: bool, node: bool) -> None:
    """From each position of both switches, exactly what the manuals say; other nodes' switches are left alone."""
    before = package(kind, auto_run, node)
    if happening is Happening.RUN and not node:
        with pytest.raises(Refused, match="switched off on n1 by ann: noisy; enable it there first"):
            switched("web", before, happening, "n1")
        return
    after = switched("web", before, happening, "n1", by="btw", when="20:15", why="because")
    expected = MANUAL[happening, kind]
    assert after.automatic.on is (auto_run if expected[0] is None else expected[0])
    assert ("n1" not in after.off) is (node if expected[1] is None else expected[1])
    assert after.off["n2"] == before.off["n2"]
    if expected[0] is not None:
        assert (after.automatic.by, after.automatic.when, after.automatic.why) == ("btw", "20:15", "because")
    if expected[1] is False:
        assert str(after.off["n1"]) == " by btw at 20:15: because"


def test_every_happening_is_a_row() -> None:
    """Each kind of package has exactly one row for each thing that can happen."""
    rows = [(row.happening, kind) for row in ROWS for kind in row.kinds]
    assert sorted(rows) == sorted(MANUAL)


def test_a_switch_nobody_touched_is_as_configured() -> None:
    """auto_run has its configured value until somebody changes it, and says which of both it is."""
    untouched = PackageView(auto_run=False)
    assert untouched.automatic == Switch(on=False, why="as configured")
    enabled = switched("web", untouched, Happening.ENABLED, by="ann")
    assert enabled.automatic == Switch(on=True, by="ann", why="enabled")
