"""Defects of the shell that the simulation has found, each as small as it can be told."""

from __future__ import annotations

import pytest

from btw_core import lease
from btw_core.lease import PackageRecord, SessionRecord, View
from btw_core.testing.sim.runner import run_seed
from btw_core.types import Incarnation


def _life(node: str, boot: str) -> Incarnation:
    return Incarnation(node=node, machine="m", boot=boot, nonce=f"{node}{boot}", slot="daemon")


def test_an_old_session_of_the_same_computer_proves_no_reboot() -> None:
    """node2 lived in boot 1 and never ended its session: no proof that boot 2, where node1 lived, is over."""
    former, other = _life("node1", "boot2"), _life("node2", "boot1")
    sessions = {lease.session_key(other): (1, SessionRecord(incarnation=other, seq=5))}
    assert not lease.rebooted(View(sent=0.0, received=0.0, packages={}, sessions=sessions), former)
    later = _life("node1", "boot3")
    sessions[lease.session_key(former)] = (2, SessionRecord(incarnation=later, seq=1))
    assert lease.rebooted(View(sent=0.0, received=0.0, packages={}, sessions=sessions), former)


@pytest.mark.parametrize(
    "seed",
    [
        65,  # debts of a node that lost its memory were never paid
        158,  # the store set back to our former life's session was taken for another node of our name
        231,  # the lock record set back: debts of a life that had been adopted were never paid
        797,  # a session left from an older boot "proved" a reboot: the fence debt was dropped
        1106,
        15565,  # verified down after another had taken the lock, and gone before the debt was paid
        10154,  # halted while fencing its own former life, whose debt stays in the record: nothing was broken
        8226,  # a session removed, written again and removed again looked like one long silence
        3016,  # own renewals kept us from a record set back below our floor, for ever
        110616,  # a person killed a manager that is down at H only while it lives: a flaw of the model
    ],
)
def test_seeds_that_once_failed(seed: int) -> None:
    """What a seed does changes with the simulation; it costs nothing to keep them."""
    assert run_seed(seed).problem == ""


def test_our_own_renewals_do_not_keep_us_from_a_record_set_back() -> None:
    """The store was set back to an old term of ours: after L it is taken (seed 3016: never was)."""
    me = _life("node1", "boot1")
    record = PackageRecord(term=5, lease=10.0, holder=me)

    def view(at: float, seq: int) -> View:
        sessions = {lease.session_key(me): (seq, SessionRecord(incarnation=me, seq=seq))}
        return View(sent=at, received=at, packages={"p": (7, record)}, sessions=sessions)

    first = lease.judge(view(0.0, 1), "p", me, None, floor=6, lease=10.0)
    assert first.take is None
    later = lease.judge(view(10.0, 9), "p", me, first.sighting, floor=6, lease=10.0)
    assert later.take is not None
    assert later.take.term == 7
