"""Multi-node packages: the four rules of *Managing Serviceguard*, 20th edition (2011), "Differences between Failover
and Multi-Node Packages". Each test quotes its rule."""

from __future__ import annotations

from btw_core.cluster import ClusterView, Dependency, Kind, NodeView, PackageView, Phase
from btw_core.placement import What, placement
from btw_core.rehearsal import play

NODES = {name: NodeView(boot="1") for name in ("n1", "n2")}
AGENT = PackageView(type=Kind.MULTI_NODE)
DB = PackageView(nodes=("n1", "n2"), dependencies=(Dependency(package="agent"),))


def view(**packages: PackageView) -> ClusterView:
    return ClusterView(nodes=NODES, packages=packages)


def up(name: str, start: ClusterView, *faults: str) -> list[set[str]]:
    """Where it is up as things stand, and after each fault."""
    return [set(each.view.packages[name].at) for each in play(start, faults)]


def test_enabling_starts_it_the_first_time_only() -> None:
    """ "If a multi-node package has auto_run disabled [...] it will not start when the cluster is started. You can use
    cmmodpkg to enable package switching and start the package for the first time. But if you then halt the multi-node
    package via cmhaltpkg, it can be re-started only by means of cmrunpkg, not cmmodpkg." """
    start = view(agent=PackageView(type=Kind.MULTI_NODE, auto_run=False))
    found = up("agent", start, "enable agent", "halt agent", "disable agent", "enable agent", "run agent")
    both = {"n1", "n2"}
    assert found == [set(), both, set(), set(), set(), both]


def test_a_rebooted_node_starts_its_instance() -> None:
    """ "If a multi-node package is halted via cmhaltpkg, package switching is not disabled. This means that the halted
    package will start to run on a rebooted node, if it is configured to run on that node and its dependencies are met."
    """
    both = {"n1", "n2"}
    found = up("agent", view(agent=AGENT), "halt agent", "node n2 lost", "node n2 back")
    assert found == [both, set(), set(), {"n2"}]
    halted = play(view(agent=AGENT), ["halt agent"])[-1].view
    assert halted.packages["agent"].automatic.on
    only_n1 = PackageView(type=Kind.MULTI_NODE, nodes=("n1",))
    assert up("agent", view(agent=only_n1), "halt agent", "node n2 lost", "node n2 back")[-1] == set()
    needing = PackageView(type=Kind.MULTI_NODE, dependencies=(Dependency(package="agent"),))
    found = up("log", view(agent=AGENT, log=needing), "halt log", "halt agent", "node n2 lost", "node n2 back")
    assert found == [both, set(), set(), set(), {"n2"}], "after the agent, which it needs, was started there too"


def coming_up(restarted: bool) -> ClusterView:
    """The agent is up on n2 and still starts on n1, the primary node of db."""
    agent = PackageView(type=Kind.MULTI_NODE, at={"n1": Phase.STARTING, "n2": Phase.UP}, restarted=restarted)
    return view(agent=agent, db=DB)


def test_dependents_start_on_their_primary_node_the_first_time() -> None:
    """ "When a multi-node package is started the first time [...] any dependent package will start on its primary node.
    But if a multi-node package is halted along with its dependent packages, and the multi-node package is then
    restarted, dependent packages which have had package switching re-enabled will start on the first eligible node on
    which an instance of the multi-node package comes up; this may not be the dependent packages' primary node." """
    first = placement(coming_up(restarted=False))
    assert first.targets["db"] == ("n1",)
    waiting = first.of("db", "n1")
    assert waiting is not None and (waiting.what, waiting.cause) == (What.WAIT, "until agent is up on the same node")
    again = placement(coming_up(restarted=True))
    assert again.targets["db"] == ("n2",)
    taking = again.of("db", "n2")
    assert taking is not None and taking.what is What.TAKE
    assert "n1: needs agent, which was restarted and is not yet up there" in taking.cause
    halted = play(view(agent=AGENT, db=DB), ["halt db", "halt agent", "enable db", "run agent"])
    assert [each.refused for each in halted] == [""] * 5
    assert halted[-1].view.packages["agent"].restarted, "this is how it comes to be restarted"


def test_enabling_late_or_naming_the_node_gets_the_primary() -> None:
    """ "To ensure that dependent failover packages restart on their primary node [...] make sure the dependent packages
    package switching is not re-enabled before the multi-node packages are restarted. You can then either restart the
    dependent failover packages with cmrunpkg, specifying the node you want them to start on, or enable package
    switching for these packages after the multi-node package startup is complete." """
    restarted = play(view(agent=AGENT, db=DB), ["halt db", "halt agent", "run agent"])[-1].view
    assert restarted.packages["db"].at == {}, "not enabled, so it has not started"
    assert up("db", restarted, "enable db")[-1] == {"n1"}
    assert up("db", restarted, "run db on n1")[-1] == {"n1"}
    ordered = placement(play(coming_up(restarted=True), ["halt db"])[0].view)
    assert ordered.targets["db"] == ("n2",), "whereas who was enabled before is on the first instance, and stays there"
