"""Scenarios told step by step: crashes at every boundary, and what random faults meet too seldom."""

from __future__ import annotations

from functools import partial

import pytest

from btw_core.ports import HaltAsked, Operation
from btw_core.testing.sim import Setting, Verdict, World
from btw_core.testing.sim.adversary import Script
from btw_core.testing.sim.effects import Plan
from btw_core.testing.sim.node import Node
from btw_core.timing import Timing
from btw_core.types import PackageSpec, ResourceSpec, Verb

TIMING = Timing(pace=1.0, timeout=5.0, start_timeout=10.0, stop_timeout=4.0)
SPEC = PackageSpec(
    name="p", timing=TIMING, resources=tuple(ResourceSpec(name=name, type="sim") for name in ("disk", "web"))
)


def stale_session(seed: int = 0) -> Verdict:
    """node3 does not come back after a reboot; then the holder dies and its service cannot be killed for a while."""

    def node3_stays_away(world: World) -> None:
        assert isinstance(world.adversary, Script)
        world.adversary.pause = 1e6
        life = world.nodes["node3"].life
        assert life is not None
        life.die("stays away")
        world.adversary.pause = 1.0

    def holder_dies(world: World) -> None:
        assert isinstance(world.adversary, Script)
        world.adversary.pause = 1e6
        for node in list(world.nodes.values())[:2]:
            if node.life is not None and node.life.manager.controllers["p"].claim.held:
                node.life.die("kill -9")
                for part in node.parts.values():
                    part.stiff_until = 150.0

    acts = ((20.0, node3_stays_away), (30.0, lambda world: world.computers[0].reboot()), (60.0, holder_dies))
    setting = Setting(
        nodes=3, computers=1, minutes=4, specs=(SPEC,), adversary=partial(Script, acts=acts), exact_clocks=True
    )
    return World(seed, setting, keep_trace=True).run()


def test_an_old_session_does_not_pay_a_debt() -> None:
    """While the former holder's service cannot be killed nothing is started; afterwards it is."""
    verdict = stale_session()
    assert verdict.problem == "", "\n".join(verdict.trace)
    assert any("D state" in line or "survive" in line for line in verdict.trace)


class _Slow(Script):
    """Starts take two seconds for each resource and cannot be killed for three: their effect lands late."""

    def plan(self, node: Node, operation: Operation) -> Plan:
        if operation.verb is Verb.STOP:
            return Plan(0.5)
        return Plan(2.0, "ok", 3.0)


#: Calls to ports that node1's first manager makes until it has been halted, and some more.
CALLS = 110


def _crash(call: int, computers: int) -> Verdict:
    """node1 starts the package, is halted at 20 s, node2 takes over; node1's first manager is killed at its `call`-th
    call to a port (intent, store, operation, result: every boundary)."""

    def arm(world: World) -> None:
        world.nodes["node1"].begin()
        life = world.nodes["node1"].life
        assert life is not None
        life.dies_at_call = call

    def halt(world: World) -> None:
        life = world.nodes["node1"].life
        world.adversary.fault("halted")
        if life is not None and life.alive:
            life.deliver(HaltAsked(cause="scripted"))

    acts = ((0.0, arm), (20.0, halt))
    setting = Setting(
        nodes=2,
        computers=computers,
        minutes=2,
        specs=(SPEC,),
        adversary=partial(_Slow, acts=acts),
        exact_clocks=True,
    )
    return World(call, setting, keep_trace=True).run()


@pytest.mark.parametrize("computers", [1, 2])
def test_a_crash_at_every_call(computers: int) -> None:
    """Killed at any boundary between intent, effect and result: never two, and it runs in the end."""
    died = 0
    for call in range(1, CALLS):
        verdict = _crash(call, computers)
        assert verdict.problem == "", "\n".join([*verdict.trace[-60:], f"call {call}, {computers} computers"])
        died += any("killed at a port call" in line for line in verdict.trace)
    assert died > 60
