"""Which nodes a daemon hears of."""

from __future__ import annotations

from btw_core import lease
from btw_core.hearing import Hearing
from btw_core.lease import PackageRecord, SessionRecord, View
from btw_core.picture import Silent
from btw_core.records import SLOT, NodeRecord
from btw_core.timing import Timing
from btw_core.types import Incarnation

TIMING = Timing()
THERE = Incarnation(node="b", machine="m", boot="1", nonce="b1", slot=SLOT)
NODES = {"a": NodeRecord(boot="1", nonce="a1"), "b": NodeRecord(boot="1", nonce="b1", renews=2.0)}


def _read(hearing: Hearing, at: float, seq: int, *, ended: bool = False, shorter: float = 0.0) -> Silent:
    """What is silent for a after a reading at that time; `shorter`: the lease of a lock that b holds."""
    packages = {"web": (1, PackageRecord(term=1, lease=shorter, holder=THERE))} if shorter else {}
    sessions = {lease.session_key(THERE): (1, SessionRecord(incarnation=THERE, seq=seq, ended=ended))}
    hearing.read(NODES, View(sent=at, received=at, packages=packages, sessions=sessions))
    return hearing.silent


def test_who_was_found_in_the_store_has_not_been_heard() -> None:
    """Its session may be a dead node's; a change of it is a sign of life."""
    hearing = Hearing("a", TIMING)
    assert not hearing.heard("b")
    for at in (0.0, 1.0):
        _read(hearing, at, 5)
        assert not hearing.heard("b")
    _read(hearing, 2.0, 6)
    assert hearing.heard("b")


def test_silent_for_longer_than_a_renewal_is_quiet_and_for_a_lease_lost() -> None:
    hearing = Hearing("a", TIMING)
    quiet = 2.0 + TIMING.pace
    assert _read(hearing, 0.0, 5) == _read(hearing, quiet - 0.1, 5) == Silent(set(), set())
    assert _read(hearing, quiet, 5) == Silent(set(), {"b"})
    assert _read(hearing, quiet + 0.1, 5, shorter=quiet + 0.1) == Silent({"b"}, set())
    assert _read(hearing, TIMING.lease, 5) == Silent({"b"}, set())
    assert _read(hearing, TIMING.lease, 6) == Silent(set(), set())


def test_who_has_ended_is_neither() -> None:
    hearing = Hearing("a", TIMING)
    _read(hearing, 0.0, 5)
    assert _read(hearing, 10 * TIMING.lease, 5, ended=True) == Silent(set(), set())
