"""What undoes a reservation on paper, and a plugin that lies, against raw writers on one LIO disk."""

from __future__ import annotations

import signal
import sys

import pytest

from vm.control import Spawned
from vm.disks import LIES, PATHS, PAUSE, Disks, Take, Writer
from vm.nodes import LIMIT, until

pytestmark = pytest.mark.timeout(600)  # a takeover is a whole lease, and more on a busy computer


# ---- undoings known on paper
def test_a_second_path_that_returns_after_the_preemption(fenced: Disks) -> None:
    """It was dead when the other took over; back again it takes no write."""
    former = fenced.run(*fenced.nodes[:2])
    former.machine.cut("path2")
    with fenced.taken(former, [node for node in fenced.nodes[:2] if node is not former]) as takes:
        former.machine.freeze()
    former.machine.resume()
    former.machine.join("path2")
    until(lambda: _answers(former, PATHS[1]), "the second path is back")
    fenced.judge(takes[0], "a second path that returns")
    assert not former.writes(PATHS[1])


STAND_STILL = """
import os, signal, sys
from btw_core import Failed
from btw_core.testing import FakeContext
from btw_scsi_pr.doing import start
from btw_scsi_pr.scsi_pr import ScsiPr
from btw_scsi_pr.units import Sysfs

class Context(FakeContext):
    def recheck(self):
        self.rechecks += 1
        if self.rechecks == int(sys.argv[3]):
            print("stands still", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)

ctx = Context(term=int(sys.argv[2]))
try:
    start(ScsiPr(devices=(sys.argv[1],)), ctx, Sysfs())
    print("started after", ctx.rechecks)
except Failed as failed:
    print("failed:", failed)
"""


def starts(node: Writer, term: int, at: int = 0) -> Spawned:
    """It takes the disk under this term, and stands still after the n-th question whether the lock is still its own."""
    return node.machine.spawn(sys.executable, "-c", STAND_STILL, PATHS[0], str(term), str(at))


def test_who_freezes_between_acquire_and_register(disks: Disks) -> None:
    """It stands still right before each of the commands of its start in turn, another takes the disk under the next
    term, and it goes on: superseded, and it cannot write. The other one still holds it and can."""
    disks.set_up(fenced=True)
    first, second = disks.nodes[:2]
    disks.clear()
    done = starts(second, 1)
    done.wait(LIMIT)
    total = int(done.text.split()[-1])
    assert total == 5, done.text  # a flush, two registrations, a reservation (later a preemption), a flush
    for at in range(1, total + 1):
        still = starts(first, 2 * at, at)
        still.until("stands still")
        done = starts(second, 2 * at + 1)
        assert done.wait(LIMIT) == 0 and "started" in done.text, done.text
        still.signal(signal.SIGCONT)
        still.wait(LIMIT)
        # the last is the flush after all is done: nothing is left that could fail, and the lock is gone
        assert ("superseded" in still.text) == (at < total), f"at {at}: {still.text}"
        assert second.writes() and not any(first.writes(path) for path in PATHS), f"at {at}"
    disks.clear()  # these were keys of another cluster: the package would refuse the disk


def test_who_is_frozen_since_term_1_after_an_orderly_stop_in_term_2(fenced: Disks) -> None:
    """The third node stands still, the first takes over and stops in order, the third goes on: what it had in hand is
    refused, though nobody runs the package; and it takes the disk anew, under a new term."""
    first, _, third = fenced.nodes
    assert fenced.run(third) is third
    first.begin()
    fenced.listens(first)
    with fenced.taken(third, [first]) as takes:
        third.machine.freeze()
    (take,) = takes
    first.end()
    term = take.found["term"]
    third.machine.resume()
    until(third.ready, f"{third.name} goes on")
    until(lambda: (third.found() or {"term": 0})["term"] > term, f"{third.name} takes it anew", pause=PAUSE)
    found = third.found()
    assert found is not None
    assert found["disk"][third.number - 1] == take.of(third)
    assert found["cached"] == found["disk"]


# ---- a plugin whose stop and status both lie
def move_lying(disks: Disks, *, fenced: bool) -> Take:
    """A planned move: the former holder says that it is down, its lock is released, and its program goes on."""
    disks.set_up(fenced=fenced, lying=True)
    disks.clear()
    former = disks.run(*disks.nodes[:2])
    with disks.taken(former, [node for node in disks.nodes[:2] if node is not former]) as takes:
        former.end()
    tried = attempts(former)
    until(lambda: attempts(former) > tried, f"{former.name} goes on writing")
    return takes[0]


def attempts(node: Writer) -> int:
    """How often the program has tried to write, whatever became of it (proc(5), "syscw")."""
    pid = node.machine.read(f"{LIES}/pid").strip()
    return int(node.machine.read(f"/proc/{pid}/io").partition("syscw: ")[2].split()[0])


def test_without_a_reservation_a_lying_plugin_writes_on(disks: Disks) -> None:
    """The control: `btw check` says that nothing keeps "never two" then, and that is what happens."""
    take = move_lying(disks, fenced=False)
    until(lambda: disks.area(take.former) != take.of(take.former), "a stale write")


def test_a_lying_plugin_is_shut_out(disks: Disks) -> None:
    """Not one of its writes reaches the disk once the new holder has read it."""
    take = move_lying(disks, fenced=True)
    disks.judge(take, "stop and status lie")
    tried = attempts(take.former)
    until(lambda: attempts(take.former) > tried + 50, f"{take.former.name} goes on trying")
    disks.judge(take, "and later")
    assert not take.former.writes()


def _answers(node: Writer, path: str) -> bool:
    words = [f"if={path}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"]
    return node.machine.run("dd", *words, check=False, timeout=LIMIT).code == 0
