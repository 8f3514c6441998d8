"""One package on one node: what is up by whose doing, and what a store that was set back cannot undo."""

from __future__ import annotations

import msgspec
import pytest
from controller_case import FREE, ME, ME_BEFORE, OTHER, RESOURCES, SPEC, Case

from btw_core import events as ev
from btw_core.controller import Controller
from btw_core.lease import PackageRecord
from btw_core.ports import HaltAsked, Looked, Operation
from btw_core.summary import summary
from btw_core.testing.fakes import Bench
from btw_core.types import Health, Incarnation, Saved, State, Status, Verb
from btw_core.work import AFTERWARDS


def test_what_was_partly_up_is_stopped_whole_when_its_start_fails() -> None:
    """Somebody else had started `web` here; `disk` does not start: `web` is stopped as well before the release."""
    case = Case(FREE)
    case.looks(Status.DOWN, Status.DOWN, Status.UP)
    assert case.state is State.STARTING
    case.ends(ok=False)
    for _ in range(4):
        case.ends()
    assert case.stops() == ["web", "ip", "disk"]
    case.answers()
    assert case.record().released


def test_what_was_down_is_stopped_only_as_far_as_its_start_came() -> None:
    """`disk` does not start: `ip` and `web`, which may need it to answer at all, are not asked to stop."""
    case = Case(FREE)
    case.looks(Status.DOWN, Status.DOWN, Status.DOWN)
    case.ends(ok=False)
    case.ends()
    assert case.stops() == ["disk"]


def test_what_was_handed_over_is_started_without_a_look() -> None:
    """Its holder has given it back in order a moment ago. Nobody has looked: when the start fails all is stopped."""
    case = Case(PackageRecord(term=3, lease=SPEC.timing.lease, holder=OTHER))
    case.write(PackageRecord(term=3, lease=SPEC.timing.lease, holder=OTHER, released=True, orderly=True))
    case.read()
    assert case.state is State.STARTING and not case.executor.looks
    assert case.disk.saved["web"].may_be_up
    case.ends(ok=False)
    for _ in range(4):
        case.ends()
    assert case.stops() == ["web", "ip", "disk"]


@pytest.mark.parametrize("up", [True, False])
def test_only_what_was_up_and_is_halted_is_given_back_in_order(up: bool) -> None:
    """Whoever takes it then starts it without a look, and asks nobody whether the address is free."""
    case = Case(FREE)
    case.looks(*[Status.UP if up else Status.DOWN] * 3)
    assert case.state == ("running" if up else "starting")
    case.controller.halt(HaltAsked(cause="move"))
    for _ in range(5):
        case.ends()
    case.answers()
    assert (case.state, case.record().released, case.record().orderly) == ("halted", True, up)


def test_what_failed_is_not_given_back_in_order() -> None:
    """The next one has to look for itself: perhaps a stranger has the address."""
    case = Case(FREE)
    case.looks(Status.DOWN, Status.DOWN, Status.DOWN)
    case.ends(ok=False)
    for _ in range(4):
        case.ends()
    case.answers()
    assert case.state is State.FAILED and case.record().released and not case.record().orderly


def test_what_may_be_up_here_is_looked_at_though_it_was_handed_over() -> None:
    """A former life of this node may have left it up: it could be running already."""
    saved = Saved(incarnation=ME_BEFORE, term=3, may_be_up=True)
    case = Case(PackageRecord(term=3, lease=SPEC.timing.lease, holder=ME_BEFORE), saved, reads=False)
    case.controller.claim.wanted = False
    case.read()
    case.write(PackageRecord(term=3, lease=SPEC.timing.lease, holder=ME_BEFORE, released=True, orderly=True))
    case.controller.claim.wanted = True
    case.read()
    assert case.state is State.UNKNOWN and case.executor.looks


