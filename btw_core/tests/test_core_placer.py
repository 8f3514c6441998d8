"""A daemon's placer and manager: what is asked for, and how it ends when it has to give up."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from btw_core import lease
from btw_core.cluster import FailbackPolicy, Phase, Rules
from btw_core.controller import Controller
from btw_core.lease import PackageRecord, SessionRecord, decode
from btw_core.manager import Manager
from btw_core.placer import REST, Daemon, Placer
from btw_core.ports import Looked, ResourceHealth
from btw_core.records import SLOT, NodeRecord, SwitchRecord
from btw_core.testing.fakes import Bench
from btw_core.timing import Timing
from btw_core.types import Incarnation, PackageSpec, ResourceSpec, Saved, State, Status

ME = Incarnation(node="a", machine="m", boot="b", nonce="me", slot="@daemon", home="a.1")
SPEC = PackageSpec(name="web", timing=Timing(), resources=(ResourceSpec(name="flag", type="flag"),))
UP = ResourceHealth(resource="flag", status=Status.UP)
DAEMON = Daemon(rules={"web": Rules(nodes=("a",))}, digests={"web": {"": "1"}}, when=lambda: "now")


def _placer(bench: Bench, spec: PackageSpec = SPEC) -> Placer:
    placer = Placer(bench.desk, ME, DAEMON, Timing())
    placer.controllers = {"web": Controller(bench.desk, spec, ME, placer.told)}
    return placer


def _answers(bench: Bench) -> None:
    while bench.store.calls:
        bench.store.answer()


def test_before_the_store_was_read_it_does_not_say_that_there_is_no_package() -> None:
    with pytest.raises(ValueError, match="not been read yet"):
        _placer(Bench()).ask("halt web", "root", "", lambda: None, lambda _: None)


def test_reset_switches_a_node_on_that_is_off_by_its_lock_record_alone() -> None:
    bench = Bench()
    record = lease.first(SPEC.timing.lease, "new")
    off = {"a": "critical: a disk is broken"}
    bench.store.write("packages/web", lease.encode(msgspec.structs.replace(record, off=off)))
    placer = _placer(bench)
    placer.seen(bench.store.records.values(), bench.view())
    _answers(bench)
    done: list[str] = []
    assert "a" in placer.view.packages["web"].off
    placer.reset("web", lambda: done.append("done"))
    _answers(bench)
    switches = decode(SwitchRecord, "switches/web", bench.store.records["switches/web"].value)
    assert (done, switches.enabled) == (["done"], ("a",))


@pytest.mark.parametrize("cluster", ["", "another"])
def test_a_daemon_that_gives_up_ends(cluster: str) -> None:
    """Where there is no cluster, or it is not ours; with the remedy."""
    bench = Bench()
    if cluster:
        bench.store.write(lease.CLUSTER_KEY, lease.encode(lease.ClusterRecord(id="c", name=cluster)))
    manager = Manager(ME, [SPEC], bench.desk.ports, creates=False, daemon=DAEMON)
    bench.desk = manager.desk
    manager.begin()
    for _ in range(200):
        _answers(bench)
        bench.clock.time += 0.5
        manager.tick()
        for operation in list(bench.executor.operations):
            bench.executor.end(operation)
        if manager.finished:
            break
    assert ('cluster "another"' if cluster else "btw init") in manager.failure
    assert not any(key.startswith(lease.PACKAGES) for key in bench.store.records)
    assert manager.finished


def _begins(bench: Bench, placer: Placer) -> None:
    """The placer's package reads its record, and what comes of that is answered."""
    controller = placer.controllers["web"]
    controller.begin()
    for _ in range(2):
        controller.seen(bench.view())
        placer.seen(bench.store.records.values(), bench.view())
        _answers(bench)


def _fails_to_start(bench: Bench, placer: Placer, **said: Any) -> None:
    """The package of the placer gets its lock, is down, and its start fails so."""
    bench.store.write("packages/web", lease.encode(lease.first(SPEC.timing.lease, "new")))
    controller = placer.controllers["web"]
    _begins(bench, placer)
    results = (ResourceHealth(resource="flag", status=Status.DOWN),)
    controller.looked(Looked(id=bench.executor.looks[-1].id, package="web", results=results))
    assert controller.situation.state is State.STARTING
    bench.executor.end(bench.executor.operations[-1], ok=False, **said)
    _answers(bench)


def test_what_the_store_has_not_taken_is_told_until_it_has() -> None:
    bench = Bench()
    placer = _placer(bench)
    _begins(bench, placer)
    done: list[str] = []
    placer.ask("halt web", "root", "", lambda: done.append("done"), lambda _: None)
    assert placer.unwritten == {"web": "no answer yet"}
    while bench.store.calls:  # each is lost
        bench.store.lose(committed=False)
    assert (done, placer.unwritten) == ([], {"web": "no answer"})
    bench.clock.time += 60
    bench.desk.fire()
    _answers(bench)
    assert (done, placer.unwritten) == (["done"], {})


