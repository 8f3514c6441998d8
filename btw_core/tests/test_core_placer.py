"""A daemon's placer and manager: what is asked for, and how it ends when it has to give up."""

from __future__ import annotations

import msgspec
import pytest

from btw_core import lease
from btw_core.cluster import Rules
from btw_core.controller import Controller
from btw_core.lease import decode
from btw_core.manager import Manager
from btw_core.placer import Daemon, Placer
from btw_core.ports import Looked, ResourceHealth
from btw_core.records import SwitchRecord
from btw_core.testing.fakes import Bench
from btw_core.timing import Timing
from btw_core.types import Incarnation, PackageSpec, ResourceSpec, State, Status

ME = Incarnation(node="a", machine="m", boot="b", nonce="me", slot="@daemon", home="a.1")
SPEC = PackageSpec(name="web", timing=Timing(), resources=(ResourceSpec(name="flag", type="flag"),))
DAEMON = Daemon(rules={"web": Rules(nodes=("a",))}, digests={"web": {"": "1"}}, when=lambda: "now")


def _placer(bench: Bench) -> Placer:
    placer = Placer(bench.desk, ME, DAEMON, Timing())
    placer.controllers = {"web": Controller(bench.desk, SPEC, ME, placer.told)}
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


def test_a_daemon_that_gives_up_ends() -> None:
    bench = Bench()
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
    assert "btw init" in manager.failure
    assert manager.finished


@pytest.mark.parametrize("everywhere", [True, False])
def test_what_a_failed_start_switches_off(everywhere: bool) -> None:
    """Exit 1: "do not try elsewhere", auto_run off and node switching unchanged. Exit 2: "try another node", the other
    way round."""
    bench = Bench()
    bench.store.write("packages/web", lease.encode(lease.first(SPEC.timing.lease, "new")))
    placer = _placer(bench)
    controller = placer.controllers["web"]
    controller.begin()

    def read() -> None:
        controller.seen(bench.view())
        placer.seen(bench.store.records.values(), bench.view())
        _answers(bench)

    read()
    read()
    bench.executor.operations.clear()
    results = (ResourceHealth(resource="flag", status=Status.DOWN),)
    controller.looked(Looked(id=bench.executor.looks[-1].id, package="web", results=results))
    assert controller.situation.state is State.STARTING
    bench.executor.end(bench.executor.operations[-1], ok=False, error="exit code 1", everywhere=everywhere)
    _answers(bench)
    switches = decode(SwitchRecord, "switches/web", bench.store.records["switches/web"].value)
    if everywhere:
        assert switches.switch is not None and not switches.switch.on and "exit code 1" in switches.switch.why
        assert switches.off == {}
    else:
        assert switches.switch is None
        assert "exit code 1" in switches.off["a"].why
