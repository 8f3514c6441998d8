"""What was acknowledged after fsync is there, whatever became of the node that wrote it: ext4 on an iSCSI disk.

`--data 20` moves the package twenty times and kills its node twenty times; with -s it says what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from btw_core.timing import Timing, violations
from vm.disks import PAUSE
from vm.lab import Lab, clock
from vm.ledger import ENOUGH, GO, IMAGE, Clerk, Ledger
from vm.nodes import LIMIT, until
from vm.records import missing

TIMES = Timing(pace=1, timeout=5, start_timeout=20, stop_timeout=5)
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    assert violations(TIMES) == []
    with Lab(machines=3, etcd=1, disk=True, memory=512) as lab:  # the disk lies in the memory of its machine, twice
        ledger = Ledger(lab, TIMES)
        try:
            yield ledger
        finally:
            ledger.close()


@pytest.fixture
def guarded(ledger: Ledger) -> Ledger:
    if not ledger.guarded:
        ledger.make(guarded=True)
    return ledger


def judge(ledger: Ledger, holder: Clerk, at: float, first: float, last: float, what: str) -> None:
    """Everything that was acknowledged before is read by the new holder."""
    told = ledger.client.acknowledged()
    found = holder.read()
    assert missing(told, found["lives"]) == {}
    assert found["broken"] == []
    print(f"\n{what}: {sum(map(len, told.values()))} acknowledged, none lost; ", end="")
    print(f"silent for {first - last:.2f} s, {first - at:.2f} s after it {holder.name} writes")


def test_planned_move(guarded: Ledger, data: int) -> None:
    """Stopped in order here, started there."""
    former, other = guarded.run()
    known, at = guarded.client.acknowledged(), clock()
    former.end()
    first = guarded.taken(other, known)
    judge(guarded, other, at, first, guarded.client.last(former.name), "planned move")


def test_kill(guarded: Ledger, data: int) -> None:
    """Power off and reset, in turn, of the node that writes. The other one replays the journal, and goes on."""
    former, other = guarded.run()
    seen = len(other.events())
    known, at = guarded.client.acknowledged(), clock()
    if data % 2:
        former.reset()
    else:
        former.machine.power_off()
    first = guarded.taken(other, known)
    judge(guarded, other, at, first, guarded.client.last(former.name), "reset" if data % 2 else "power off")
    assert any("recovering journal" in event.get("cause", "") for event in other.events()[seen:])


def test_all_of_it_is_on_the_disk(guarded: Ledger) -> None:
    """After everything, read where the disk is; its file system is in order, without a repair."""
    for node in guarded.nodes:
        guarded.mend(node)
        node.end()
    told = guarded.client.acknowledged()
    assert told, "run all of the module"
    found = guarded.on_the_disk()
    assert missing(told, found["lives"]) == {}
    assert found["broken"] == []
    checked = guarded.storage.run("e2fsck", "-f", "-n", IMAGE, check=False, timeout=LIMIT)
    print(f"\n{sum(map(len, told.values()))} acknowledged in {len(told)} lives, all on the disk")
    assert checked.code == 0, checked.out


def test_without_lock_and_reservation_records_are_lost(ledger: Ledger) -> None:
    """The control: each node has a lock of its own, the disk has no reservation, and both are active. They mount before
    either writes. What they have acknowledged is not there, and this test sees that."""
    ledger.make(guarded=False)
    for node in ledger.nodes:
        node.begin()
    until(lambda: all(node.said_of("running") for node in ledger.nodes), "both are active", pause=PAUSE)
    for node in ledger.nodes:
        node.machine.write(GO, "")
    for node in ledger.nodes:
        ledger.client.wait(node.name, count=10 * ENOUGH, timeout=LIMIT)
    for node in ledger.nodes:
        at = clock()
        node.end()
        print(f"\nstopped on {node.name} in {clock() - at:.2f} s")
    told = ledger.client.acknowledged()
    lost = sum(map(len, missing(told, ledger.on_the_disk(repaired=True)["lives"]).values()))
    print(f"\nno lock, no reservation: {sum(map(len, told.values()))} acknowledged, {lost} lost")
    assert lost > 0
