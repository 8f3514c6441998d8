"""Placement, as pictures that a person can read: scenarios/NAME.txt holds a view, a command and what it prints.

    python btw_core/tests/test_core_placement.py        writes what is printed anew; read the difference
"""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec
import pytest

from btw_core.cluster import ClusterView, Dependency, FailbackPolicy, NodeView, PackageView, Phase, Switch
from btw_core.placement import What, placement
from btw_core.rehearsal import befall, play, section

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
COMMAND = "$ btw simulate --view VIEW "


def parts(scenario: Path) -> tuple[str, str, str]:
    """(the view, the command with all before it, what it prints)."""
    text = scenario.read_text()
    view, mark, rest = text.partition(COMMAND)
    command, _, printed = rest.partition("\n")
    assert mark, f"{scenario.name} has no line {COMMAND}..."
    return view, f"{view}{mark}{command}\n", printed


def played(scenario: Path) -> str:
    content, command, _ = parts(scenario)
    view = msgspec.toml.decode(content, type=ClusterView)
    faults = shlex.split(command.rpartition(COMMAND)[2])
    return "\n\n".join(section(each) for each in play(view, faults)) + "\n"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(scenario: Path) -> None:
    """What the view comes to is what stands below it, cause by cause."""
    assert played(scenario) == parts(scenario)[2], "if it is meant so: python btw_core/tests/test_core_placement.py"


def decided(view: ClusterView, package: str) -> list[tuple[str, What, int, str]]:
    return [(d.node, d.what, d.delay, d.cause) for d in placement(view).decisions if d.package == package]


def nodes(**said: NodeView) -> dict[str, NodeView]:
    return {"n1": NodeView(), "n2": NodeView(), "n3": NodeView()} | said


def test_the_preferred_node_tries_first_and_costs_a_pace_when_absent() -> None:
    """Each node that could start it tries, a pace after the one before it: no race for the lock, and no waiting for a
    node of which nobody knows yet that it is lost."""
    view = ClusterView(nodes=nodes(), packages={"web": PackageView(nodes=("n2", "n1", "n3"))})
    assert decided(view, "web") == [
        ("n2", What.TAKE, 0, "first of its list"),
        ("n1", What.TAKE, 1, "is for n2; here after a pace without it"),
        ("n3", What.TAKE, 2, "is for n2; here after 2 paces without it"),
    ]
    lost = ClusterView(nodes=nodes(n2=NodeView(lost=True)), packages=view.packages)
    assert decided(lost, "web") == [
        ("n2", What.NOT, 0, "lost"),
        ("n1", What.TAKE, 0, "first of its list that can (n2: lost)"),
        ("n3", What.TAKE, 1, "is for n1; here after a pace without it"),
    ]


def test_every_node_of_its_list_knows_why() -> None:
    """Whoever runs it, whoever does not, and a node that was never seen."""
    packages = {"web": PackageView(nodes=("n1", "n2", "n9"), at={"n1": Phase.UP})}
    assert decided(ClusterView(nodes=nodes(), packages=packages), "web") == [
        ("n1", What.STAY, 0, "runs here"),
        ("n2", What.NOT, 0, "runs on n1"),
        ("n9", What.NOT, 0, "runs on n1"),
    ]
    packages = {"web": PackageView(nodes=("n9", "n1"), auto_run=True)}
    assert decided(ClusterView(nodes=nodes(), packages=packages), "web") == [
        ("n9", What.NOT, 0, "never seen"),
        ("n1", What.TAKE, 0, "first of its list that can (n9: never seen)"),
    ]


def test_up_with_auto_run_off_is_said() -> None:
    """It runs on, and whoever looks is told that nobody would take it over."""
    packages = {"web": PackageView(auto_run=False, at={"n1": Phase.UP})}
    cause = "runs here; auto_run is off: as configured; nobody would take it over"
    assert decided(ClusterView(nodes=nodes(), packages=packages), "web")[0] == ("n1", What.STAY, 0, cause)


def _gone_back(**said: object) -> ClusterView:
    """`web` goes back to n1 by itself; n3 may run it as well."""
    web = PackageView(nodes=("n1", "n2", "n3"), failback_policy=FailbackPolicy.AUTOMATIC)
    return ClusterView(nodes=nodes(), packages={"web": msgspec.structs.replace(web, **said)})


def test_what_was_given_up_for_a_node_is_left_to_it() -> None:
    """Eight paces more than else: that node was heard of a moment ago, and each further move is an outage."""
    found = placement(_gone_back(at={"n2": Phase.UP})).of("web", "n2")
    assert found is not None and (found.what, found.heir) == (What.HALT, "n1")
    assert decided(_gone_back(heir="n1"), "web") == [
        ("n1", What.TAKE, 0, "first of its list"),
        ("n2", What.TAKE, 9, "is for n1, given up for it; here after 9 paces without it"),
        ("n3", What.TAKE, 10, "is for n1, given up for it; here after 10 paces without it"),
    ]


def test_what_was_given_up_in_vain_does_not_go_back_again() -> None:
    """No ping-pong with a node that lives and does not act; another life of it is asked anew."""
    view = _gone_back(heir="n1", at={"n3": Phase.UP})
    cause = "runs here; was given up for n1, which did not take it; not once more before it begins anew"
    assert decided(view, "web")[2] == ("n3", What.STAY, 0, cause)
    assert decided(befall(view, "node n1 back"), "web")[2][1] is What.HALT


def test_phases_that_are_under_way_are_waited_for() -> None:
    """A halting holder keeps everybody else out; what needs it waits until it is up, not only starting."""
    app = PackageView(dependencies=(Dependency(package="db"),))
    halting = {"db": PackageView(at={"n1": Phase.HALTING}, off={"n1": Switch()}), "app": app}
    assert decided(ClusterView(nodes=nodes(), packages=halting), "db")[:2] == [
        ("n1", What.HALT, 0, "is halting"),
        ("n2", What.WAIT, 0, "is halting on n1, is for n2"),
    ]
    starting = {"db": PackageView(at={"n1": Phase.STARTING}), "app": app}
    found = decided(ClusterView(nodes=nodes(), packages=starting), "app")
    assert found[0] == ("n1", What.WAIT, 0, "until db is up on the same node")


def write() -> None:
    for scenario in SCENARIOS:
        scenario.write_text(parts(scenario)[1] + played(scenario))


if __name__ == "__main__":
    write()
