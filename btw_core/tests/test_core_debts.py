"""Former holders that did not release: how each debt is paid, and that nothing starts before."""

from __future__ import annotations

import msgspec
from controller_case import FREE, OTHER, RESOURCES, SPEC, Case

from btw_core.lease import PackageRecord
from btw_core.ports import HaltAsked
from btw_core.types import Incarnation, ResourceSpec, State, Verb


def test_a_record_set_back_pays_no_debt() -> None:
    """While a former holder is being fenced the store is set back to a record without that debt: it is still owed."""
    case = Case(PackageRecord(term=3, lease=SPEC.timing.lease, holder=OTHER))
    case.wait(SPEC.timing.lease)
    case.read()
    assert case.state is State.FENCING
    case.write(PackageRecord(term=2, lease=SPEC.timing.lease, released=True))
    case.read()
    assert case.state is State.FENCING
    assert case.record().unfenced == (OTHER,)


def test_a_debt_of_the_same_name_from_another_home_is_not_ours_to_pay() -> None:
    """Another node of this name on this computer, with another state directory: we cannot tell what of it is up."""
    namesake = Incarnation(node="a", machine="m", boot="b", nonce="namesake", slot="web", home="a.2")
    case = Case(PackageRecord(term=3, lease=SPEC.timing.lease, holder=OTHER, unfenced=(namesake,)))
    assert case.executor.operations == []
    assert case.record().unfenced == (namesake,)


def test_a_debt_of_a_former_life_is_paid_by_a_verified_stop() -> None:
    """The same with our own home: it is stopped here, and then the debt is settled."""
    former = Incarnation(node="a", machine="m", boot="b", nonce="former", slot="web", home="a.1")
    case = Case(PackageRecord(term=3, lease=SPEC.timing.lease, holder=OTHER, unfenced=(former,)))
    assert case.state is State.FAILING
    for _ in range(4):
        case.ends()
    case.read()
    assert case.record().unfenced == ()


def test_a_debt_of_who_fences_itself_is_paid_by_its_lease() -> None:
    """Another machine that promised to stop itself: no operation, one line that says so, and on to the first look;
    one that promised nothing is waited for."""
    quiet = msgspec.structs.replace(OTHER, machine="m2", nonce="quiet", self_fence="stop")
    case = Case(msgspec.structs.replace(FREE, unfenced=(quiet,)))
    case.answers()
    assert case.state is State.UNKNOWN and case.record().unfenced == ()
    assert not [each for each in case.executor.operations if each.verb is Verb.FENCE]
    assert "has fenced itself" in str(case.journal.lines)
    silent = msgspec.structs.replace(quiet, self_fence="none")
    case = Case(msgspec.structs.replace(FREE, unfenced=(silent,)))
    assert case.state is State.FENCING and case.record().unfenced == (silent,)


def test_of_two_debts_each_is_paid_its_own_way() -> None:
    """One fences itself, the other has to be fenced: nothing starts before both are settled."""
    quiet = msgspec.structs.replace(OTHER, machine="m2", nonce="quiet", self_fence="stop")
    case = Case(msgspec.structs.replace(FREE, unfenced=(OTHER, quiet)))
    case.answers()
    assert case.record().unfenced == (OTHER,) and not case.executor.looks
    case.ends()
    case.answers()
    assert case.state is State.UNKNOWN


# ---- fenced on the disk -----------------------------------------------------------------------------------------
FAR = msgspec.structs.replace(OTHER, machine="m2", boot="b2", node="far")
DISK = ResourceSpec(name="disk", type="scsi_pr", shared=True, fences=True, layer="fencing")
VOLUME = ResourceSpec(name="ip", type="fs", shared=True, layer="storage")


def fenced(*resources: ResourceSpec, debts: tuple[Incarnation, ...] = (FAR,)) -> Case:
    """Acquired, with these debts."""
    spec = msgspec.structs.replace(SPEC, resources=resources)
    return Case(msgspec.structs.replace(FREE, unfenced=debts), spec=spec)


def test_a_resource_that_fences_pays_the_debt_of_another_computer() -> None:
    """Asked for by name, with the lock told to operations before; the journal says what has shut it out, and the
    package is looked at only then."""
    case = fenced(DISK, VOLUME, RESOURCES[2])
    (fence,) = case.executor.operations
    assert (fence.verb, fence.resource, fence.target) == (Verb.FENCE, "disk", FAR)
    lock = case.keeper.locks["web"]
    assert lock is not None and lock == (case.controller.claim.term, fence.not_after)
    assert (case.state, case.executor.looks) == (State.FENCING, [])
    case.ends()
    case.answers()
    assert (case.state, case.record().unfenced) == (State.UNKNOWN, ())
    assert "former holder far is fenced on the disk by disk" in str(case.journal.lines)


def test_a_fence_that_failed_pays_nothing() -> None:
    """It is asked for again each pace, and the journal says why nothing starts."""
    case = fenced(DISK)
    case.ends(ok=False)
    assert case.state is State.FENCING and case.record().unfenced == (FAR,)
    case.wait(SPEC.timing.pace, prompt=True)
    assert len(case.executor.operations) == 2
    assert "not started: former holder far" in str(case.journal.lines)


def test_every_resource_that_fences_is_asked_and_every_debtor() -> None:
    """Two disks and two former holders: four fences, one after the other."""
    second = msgspec.structs.replace(DISK, name="disk2")
    other = msgspec.structs.replace(FAR, nonce="x", node="further")
    case = fenced(DISK, second, debts=(FAR, other))
    for _ in range(4):
        assert case.state is State.FENCING
        case.ends()
        case.answers()
    asked = [(each.resource, each.target) for each in case.executor.operations]
    assert asked == [("disk", FAR), ("disk2", FAR), ("disk", other), ("disk2", other)]
    assert case.state is State.UNKNOWN


def test_the_disk_does_not_pay_for_an_address() -> None:
    """A node that only its disk refuses may still answer for it: nothing is fenced, nothing starts, and the journal
    says what that node is left with."""
    case = fenced(DISK, VOLUME, ResourceSpec(name="vip", type="vip", shared=True, layer="network"))
    case.wait(2 * SPEC.timing.pace, prompt=True)
    assert case.executor.operations == [] and case.state is State.FENCING
    assert "shutting it out on the disk would leave it with vip" in str(case.journal.lines)


def test_the_same_computer_is_looked_at_and_not_fenced_on_the_disk() -> None:
    """Two nodes of one computer have one way to the disk: what one of them left is killed."""
    case = fenced(DISK, debts=(OTHER,))
    (fence,) = case.executor.operations
    assert (fence.verb, fence.resource) == (Verb.FENCE, "")


def test_a_fence_that_hangs_is_killed_and_tried_again() -> None:
    """After stop_timeout, and said; an answer that comes later pays nothing."""
    case = fenced(DISK)
    (fence,) = case.executor.operations
    while not case.executor.killed and case.clock.time < 1100:
        case.wait(1, prompt=True)
        case.controller.renewed(case.clock.time)
        case.read()
    assert case.executor.killed == [fence.id]
    assert "took longer than stop_timeout" in str(case.journal.lines)
    case.executor.end(fence, ok=True)
    case.answers()
    assert case.record().unfenced == (FAR,)


def test_a_fence_ends_with_the_lock() -> None:
    """Nothing may be shut out in the name of a term that is over."""
    case = fenced(DISK)
    (fence,) = case.executor.operations
    case.controller.halt(HaltAsked(package="web", cause="a person"))
    assert case.executor.killed == [fence.id] and case.state is State.HALTED
    assert case.keeper.locks["web"] is None
