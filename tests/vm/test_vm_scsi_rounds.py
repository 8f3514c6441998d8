"""A node that lost the lock cannot write, whatever state it is in: raw writers on one LIO disk, judged from its side.

`--rounds 50` strikes fifty times with each fault; with -s it says what was measured.
"""

from __future__ import annotations

import pytest

from vm.disks import PAUSE, Disks, Take, Writer
from vm.nodes import LIMIT, until

pytestmark = pytest.mark.timeout(600)  # a round is a whole lease, and more on a busy computer


def freeze(disks: Disks, *nodes: Writer) -> Take:
    """The holder stands still for longer than its lease while it writes, and goes on when another has the disk; all
    that it had in its cache is written, or refused, when this returns."""
    former = disks.run(*nodes)
    with disks.taken(former, [node for node in nodes if node is not former]) as takes:
        former.machine.freeze()
    former.machine.resume()
    until(former.ready, f"{former.name} goes on")
    former.machine.run("sync", timeout=LIMIT)
    until(lambda: not former.said_of("running"), f"{former.name} has stopped", pause=PAUSE)
    former.machine.run("sync", timeout=LIMIT)
    return takes[0]


def test_without_a_reservation_the_stale_write_is_seen(disks: Disks) -> None:
    """The control: the same package without scsi_pr. What the node that was frozen had in hand reaches the disk after
    the new holder has read it, and this laboratory sees that."""
    take = freeze(disks, *disks.nodes[:2])
    assert disks.area(take.former) != take.of(take.former)


def test_frozen_for_longer_than_its_lease(fenced: Disks, round: int) -> None:
    """Of three nodes, every other time of two: resumed with writes in hand, past the cache and in it, not one of them
    reaches the disk."""
    count = 3 - round % 2
    take = freeze(fenced, *fenced.nodes[:count])
    fenced.judge(take, f"frozen, {count} nodes")
    assert not take.former.writes()


def test_planned_move(fenced: Disks, round: int) -> None:
    """Stopped in order: the other has the disk, and the former holder cannot write."""
    former = fenced.run(*fenced.nodes[:2])
    with fenced.taken(former, [node for node in fenced.nodes[:2] if node is not former]) as takes:
        former.end()
    fenced.judge(takes[0], "planned move")
    assert not former.writes()


def test_power_off(fenced: Disks, round: int) -> None:
    """Nothing is known of it but its silence: the disk pays for it."""
    former = fenced.run(*fenced.nodes[:2])
    with fenced.taken(former, [node for node in fenced.nodes[:2] if node is not former]) as takes:
        former.machine.power_off()
    fenced.judge(takes[0], "power off")


def test_cut(fenced: Disks, round: int) -> None:
    """Away from the store, and still on the disk: stopped here, and shut out there."""
    former = fenced.run(*fenced.nodes[:2])
    with fenced.taken(former, [node for node in fenced.nodes[:2] if node is not former]) as takes:
        former.machine.cut()
    former.machine.run("sync", timeout=LIMIT)
    fenced.judge(takes[0], "cut off")
    assert not former.writes()