def test_a_process_is_kept_ready_where_something_may_have_to_be_done_at_once() -> None:
    """For the next operation of a stand-by, and of what runs; of whoever is switched off nothing is expected."""
    held = PackageRecord(term=3, lease=SPEC.timing.lease, holder=OTHER)
    case = Case(held, ready=True)
    assert case.executor.ready["web"]
    case.write(msgspec.structs.replace(held, released=True, orderly=True))
    case.read()
    case.wait(AFTERWARDS)
    assert case.executor.operations[0].id.rpartition(".")[0] == case.executor.ready["web"].rpartition(".")[0]
    for _ in RESOURCES:
        case.ends()
    assert case.state is State.RUNNING and case.executor.operations[-1].id != case.executor.ready["web"] != ""
    case.looks(Status.UP, Status.UP, Status.CRITICAL)
    for _ in range(4):
        case.ends()
    assert case.controller.situation.off and case.executor.ready["web"] == ""
    assert Case(held).executor.ready == {}


def test_what_comes_up_degraded_is_watched() -> None:
    """News of a package that was found up but degraded need not wait for the pace."""
    case = Case(FREE)
    case.looks(Status.UP, Status.DEGRADED, Status.UP)
    assert case.state is State.DEGRADED
    assert case.executor.watched == {"web"}


def test_an_observer_that_lost_the_package_vouches_for_nothing() -> None:
    """The zygote died and its successor could not load the package file: what was healthy before is not known now."""
    case = Case(FREE)
    case.looks(Status.UP, Status.UP, Status.UP)
    case.controller.observer_lost()
    case.controller.looked(Looked(id=case.executor.looks[-1].id, package="web", results=()))
    assert case.state is State.DEGRADED
    assert "disk cannot tell (not loaded" in case.controller.cause


def test_a_halt_before_the_first_reading_stops_what_was_left_up() -> None:
    """A former manager was killed, its package is up, the store does not answer: halted means that it is stopped."""
    former = Incarnation(node="a", machine="m", boot="b", nonce="former", slot="web", home="a.1")
    record = PackageRecord(term=3, lease=SPEC.timing.lease, holder=former)
    case = Case(record, Saved(incarnation=former, term=3, may_be_up=True), reads=False)
    case.controller.halt(HaltAsked(cause="SIGTERM"))
    assert not case.controller.left
    for _ in range(4):
        case.ends()
    assert case.state is State.HALTED and case.stops() == ["web", "ip", "disk"]
    case.wait(60)
    assert not case.disk.saved["web"].may_be_up and not case.keeper.told


# ---- the keeper
FORMER = Incarnation(node="a", machine="m", boot="b", nonce="former", slot="web", home="a.1")


def test_the_keeper_knows_before_the_first_effect_and_until_it_is_down() -> None:
    """Before the start is asked for it is told until when; a renewal moves that on; verified down ends it."""
    case = Case(FREE)
    told: list[dict[str, tuple[float, float]]] = []
    operate = case.executor.operate

    def see(operation: Operation) -> None:
        told.append(dict(case.keeper.known))
        operate(operation)

    case.executor.operate = see  # type: ignore[method-assign]
    case.looks(Status.DOWN, Status.DOWN, Status.DOWN)
    limits = SPEC.timing.lost_at(1000), SPEC.timing.hard_at(1000)
    assert told == [{"web": limits}]
    case.clock.time += 4
    case.read()
    case.controller.renewed(1003)
    assert case.keeper.told == {"web": (limits[0] + 3, limits[1] + 3)}
    case.ends(ok=False)
    assert case.keeper.told
    for _ in range(3):
        case.ends()
    assert case.stops() == ["disk"] and case.keeper.told == {}


def _left(limits: tuple[float, float] | None, saved: bool = True) -> Case:
    case = Case.__new__(Case)
    Bench.__init__(case)
    if saved:
        case.disk.saved["web"] = Saved(incarnation=FORMER, term=3, may_be_up=True)
    case.keeper.left = {"web": limits}
    case.write(PackageRecord(term=3, lease=SPEC.timing.lease, holder=FORMER))
    case.controller = Controller(case.desk, SPEC, ME)
    case.controller.begin()
    return case


def test_a_former_lease_that_runs_out_is_stopped_without_the_store() -> None:
    """The store does not answer: what a dead manager left up is stopped at that manager's lost_at; until then the
    keeper keeps hearing of the former limits, not of later ones."""
    case = _left((1010.0, 1040.0))
    assert case.keeper.told == {} or case.keeper.told == {"web": (1010.0, 1040.0)}
    case.wait(9.9)
    assert not case.executor.operations
    case.wait(0.2)
    assert case.state is State.FAILING and case.stops() == ["web"]
    assert case.keeper.told == {"web": (1010.0, 1040.0)}


