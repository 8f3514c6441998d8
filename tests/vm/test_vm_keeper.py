"""Booted machines that are killed, frozen, cut off and switched off: never two, and one again within the bound.

`pytest tests/vm/test_vm_keeper.py --strikes 10` strikes ten times with each fault. With -s it says what was measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import pytest

from btw_core.timing import Timing, violations
from vm.lab import Lab, clock
from vm.nodes import IN_D, PACKAGE, TRIES, Cluster, Node, Story

TIMES = Timing(pace=1, timeout=5, start_timeout=5, stop_timeout=4, watchdog=2)


@pytest.fixture(scope="module")
def machines() -> Iterator[Cluster]:
    assert violations(TIMES) == []
    with Lab(machines=3, etcd=1) as lab:
        yield Cluster(lab, TIMES)


@pytest.fixture
def cluster(machines: Cluster) -> Iterator[Cluster]:
    """Whatever happened, there were never two."""
    yield machines
    assert machines.lab.referee.overlaps(PACKAGE) == []


def say(cluster: Cluster, what: str, story: Story, *more: str) -> None:
    t = cluster.timing
    bounds = f"(H {t.hard_at(0):g}, L {t.lease:.2f}, worst {t.worst_failover():.2f})"
    print(f"\n{what}: {'; '.join([*more, f'active elsewhere after {story.first - story.at:.2f} s {bounds}'])}")


def reset(story: Story, began: float) -> str:
    return f"node reset after {began - story.at:.2f} s (W {TIMES.watchdog:g})"


def to_both(node: Node, name: str) -> float:
    """A signal to keeper and manager; when."""
    pids = node.both()
    at = clock()
    node.signal(name, *pids)
    return at


def test_keeper_and_manager_killed(cluster: Cluster, strike: int) -> None:
    """The service lives on, and nobody feeds the watchdog: it has reset the node, W later, before the other starts."""
    story, began = cluster.reset(lambda node: to_both(node, "KILL"))
    cluster.judge(story)
    say(cluster, "keeper and manager killed", story, reset(story, began))
    assert story.at < story.last < began < story.first
    assert cluster.heal() is story.other


def test_a_stop_that_hangs_without_the_lock(cluster: Cluster, strike: int) -> None:
    """Cut off, and the stop hangs in state D with the service still active: the watchdog resets the node by H, and
    only then the other starts."""
    hangs(cluster, "watchdog")


def test_power_off(cluster: Cluster, strike: int) -> None:
    """A node that lost its power is silent; the other starts after L."""
    story = cluster.strike(lambda node: node.machine.power_off())
    cluster.judge(story)
    say(cluster, "power off", story, f"last heard {story.last - story.at:.2f} s after it")


def test_cable_pulled(cluster: Cluster, strike: int) -> None:
    """The service is stopped when T is over, and the other starts after L. No node is rebooted; plugged in again the
    first one stands by."""
    story = cluster.strike(lambda node: node.machine.cut())
    cluster.judge(story)
    say(cluster, "cable pulled", story, f"stopped after {story.last - story.at:.2f} s (T {TIMES.timeout:g})")
    assert story.last - story.at < TIMES.hard_at(0)
    assert story.node.machine.boot_id() == story.boot
    assert cluster.heal() is story.other
    assert story.node.machine.boot_id() == story.boot


def test_keeper_and_manager_frozen(cluster: Cluster, strike: int) -> None:
    """As if they were killed: the watchdog resets the node before the other starts."""
    story, began = cluster.reset(lambda node: to_both(node, "STOP"))
    cluster.judge(story)
    say(cluster, "keeper and manager frozen", story, reset(story, began))
    assert story.at < story.last < began < story.first


def test_a_node_frozen_for_longer_than_its_lease(cluster: Cluster, strike: int) -> None:
    """When the machine goes on, another has the package: the watchdog, whose time is over, resets it before any of its
    programs runs. The referee hears nothing of it any more."""
    resumed = 0.0

    def go_on(story: Story) -> None:
        nonlocal resumed
        time.sleep(1)
        resumed = clock()
        story.node.machine.resume()

    story, began = cluster.reset(lambda node: node.machine.freeze(), go_on)
    heard = cluster.heard(story)
    cluster.judge(story)
    say(
        cluster,
        "node frozen",
        story,
        f"resumed after {resumed - story.at:.1f} s, reset {began - resumed:.2f} s later",
        f"active for {max(heard, default=resumed) - resumed:.3f} s meanwhile, {len(heard)} reports",
    )
    assert heard == []


def test_a_stop_that_hangs_and_no_watchdog(cluster: Cluster, strike: int) -> None:
    """self_fence = "reboot": then it is the keeper that reboots the node at H."""
    if cluster.timing is TIMES:
        cluster.configure(msgspec.structs.replace(TIMES, watchdog=0), "reboot")
    hangs(cluster, "reboot")


def hangs(cluster: Cluster, self_fence: str) -> None:
    """A busy machine may be reset before its stop has come to hang: then it is struck again."""
    assert any(hung(cluster, self_fence) for _ in range(TRIES)), f"{IN_D}: in none of {TRIES} strikes"


def hung(cluster: Cluster, self_fence: str) -> bool:
    """Strikes and judges. Whether the stop was in state D."""
    hard, console = 0.0, 0

    def fault(node: Node) -> float:
        nonlocal hard, console
        node.arm()
        console = len(node.machine.console())
        node.machine.cut()
        at = clock()
        hard = node.hard()  # from the last renewal that was confirmed: there can be no other
        return at

    story, began = cluster.reset(fault)
    cluster.judge(story)
    in_d = IN_D in story.node.machine.console()[console:]
    what = f"a stop {'in state D' if in_d else 'that had not come to hang'}, self_fence {self_fence}"
    say(cluster, what, story, f"node reset after {began - story.at:.2f} s, about {hard - began:.2f} s before H")
    t = cluster.timing
    assert hard - t.stop_timeout < story.last < began < story.first
    assert story.last < hard + t.slack
    return in_d