def test_a_lock_that_is_being_given_back_is_no_start() -> None:
    """From the verified stop to the store's answer it halts, for whoever looks."""
    bench = Bench()
    placer = _placer(bench)
    controller = placer.controllers["web"]
    bench.store.write("packages/web", lease.encode(lease.first(SPEC.timing.lease, "new")))
    _begins(bench, placer)
    controller.looked(Looked(id=bench.executor.looks[-1].id, package="web", results=(UP,)))
    controller.place(allowed=False, unwanted="goes to b")
    seen = []
    for _ in range(10):
        for operation in list(bench.executor.operations):
            bench.executor.end(operation)
        seen.append((controller.situation.state, placer._phases().get("web")))
        if bench.store.calls and controller.situation.state is State.STANDBY:
            break
    assert seen[-1] == (State.STANDBY, Phase.HALTING)
    _answers(bench)
    assert placer._phases() == {}


def _switches(bench: Bench) -> SwitchRecord:
    return decode(SwitchRecord, "switches/web", bench.store.records["switches/web"].value)


@pytest.mark.parametrize("everywhere", [True, False])
def test_what_a_failed_start_switches_off(everywhere: bool) -> None:
    """Exit 1: "do not try elsewhere", auto_run off and node switching unchanged. Exit 2: "try another node", the other
    way round."""
    bench = Bench()
    _fails_to_start(bench, _placer(bench), error="exit code 1", everywhere=everywhere)
    switches = _switches(bench)
    if everywhere:
        assert switches.switch is not None and not switches.switch.on and "exit code 1" in switches.switch.why
        assert switches.off == {}
    else:
        assert switches.switch is None
        assert "exit code 1" in switches.off["a"].why


@pytest.mark.parametrize("everywhere", [True, False])
def test_the_switch_of_a_failure_whose_manager_was_killed(everywhere: bool) -> None:
    """The next life reads of it in the node's memory, writes the switch, and goes on with the stop."""
    bench = Bench()
    before = msgspec.structs.replace(ME, nonce="before")
    saved = Saved(incarnation=before, term=1, may_be_up=True, failed="exit code 1", everywhere=everywhere)
    bench.disk.saved["web"] = saved
    bench.store.write("packages/web", lease.encode(PackageRecord(term=1, lease=SPEC.timing.lease, holder=before)))
    placer = _placer(bench)
    controller = placer.controllers["web"]
    _begins(bench, placer)
    switches = _switches(bench)
    assert controller.situation.state is State.FAILING
    assert (switches.switch is not None, list(switches.off)) == ((True, []) if everywhere else (False, ["a"]))


@pytest.mark.parametrize(("what", "phase"), [("hold", Phase.STUCK), ("fence", Phase.FAILING)])
def test_a_stop_that_fails(what: str, phase: Phase) -> None:
    """"hold": nobody starts it before a person acts. "fence": this node is about to be rebooted, so another one may
    have it as soon as its lock is free; here it stays switched off for the failure that it was stopped for."""
    bench = Bench()
    placer = _placer(bench, msgspec.structs.replace(SPEC, on_stop_failure=what))
    _fails_to_start(bench, placer, error="exit code 2")
    bench.executor.end(bench.executor.operations[-1], ok=False, error="busy")
    bench.clock.time += REST
    bench.desk.fire()
    _answers(bench)
    assert placer.controllers["web"].situation.state is State.STUCK
    switches = _switches(bench)
    assert (switches.switch is None) == (what == "fence")
    assert list(switches.off) == ["a"]
    assert decode(NodeRecord, "nodes/a", bench.store.records["nodes/a"].value).phases == {"web": phase}


def test_nothing_is_given_up_by_choice_for_a_node_that_was_not_heard() -> None:
    """a holds `web`, and it goes back to b; but b may be dead, as far as a has seen. When it hears of it, it says
    for whom it gives `web` up, and gives it up."""
    rules = {"web": Rules(nodes=("b", "a"), failback_policy=FailbackPolicy.AUTOMATIC)}
    there = Incarnation(node="b", machine="m2", boot="b", nonce="there", slot=SLOT)
    bench = Bench()
    digests = {"web": {"": "1"}}
    bench.store.write("nodes/b", lease.encode(NodeRecord(boot="b", nonce="there", renews=9.0, digests=digests)))
    bench.store.write("packages/web", lease.encode(PackageRecord(term=1, lease=SPEC.timing.lease, holder=ME)))
    placer = Placer(bench.desk, ME, DAEMON._replace(rules=rules), Timing())
    controller = Controller(bench.desk, SPEC, ME, placer.told)
    controller.situation = msgspec.structs.replace(controller.situation, state=State.RUNNING)
    controller.claim.held = True
    placer.controllers = {"web": controller}
    for seq, unwanted in ((1, False), (1, False), (2, True)):
        session = SessionRecord(incarnation=there, seq=seq)
        bench.store.write(lease.session_key(there), lease.encode(session))
        placer.seen(bench.store.records.values(), bench.view())
        _answers(bench)
        assert unwanted or placer.mine["web"].heir == "b"
        assert bool(controller.unwanted) is unwanted
        bench.clock.time += 1.0
    said = decode(NodeRecord, "nodes/a", bench.store.records["nodes/a"].value)
    assert said.given == {"web": "there"}