def test_an_adopted_lease_does_not_run_out() -> None:
    """The record is read in time: adopted, and the former limit means nothing any more."""
    case = _left((1010.0, 1040.0))
    case.read()
    assert case.state is State.UNKNOWN
    case.looks(Status.UP, Status.UP, Status.UP)
    case.wait(11)
    assert case.stops() == [] and case.keeper.told["web"] == (SPEC.timing.lost_at(1000), SPEC.timing.hard_at(1000))


@pytest.mark.parametrize("saved", [True, False])
def test_what_nothing_is_known_of_has_run_out(saved: bool) -> None:
    """No pulse where the disk says that it may be up, or a pulse that says so where the disk has forgotten."""
    case = _left((990.0, 1020.0) if not saved else None, saved=saved)
    case.wait(0.1)
    assert case.state is State.FAILING and case.stops() == ["web"]


def test_no_lock_is_taken_without_a_keeper() -> None:
    """Nobody would cut this node off: it does not take, and takes once a keeper is there."""
    case = Case(FREE, reads=False)
    case.keeper.lives = False
    case.read()
    assert case.record().holder is None
    case.keeper.lives = True
    case.read()
    assert case.record().holder == ME


def test_nothing_begins_that_the_watchdog_could_not_cut_off() -> None:
    """A start needs now + 2 W before H, besides the lock."""
    case = Case(FREE)
    case.keeper.window = 25.0  # T + S = 60
    case.clock.time += 9.9
    case.looks(Status.DOWN, Status.DOWN, Status.DOWN)
    (start,) = case.executor.operations
    assert start.not_after == 1010.0
    case = Case(FREE)
    case.keeper.window = 25.0
    case.clock.time += 10.1
    case.looks(Status.DOWN, Status.DOWN, Status.DOWN)
    assert [each.verb for each in case.executor.operations] == [Verb.SWEEP]


def test_frozen_while_halted_it_hears_first_what_it_owes() -> None:
    """Halted, the store silent; frozen long past its patience: on resume it waits once more instead of leaving at once,
    so a reading can still show a debt of ours."""
    case = Case(FREE)
    case.controller.halt(HaltAsked(cause="SIGTERM"))
    for _ in range(2):
        while case.executor.operations and case.state is not State.HALTED:
            case.ends()
    case.clock.time += 500  # SIGSTOP
    case.desk.fire()
    assert not case.controller.left
    case.wait(30)
    assert case.controller.left


def test_what_keeps_it_stuck_is_told_once() -> None:
    """Stuck: what the first survey finds alive, and on what it hangs, is a line of the journal; `status` shows what the
    last one found, and nothing once a stop is tried again."""
    case = Case(FREE)
    case.looks(Status.UP, Status.UP, Status.UP)
    case.controller.halt(HaltAsked(cause="a person"))
    case.wait(SPEC.timing.stop_timeout)
    assert case.state is State.STUCK
    for left in (("pid 12 (umount), state D in nfs_wait",), ("pid 12 (umount), state S in nfs_wait",)):
        case.wait(SPEC.timing.pace)
        survey = case.executor.operations[-1]
        assert survey.verb is Verb.SURVEY
        case.executor.end(survey, survivors=left)
        assert summary(case.controller)["survivors"] == list(left)
    told = [line["cause"] for line in case.journal.lines if "still alive" in line.get("cause", "")]
    assert told == ["still alive: pid 12 (umount), state D in nfs_wait"]
    case.controller.halt(HaltAsked(cause="a person"))
    assert summary(case.controller)["survivors"] == []


def test_who_fenced_itself_costs_the_taker_no_pace() -> None:
    """Taken from a silent holder that promised to stop: the debt is settled by the next write, not a pace later."""
    holder = msgspec.structs.replace(OTHER, machine="m2", self_fence="stop")
    case = Case(PackageRecord(term=3, lease=SPEC.timing.lease, holder=holder))
    case.wait(SPEC.timing.lease)
    case.read()
    assert case.state is State.UNKNOWN and case.record().unfenced == ()
    assert [line["state"] for line in case.journal.lines if line["event"] == "transition"] == ["fencing", "unknown"]


