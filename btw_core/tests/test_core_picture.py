"""The picture of a cluster, from what the store holds."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest

from btw_core import lease
from btw_core.cluster import ClusterView, Kind, Order, Phase, Rules, Switch, Verb
from btw_core.lease import PackageRecord, SessionRecord, View
from btw_core.picture import PHASES, Silent, picture
from btw_core.records import SLOT, DrainRecord, NodeRecord, Papers, SwitchRecord
from btw_core.types import Incarnation, State

ALL_HEARD = Silent()
RULES = {"web": Rules(nodes=("a", "b"), priority=7)}


def _life(node: str, slot: str = SLOT) -> Incarnation:
    return Incarnation(node=node, machine=node, boot="1", nonce=f"{node}1", slot=slot)


def _held(node: str, slot: str = SLOT, **said: Any) -> PackageRecord:
    return PackageRecord(term=1, lease=60.0, holder=_life(node, slot), **said)


def _node(node: str, **said: Any) -> NodeRecord:
    return NodeRecord(boot="1", nonce=f"{node}1", digests={"web": {}}, **said)


def _picture(
    packages: dict[str, PackageRecord] | None = None,
    *,
    nodes: dict[str, NodeRecord] | None = None,
    switches: dict[str, SwitchRecord] | None = None,
    drains: dict[str, DrainRecord] | None = None,
    ended: tuple[str, ...] = (),
    silent: Silent = ALL_HEARD,
    own: dict[str, Phase] | None = None,
    rules: dict[str, Rules] = RULES,
) -> ClusterView:
    """As node a sees it; b is there as well."""
    locks = {name: (1, record) for name, record in (packages or {}).items()}
    sessions = {
        lease.session_key(_life(node)): (1, SessionRecord(incarnation=_life(node), seq=1, ended=node in ended))
        for node in ("a", "b")
    }
    papers = Papers(nodes or {"a": _node("a"), "b": _node("b")}, switches or {}, drains or {})
    view = View(sent=0.0, received=0.0, packages=locks, sessions=sessions)
    return picture(rules, view, papers, silent, "a", own or {})


def test_rules_are_those_of_the_configuration() -> None:
    web = _picture().packages["web"]
    assert (web.nodes, web.priority, web.at, web.automatic.on) == (("a", "b"), 7, {}, True)


def test_who_holds_the_lock_has_it_in_the_phase_that_it_says() -> None:
    nodes = {"a": _node("a"), "b": _node("b", phases={"web": Phase.HALTING})}
    assert _picture({"web": _held("b")}, nodes=nodes).packages["web"].at == {"b": Phase.HALTING}


def test_a_lock_that_was_released_or_never_held_is_nobodys() -> None:
    for record in (_held("b", released=True), lease.first(60.0, "new")):
        assert _picture({"web": record}).packages["web"].at == {}


def test_of_itself_a_node_knows_more_than_its_record_says() -> None:
    nodes = {"a": _node("a", phases={"web": Phase.UP}), "b": _node("b")}
    view = _picture({"web": _held("a")}, nodes=nodes, own={"web": Phase.FAILING})
    assert view.packages["web"].at == {"a": Phase.FAILING}


def test_a_lock_that_this_node_has_given_back_is_nobodys_whatever_an_older_reading_says() -> None:
    """Its own other life is another matter: that one is going to be adopted."""
    assert _picture({"web": _held("a")}).packages["web"].at == {}
    former = {"a": NodeRecord(boot="1", nonce="a2", digests={"web": {}}), "b": _node("b")}
    assert _picture({"web": _held("a")}, nodes=former).packages["web"].at == {"a": Phase.STARTING}


def test_what_a_former_life_said_does_not_count_for_the_next() -> None:
    nodes = {"a": _node("a"), "b": NodeRecord(boot="1", nonce="b0", phases={"web": Phase.STUCK}, digests={"web": {}})}
    assert _picture({"web": _held("b")}, nodes=nodes).packages["web"].at == {"b": Phase.STARTING}


def test_what_the_next_life_does_not_know_waits_for_the_end_of_the_lease_only() -> None:
    """Its file is gone there, or its memory damaged: nobody will adopt it, so it is no reason for others to wait."""
    nodes = {"a": _node("a"), "b": NodeRecord(boot="1", nonce="b0")}
    assert _picture({"web": _held("b")}, nodes=nodes).packages["web"].at == {}


def test_a_btw_run_never_says_a_word_and_counts_as_up() -> None:
    assert _picture({"web": _held("b", slot="web")}).packages["web"].at == {"b": Phase.UP}


def test_a_multi_node_package_has_a_lock_of_each_instance() -> None:
    rules = {"agent": Rules(type=Kind.MULTI_NODE), "agent2": Rules(type=Kind.MULTI_NODE)}
    locks = {"agent@a": _held("a"), "agent@b": _held("b"), "agent2@b": _held("b", released=True)}
    nodes = {"a": _node("a"), "b": _node("b", phases={"agent@b": Phase.UP})}
    view = _picture(locks, nodes=nodes, rules=rules, own={"agent@a": Phase.UP})
    assert view.packages["agent"].at == {"a": Phase.UP, "b": Phase.UP}
    assert view.packages["agent2"].at == {}


def test_switches_orders_and_what_critical_switched_off() -> None:
    """A node is off by its lock's record or by the switch; who says more of it is shown."""
    by_hand, order = Switch(by="ann", why="disk"), Order(verb=Verb.RUN, to="b")
    said = SwitchRecord(switch=Switch(on=False, by="ann"), off={"b": by_hand}, order=order, restarted=True)
    record = _held("a", off={"a": "critical: disk", "b": "critical: net"})
    web = _picture({"web": record}, switches={"web": said}).packages["web"]
    assert web.off == {"a": Switch(why="critical: disk"), "b": by_hand}
    assert (web.automatic.on, web.order, web.restarted) == (False, order, True)


