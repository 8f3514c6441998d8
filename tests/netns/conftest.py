"""One cluster for all tests of a module; each finds it whole. Options for the nightly session; what was measured."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from .cluster import Cluster
from .vips import Field

Measured = Callable[[str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--outages 20 --storm 600 --seed 7`; with less the session takes minutes."""
    parser.addoption("--outages", type=int, default=2, help="outages of the whole etcd of each kind (2)")
    parser.addoption("--storm", type=float, default=60.0, help="seconds of random faults (60)")
    parser.addoption("--seed", type=int, default=None, help="of everything random (a new one, printed)")


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """Healed before; afterwards no two services were ever active at once."""
    shared_cluster.heal()
    yield shared_cluster
    assert shared_cluster.referee.violations == []


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Say what was measured; it is shown at the end of the session."""
    return lambda text: record_property("measured", text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows all journals, and what the referee saw."""
    report = yield
    given: Any = getattr(item, "funcargs", {})
    told = given.get("cluster") or given.get("ground")
    if report.failed and isinstance(told, Cluster | Field):
        try:
            seen = told.told()
        except OSError as error:  # a module's teardown has removed it
            seen = f"nothing can be read any more: {error}"
        report.sections.append(("cluster", seen))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """All that was measured."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    lines = [
        f"{report.nodeid.partition('::')[2]}: {value}"
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == "measured"
    ]
    if lines:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(lines))