def test_a_node_that_wants_to_be_fenced_tells_its_keeper_so() -> None:
    """on_stop_failure = "fence": H is now, and no renewal moves it; verified down ends that."""
    case = Case(FREE)
    case.controller.situation = msgspec.structs.replace(case.controller.situation, on_stop_failure="fence")
    case.looks(Status.UP, Status.UP, Status.UP)
    case.controller.halt(HaltAsked(cause="SIGTERM"))
    case.ends(ok=False)
    for _ in range(2):
        case.ends()
    assert case.state is State.STUCK and case.keeper.told == {"web": (1000.0, 1000.0)}
    case.clock.time += 4
    case.controller.renewed(1003)
    assert case.keeper.told == {"web": (1000.0, 1000.0)}
    case.controller.halt(HaltAsked(cause="btw stop"))
    for _ in range(4):
        case.ends()
    assert case.keeper.told == {}


def test_a_node_that_lost_its_disk_between_two_lives_still_stops_what_is_up() -> None:
    """The record names a life whose memory was lost; the next life remembered only that something may be up. That is
    no taker that has seen us down: it is stopped, and the keeper hears of it until then (simulation, seed 10295)."""
    second = msgspec.structs.replace(FORMER, nonce="second")
    case = _left((1050.0, 1090.0))
    case.disk.saved["web"] = Saved(incarnation=second, term=3, may_be_up=True)
    case.controller = Controller(case.desk, SPEC, ME)
    case.controller.begin()
    case.read()
    assert case.state is State.FAILING and case.stops() == ["web"]
    assert case.keeper.told == {"web": (1050.0, 1090.0)}


def test_switched_off_while_stuck_the_next_life_stops_it_at_once() -> None:
    """Critical, stuck, then another manager: off here, it does not adopt, but stops what is up while the former lease
    still counts, and gives the lock back in the name of the dead."""
    case = _left((1025.0, 1055.0))
    case.disk.saved["web"] = Saved(incarnation=FORMER, term=3, may_be_up=True, off="critical")
    case.controller = Controller(case.desk, SPEC, ME)
    case.controller.begin()
    case.read()
    assert case.stops() == ["web"]
    for _ in range(4):
        case.ends()
    case.answers()
    assert case.state is State.OFF and case.record().released and case.keeper.told == {}


def test_a_reading_moves_what_the_keeper_knows_as_well() -> None:
    """The lease counts from the older of renewal and reading: whichever comes last, the keeper hears of it at once
    (simulation, seed 9256: healthy nodes were rebooted)."""
    case = Case(FREE)
    case.looks(Status.UP, Status.UP, Status.UP)
    case.clock.time += 4
    case.controller.renewed(1004)
    assert case.keeper.told == {"web": (SPEC.timing.lost_at(1000), SPEC.timing.hard_at(1000))}
    case.read()
    assert case.keeper.told == {"web": (SPEC.timing.lost_at(1004), SPEC.timing.hard_at(1004))}


def _next_life(case: Case, nonce: str) -> Case:
    """The manager is killed, and this is the one after it: same disk, same store."""
    later = Case.__new__(Case)
    Bench.__init__(later)
    later.disk.saved, later.keeper.left = case.disk.saved, case.keeper.left
    for record in case.store.records.values():
        later.store.write(record.key, record.value)
    later.controller = Controller(later.desk, SPEC, msgspec.structs.replace(ME, nonce=nonce))
    later.controller.begin()
    return later


@pytest.mark.parametrize("committed", [True, False])
def test_a_manager_killed_while_it_adopts_is_adopted(committed: bool) -> None:
    """Killed between the compare-and-swap of the record and its own memory of that: whether it was carried out or not,
    the next life recognises the holder, also that of one killed at the same place."""
    case = _left((1050.0, 1090.0))
    for nonce in ("second", "third"):
        case = _next_life(case, nonce)
        case.controller.seen(case.view())
        case.disk.full = True  # whatever it would write from now on: it is dead by then
        case.store.lose(committed=committed)
    case = _next_life(case, "fourth")
    case.read()
    case.looks(Status.UP, Status.UP, Status.UP)
    assert case.state is State.RUNNING and case.executor.operations == []
    assert case.disk.saved["web"].lives == (case.controller.me,)