def test_nodes_are_lost_quiet_or_drained_as_they_were_heard_and_as_people_said() -> None:
    drains = {"b": DrainRecord(drained=Switch(on=True, by="ann", why="new disk"))}
    nodes = {"a": _node("a", leaving=True), "b": _node("b")}
    view = _picture(nodes=nodes, drains=drains, silent=Silent(lost=("b",), quiet=("a", "b")))
    assert view.nodes["a"].drained == "its btw ends"
    assert view.nodes["b"].drained == "by ann: new disk"
    assert [(node.lost, node.quiet) for node in view.nodes.values()] == [(False, True), (True, False)]
    assert _picture(drains={"b": DrainRecord()}).nodes["b"].drained == ""
    assert _picture(drains={"b": DrainRecord(drained=Switch(on=True))}).nodes["b"].drained == "by hand"


def test_a_node_serves_what_it_has_loaded_and_nothing_once_its_btw_has_ended() -> None:
    assert [node.serves for node in _picture(ended=("b",)).nodes.values()] == [("web",), ()]


def test_a_package_has_an_heir_as_long_as_that_life_and_who_says_so_are_there() -> None:
    giver, heir = _node("b", given={"web": "a1"}), _node("a")
    assert _picture(nodes={"a": heir, "b": giver}).packages["web"].heir == "a"
    assert _picture(nodes={"a": heir, "b": giver}, silent=Silent(lost=("b",))).packages["web"].heir == ""
    again = NodeRecord(boot="1", nonce="a2")
    assert _picture(nodes={"a": again, "b": giver}).packages["web"].heir == ""


@pytest.mark.parametrize("state", State)
def test_every_state_in_which_a_lock_is_held_has_a_phase(state: State) -> None:
    assert state in PHASES


def test_the_order_of_the_news_is_not_seen() -> None:
    """All nodes see, and so decide, the same."""
    seen = set()
    for nodes in permutations("abc"):
        locks = {f"web@{node}": _held(node, off={node: "by hand"}) for node in nodes}
        rules = {"web": Rules(nodes=("a", "b", "c"), type=Kind.MULTI_NODE)}
        seen.add(msgspec.json.encode(_picture(locks, rules=rules)))
    assert len(seen) == 1


def test_a_halt_that_has_waited_long_enough_counts_as_long_as_that_life_holds_the_lock() -> None:
    nodes = {"a": _node("a"), "b": _node("b", waited=("web",))}
    assert _picture({"web": _held("b")}, nodes=nodes).packages["web"].waited == ("b",)
    assert _picture({"web": _held("b", released=True)}, nodes=nodes).packages["web"].waited == ()
    assert _picture({"web": _held("a")}, nodes=nodes).packages["web"].waited == ()
    other = NodeRecord(boot="1", nonce="b0", waited=("web",))
    assert _picture({"web": _held("b")}, nodes=nodes | {"b": other}).packages["web"].waited == ()