def test_memory_is_written_once_the_disk_has_room_again() -> None:
    """A manager adopts while the disk is full. The next one has to know it by name, or what is up would be nobody's."""
    case = _next_life(_left((1050.0, 1090.0)), "second")
    case.disk.full = True
    case.read()
    case.looks(Status.UP, Status.UP, Status.UP)
    case.wait(3 * SPEC.timing.pace)
    assert case.journal.events().count("memory_trouble") == 1
    assert case.controller.me not in case.disk.saved["web"].lives
    case.disk.full = False
    case.wait(SPEC.timing.pace)
    later = _next_life(case, "third")
    later.read()
    later.looks(Status.UP, Status.UP, Status.UP)
    assert later.state is State.RUNNING and later.executor.operations == []


def test_a_disk_that_is_full_from_the_beginning_costs_a_start_only() -> None:
    """The manager of the other packages goes on; what would have to be remembered before it is started is not."""
    case = Case.__new__(Case)
    Bench.__init__(case)
    case.disk.full = True
    case.write(FREE)
    case.controller = Controller(case.desk, SPEC, ME)
    case.controller.begin()
    case.read()
    case.looks(Status.DOWN, Status.DOWN, Status.DOWN)
    case.wait(1)
    assert case.state is State.FAILING and "nothing was begun" in case.controller.cause
    assert Verb.START not in [each.verb for each in case.executor.operations]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_manager_killed_while_it_stops_what_failed(stopped: bool) -> None:
    """The next life goes on with the stop and gives the lock back: it does not start again, where others wait for it,
    what has just failed here. Once it is down there is nothing to go on with."""
    case = Case(FREE)
    case.looks(Status.UP, Status.UP, Status.UP)
    case.controller.apply(ev.HealthSeen(at=case.clock.time, health=Health.DOWN, cause="web down"))
    assert case.state is State.FAILING
    for _ in range(4 * stopped):
        case.ends()
    later = _next_life(case, "later")
    if stopped:
        assert later.disk.saved["web"].failed == ""
        return
    later.ends()  # what the former life had begun is swept away
    later.read()
    assert later.state is State.FAILING and later.controller.cause.endswith("web down")
    for _ in range(4):
        later.ends()
    assert later.stops() == ["web", "ip", "disk"]
    later.answers()
    assert later.record().released and later.disk.saved["web"].failed == ""


def test_a_failure_is_forgotten_once_the_lock_is_got_anew() -> None:
    """What another has had meanwhile, or a person has unlocked, is looked at like anything else."""
    saved = Saved(incarnation=ME_BEFORE, term=3, may_be_up=True, failed="web down")
    case = Case(PackageRecord(term=3, lease=SPEC.timing.lease, holder=ME_BEFORE, released=True), saved)
    assert case.state is State.UNKNOWN and case.executor.looks
    assert case.disk.saved["web"].failed == ""


def test_an_adoption_without_an_answer_is_no_reason_to_stop() -> None:
    """The store carried it out, and its answer was lost: read back, the record names this very life."""
    case = _left((1050.0, 1090.0))
    case.controller = Controller(case.desk, SPEC, ME)
    case.controller.begin()
    case.controller.seen(case.view())
    case.store.lose(committed=True)
    case.wait(SPEC.timing.retry)
    case.answers()
    case.read()
    assert case.state is State.UNKNOWN and case.stops() == []


def test_what_nobody_here_started_and_does_not_stop_fences_this_node() -> None:
    """Halted between lock and look, so that nothing is up by our doing, and its stop fails: with `on_stop_failure` =
    fence the keeper hears of it, or it would never fence."""
    case = Case(FREE, spec=msgspec.structs.replace(SPEC, on_stop_failure="fence"))
    case.controller.halt(HaltAsked(cause="a person"))
    assert case.state is State.HALTING
    assert not case.keeper.told
    case.wait(SPEC.timing.stop_timeout)
    situation = case.controller.situation
    assert situation.state is State.STUCK
    (hard,) = {hard for _, hard in case.keeper.told.values()}
    assert hard <= case.clock.time
