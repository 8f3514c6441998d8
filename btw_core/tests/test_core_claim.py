"""One package's lock: what counts as held, and changes that come to pass whatever becomes of the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from btw_core import lease
from btw_core.claim import Claim, describe
from btw_core.lease import AHEAD, PackageRecord, SessionRecord, decode, encode
from btw_core.ports import StoreAnswered
from btw_core.testing.fakes import Bench
from btw_core.timing import Timing
from btw_core.types import Incarnation, PackageSpec

TIMING = Timing(pace=4, timeout=16, stop_timeout=20)  # r = 4; T = 16, S = 20
SPEC = PackageSpec(name="web", timing=TIMING, resources=())
KEY = "packages/web"


def life(node: str, number: int = 1) -> Incarnation:
    return Incarnation(node=node, machine=f"m-{node}", boot="b1", nonce=f"{node}{number}", slot="web")


A, B, ME = life("a"), life("b"), life("me")
FREE = PackageRecord(term=3, lease=TIMING.lease, holder=A, released=True)


class Case(Bench):
    """A claim of ours on the package, beginning with this record."""

    def __init__(self, record: PackageRecord | None = FREE) -> None:
        super().__init__()
        self.acquired: list[tuple[int, bool, str]] = []
        self.lost: list[tuple[str, float]] = []
        self.claim = Claim(
            self.desk,
            SPEC,
            ME,
            taking=lambda: None,
            acquired=lambda *said: self.acquired.append(said),
            lost=lambda *said: self.lost.append(said),
            changed=lambda: None,
        )
        self.claim.wanted = True
        if record is not None:
            self.put(record)

    def put(self, record: PackageRecord) -> int:
        """Somebody else writes."""
        return self.store.write(KEY, encode(record))

    def free(self) -> bool:
        return self.claim.free

    def reads(self) -> Case:
        """The manager's reading of everything."""
        self.claim.seen(self.view())
        return self

    def takes(self) -> Case:
        self.reads().store.answer()
        assert self.claim.held
        return self

    def edits(self, **change: Any) -> None:
        """Somebody else changes something in the record."""
        self.put(msgspec.structs.replace(self.record, **change))

    @property
    def record(self) -> PackageRecord:
        return decode(PackageRecord, KEY, self.store.records[KEY].value)


# ---- a session that vanished
def test_no_renewal_counts_before_the_record_has_a_new_revision() -> None:
    """After the session was written again the lease goes on counting from before, until a stand-by that saw no session
    twice has to begin anew: the package's record is touched first."""
    case = Case().takes()
    before, revision = case.claim.sent, case.store.revision
    case.wait(3)
    case.claim.touch()
    case.claim.renewed(case.clock.now())
    assert case.claim.sent == before
    case.store.answer()
    assert case.store.revision > revision and case.record.holder == ME and not case.record.released
    case.claim.renewed(case.clock.now())
    assert case.claim.sent == case.clock.now() > before


# ---- getting it
def test_takes_what_was_released() -> None:
    """A reading of a free record leads to one CAS at its revision; the lease counts from when that was *sent*."""
    case = Case().reads()
    ((call, _),) = case.store.calls
    assert call.expected == case.store.revision
    case.wait(3)
    case.store.answer()
    assert case.acquired == [(4, False, "released by a")]
    assert (case.claim.sent, case.claim.lost_at, case.claim.term, case.claim.floor) == (1000, 1016, 4, 4)
    assert case.record.holder == ME


@pytest.mark.parametrize(
    ("change", "pause", "expected"),
    [
        ({"released": True, "orderly": True}, 0.0, True),
        ({"released": True, "orderly": True}, TIMING.pace, True),
        ({"released": True}, 0.0, False),  # its start has failed, perhaps because somebody else has the address
        ({"released": True, "orderly": True}, TIMING.pace + 0.1, False),  # who knows who found it free meanwhile
        ({"released": True, "orderly": True, "term": FREE.term + AHEAD}, 0.0, False),  # a person says so
        ({"released": True, "orderly": True, "unfenced": (B,)}, 0.0, False),
    ],
)
def test_handed_over(change: dict[str, Any], pause: float, expected: bool) -> None:
    """What was held at one reading and given back by its holder at the next is taken as handed over, for one pace."""
    case = Case(msgspec.structs.replace(FREE, released=False))
    case.claim.wanted = pause == 0.0
    case.reads()
    case.edits(**change)
    case.reads()
    case.claim.wanted = True
    case.wait(pause)
    if pause:
        case.reads()
    case.store.answer()
    assert case.claim.held and case.claim.handed_over is expected


def test_found_free() -> None:
    """Who has never seen it held does not know for how long nobody has had it."""
    assert not Case().takes().claim.handed_over


def heard_at(seq: int, *, by: Incarnation = A, ended: bool = False, pause: float = 1.0) -> float | None:
    """Read at 1000 with seq 1, and `pause` seconds later the watch hears this: from when the lock is there to be taken,
    as the reading of seq 2 at 1004 finds it."""
    case = Case(msgspec.structs.replace(FREE, released=False))
    session = SessionRecord(incarnation=A, seq=1)
    case.store.write(lease.session_key(A), encode(session))
    case.reads().wait(pause)
    case.claim.heard(lease.session_key(by), SessionRecord(incarnation=by, seq=seq, ended=ended))
    case.store.write(lease.session_key(A), encode(msgspec.structs.replace(session, seq=2)))
    case.wait(4 - pause)
    case.reads()
    return case.claim.ripe_at


def test_silence_counts_from_when_the_watch_heard_the_holder_last() -> None:
    """Not from the next reading, which may come a pace later; it has to show the same, though."""
    assert heard_at(2) == 1001 + TIMING.lease
    assert heard_at(2, pause=3.5) == 1003.5 + TIMING.lease
    late = 1004 + TIMING.lease
    assert heard_at(1) == late  # something older, heard late
    assert heard_at(3) == late  # something newer that no reading shows (the store was set back)
    assert heard_at(2, by=B) == late
    assert heard_at(2, by=life("a", 2)) == late  # another life in the same slot
    assert heard_at(2, ended=True) == late


def test_what_the_watch_heard_is_taken_when_its_silence_has_lasted_the_lease() -> None:
    """Not a moment earlier."""
    case = Case(msgspec.structs.replace(FREE, released=False))
    key, session = lease.session_key(A), SessionRecord(incarnation=A, seq=1)
    case.store.write(key, encode(session))
    case.reads().wait(1)
    case.claim.heard(key, session)  # known from the reading already: the silence goes on
    case.wait(TIMING.lease - 1.01)
    assert not case.reads().store.calls
    case.wait(0.01)
    assert case.reads().store.calls


def test_not_wanted_takes_nothing() -> None:
    """A claim that is not wanted only reads."""
    case = Case()
    case.claim.wanted = False
    case.reads()
    case.claim.noticed(9, FREE)
    assert not case.store.calls


def test_take_answered_after_the_timeout_does_not_count() -> None:
    """An acquisition that took until sent + T is none; the record being ours, the next reading takes a new term."""
    case = Case().reads()
    case.wait(16)
    case.store.answer()
    assert not case.claim.held and case.acquired == []
    case.takes()
    assert [term for term, _, _ in case.acquired] == [5]


@pytest.mark.parametrize("committed", [True, False])
def test_take_without_an_answer_is_not_held(committed: bool) -> None:
    """Committed or not: nothing is held until a CAS of ours is answered, and that one's `sent` counts."""
    case = Case().reads()
    case.store.lose(committed=committed)
    case.wait(2)
    assert not case.claim.held and not case.free()
    case.store.answer()  # the reading after it
    assert not case.claim.held and case.free() is not committed
    case.takes()
    assert [term for term, _, _ in case.acquired] == [5 if committed else 4]
    assert case.claim.sent == 1002


def test_take_that_another_won() -> None:
    """A conflict is no acquisition; the other's record is read."""
    case = Case().reads()
    case.put(PackageRecord(term=4, lease=60, holder=B))
    assert case.store.answer().conflict
    case.store.answer()
    assert not case.claim.held and case.claim.record == case.record
    assert case.claim.floor == 4


def test_take_that_is_not_wanted_any_more_is_given_back() -> None:
    """A halt while the CAS was under way: not acquired, and released as soon as it is answered."""
    case, done = Case().reads(), list[bool]()
    case.claim.release("", "halted", lambda: done.append(True))
    case.store.answer()
    assert case.acquired == [] and done == []
    case.store.answer()
    assert case.record.released and done == [True]


def test_take_in_doubt_cannot_come_to_pass_after_the_release() -> None:
    """What was reported as given back stays so: a late CAS of ours finds another revision."""
    case, done = Case().reads(), list[bool]()
    late = case.store.delay()
    case.claim.release("", "halted", lambda: done.append(True))
    case.wait(2, prompt=True)
    assert done == [True]
    assert late().conflict
    assert case.record == FREE


def test_adoption_keeps_the_term() -> None:
    """The predecessor's record becomes ours in its term; the claim says that it is an adoption."""
    case = Case(PackageRecord(term=3, lease=60, holder=life("me", 0), unfenced=(A,)))
    case.claim.predecessors = (life("me", 0),)
    case.takes()
    assert [(term, adopted) for term, adopted, _ in case.acquired] == [(3, True)]
    assert case.claim.debts == (A,)


def test_floor_is_the_highest_term_ever_read() -> None:
    """A record that is set back does not lower what was seen."""
    case = Case(PackageRecord(term=8, lease=60, holder=B)).reads()
    case.put(PackageRecord(term=2, lease=60, holder=B, released=True))
    case.reads()
    assert case.claim.floor == 8 and not case.store.calls


def test_older_readings_are_passed_over() -> None:
    """A reading that was sent before our CAS was answered does not count against it."""
    case = Case()
    old = case.view()
    case.wait(1)
    case.takes()
    case.claim.seen(old)
    assert case.claim.believes() and not case.store.calls and case.lost == []


# ---- the watch
def test_news_of_a_release_leads_to_a_take_at_once() -> None:
    """No reading in between, no pace."""
    case = Case(PackageRecord(term=3, lease=60, holder=A)).reads()
    assert not case.store.calls
    revision = case.put(FREE)
    case.claim.noticed(revision, FREE)
    ((call, sent),) = case.store.calls
    assert (call.expected, sent) == (revision, 1000)
    case.store.answer()
    assert case.claim.held


def test_news_of_a_living_holder_takes_nothing() -> None:
    """Only a release is acted upon; waiting for silence is a matter of readings."""
    case = Case(PackageRecord(term=3, lease=1, holder=A)).reads()
    case.wait(100)
    case.edits(cause="news")
    case.claim.noticed(case.store.revision, case.record)
    assert not case.store.calls and case.claim.record == case.record


def test_old_news_are_no_news() -> None:
    """A revision that is not newer than the one known changes nothing; so does any before the first reading."""
    case = Case(PackageRecord(term=3, lease=60, holder=A))
    case.claim.noticed(1, FREE)
    assert case.claim.floor == 0
    case.reads().claim.noticed(1, FREE)
    assert case.claim.record == case.record and not case.store.calls


def test_news_of_a_taker_ends_the_lease() -> None:
    """The watch is enough to know that the lock is lost."""
    case = Case().takes()
    revision = case.put(PackageRecord(term=5, lease=60, holder=B))
    case.claim.noticed(revision, case.record)
    assert case.lost == [("taken over by b, term 5", 1036)]


# ---- keeping it
def test_lost_at_timeout_to_the_instant() -> None:
    """Without a renewal it is lost at sent + T; H is S later."""
    case = Case().takes()
    case.wait(15.99)
    assert case.claim.believes()
    assert not case.lost
    case.wait(0.01)
    assert not case.claim.held
    assert case.lost == [("no renewal was confirmed for timeout 16 s", 1036)]


def test_renewals_move_the_deadline_and_never_back() -> None:
    """The latest `sent` counts."""
    case = Case().takes()
    case.wait(10)
    case.reads()
    case.claim.renewed(1008)
    case.claim.renewed(1004)
    assert case.claim.lost_at == 1024
    case.wait(13.9)
    assert case.claim.held
    case.wait(0.2)
    assert [hard for _, hard in case.lost] == [1044]


def test_a_renewed_session_alone_does_not_prolong() -> None:
    """The record may be gone, and a stand-by that sees that waits for L from then on: only when it was also shown to be
    ours does the lease go on, from the older of the two (simulation, seed 4400)."""
    case = Case().takes()
    case.wait(10)
    case.claim.renewed(1010)
    assert case.claim.lost_at == 1016
    case.reads()
    assert case.claim.lost_at == 1026
    case.wait(2)
    case.reads()  # and the other way round
    assert case.claim.lost_at == 1026
    case.claim.renewed(1011)
    assert case.claim.lost_at == 1027
    case.wait(3)
    case.claim.renewed(1015)
    case.store.records.clear()
    case.reads()  # written again: shown by our own write
    assert case.claim.lost_at == 1028
    case.store.answer()
    assert case.claim.lost_at == 1031


def test_late_renewal_never_revives() -> None:
    """Answered at or after the deadline, whatever its `sent`, a renewal ends the lease; only a new term helps."""
    case = Case().takes()
    case.clock.time = 1016  # the timer has not fired yet
    case.claim.renewed(1012)
    assert not case.claim.held and case.lost == [("no renewal was confirmed in time", 1036)]
    case.claim.renewed(1016)
    assert not case.claim.held
    case.wait(100)
    assert len(case.lost) == 1
    case.takes()
    assert case.claim.term == 5


def test_a_lease_that_is_over_is_not_believed_before_its_timer() -> None:
    """What asks at the very instant is told the truth."""
    case = Case().takes()
    case.clock.time = 1016
    assert not case.claim.believes()


@pytest.mark.parametrize("back", [None, PackageRecord(term=2, lease=60, holder=B)], ids=["vanished", "set back"])
def test_record_that_vanished_is_written_again_with_its_debts(back: PackageRecord | None) -> None:
    """The holder goes on holding, and its record stands again as it was."""
    case = Case(msgspec.structs.replace(FREE, unfenced=(A, B))).takes()
    mine = case.record
    assert mine.unfenced == (A, B)
    case.wait(1)
    if back is None:
        del case.store.records[KEY]
    else:
        case.put(back)
    case.reads().store.answer()
    assert case.record == mine and case.claim.held and case.claim.debts == (A, B)
    assert case.journal.events() == ["record_vanished"]


def test_settled_debts_do_not_come_back_with_a_vanished_record() -> None:
    """What is written again is what was last known."""
    case = Case(msgspec.structs.replace(FREE, unfenced=(A, B))).takes()
    case.claim.settle([A.nonce])
    case.store.answer()
    case.wait(1)
    del case.store.records[KEY]
    case.reads().store.answer()
    assert case.record.unfenced == (B,)


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (PackageRecord(term=5, lease=60, holder=B), "taken over by b, term 5"),
        (PackageRecord(term=4, lease=60), "taken over by nobody, term 4"),
        (PackageRecord(term=4, lease=60, holder=ME, released=True, cause="unlocked by ann"), "unlocked by ann"),
    ],
)
def test_record_that_says_otherwise_ends_the_lease(record: PackageRecord, cause: str) -> None:
    """Another's, nobody's, or released by a person: lost at once, and H as usual."""
    case = Case().takes()
    case.wait(1)
    case.put(record)
    case.claim.wanted = False
    case.reads()
    assert case.lost == [(cause, 1036)] and not case.claim.held and case.claim.debts == ()
    case.wait(100)
    assert len(case.lost) == 1


# ---- changing it
@pytest.mark.parametrize("committed", [True, False])
def test_release_with_a_lost_answer(committed: bool) -> None:
    """The release is read back or written again; whoever waits for it hears of it once, when it is true."""
    case, done = Case().takes(), list[bool]()
    case.claim.release("disk", "critical", lambda: done.append(case.record.released))
    assert not case.claim.held and not case.free()
    case.store.lose(committed=committed)
    assert not case.free() and done == []
    case.wait(10, prompt=True)
    assert done == [True] and case.free()
    assert case.record.off == {"me": "disk"} and case.record.cause == "critical"
    assert len(case.store.done) == 2
    case.wait(100)
    assert case.lost == []


def test_release_during_an_outage() -> None:
    """It is tried until the store answers."""
    case, done = Case().takes(), list[bool]()
    case.claim.release("", "halted", lambda: done.append(True))
    for _ in range(20):
        case.store.lose(committed=False)
        case.wait(TIMING.retry)
    assert done == []
    case.wait(1, prompt=True)
    assert done == [True] and case.record.released


def test_release_of_what_another_took() -> None:
    """Nothing of ours is in the record: nothing is written, and that is said."""
    case, done = Case().takes(), list[bool]()
    case.put(PackageRecord(term=5, lease=60, holder=B))
    case.claim.release("", "halted", lambda: done.append(True))
    case.wait(1, prompt=True)
    assert done == [True] and case.record.holder == B and not case.record.released


def test_edits_are_kept_under_conflicts() -> None:
    """Others write in between: each edit is applied to what stands there then, and theirs is kept."""
    case, done = Case(msgspec.structs.replace(FREE, unfenced=(A, B), off={"a": "x", "b": "y"})).takes(), list[str]()
    case.claim.settle([A.nonce], lambda: done.append("settled"))
    case.claim.edit("enable", lambda record: lease.switched_on(record, "a"), lambda: done.append("enabled"))
    case.edits(cause="by another")
    case.wait(1, prompt=True)
    assert (case.record.unfenced, case.record.off, case.record.cause) == ((B,), {"b": "y"}, "by another")
    assert sorted(done) == ["enabled", "settled"]
    assert case.claim.held and case.claim.debts == (B,)


def test_edit_that_is_already_true_writes_nothing() -> None:
    """A fixed point is told at once."""
    case, done = Case().takes(), list[bool]()
    case.claim.settle(["nobody"], lambda: done.append(True))
    assert done == [True] and not case.store.calls


def test_edit_before_the_first_reading_waits_for_it() -> None:
    """What the store says is not known: nothing is written, nothing is said."""
    case, done = Case(msgspec.structs.replace(FREE, off={"me": "x"})), list[bool]()
    case.claim.edit("enable", lambda record: lease.switched_on(record, "me"), lambda: done.append(True))
    assert not case.store.calls and not done
    case.reads().store.answer()
    assert len(done) == 1 and case.record.off == {}
    assert not case.claim.held  # the edit went first


def test_damaged_record_is_not_overwritten() -> None:
    """A record that cannot be read is journalled; nothing is written over it."""
    case = Case().takes()
    case.store.write(KEY, b"{")
    case.claim.settle([A.nonce])  # already true as far as known
    case.claim.edit("cause", lambda record: msgspec.structs.replace(record, cause="x"))
    case.wait(5, prompt=True)
    assert case.journal.events() == ["record_damaged"]
    assert case.store.records[KEY].value == b"{"


FATES = ["answer", "answer", "committed", "lost", "late", "wait", "other", "read", "settle", "enable", "vanish"]


@given(st.lists(st.sampled_from(FATES), max_size=50))
def test_whatever_becomes_of_the_answers(fates: list[str]) -> None:
    """Calls lost, committed late, records changed by others or vanished: the lock is believed only T from the sending
    of a CAS or renewal that was committed; no term is acquired twice; and when the store is well again every edit has
    come to pass, each told once, and the release with it."""
    case = Case(msgspec.structs.replace(FREE, unfenced=(A, B), off={"a": "x", "me": "y"}))
    told: list[str] = []
    late: list[Callable[[], StoreAnswered]] = []
    asked = set()
    for fate in fates:
        if fate == "settle":
            asked.add(fate)
            case.claim.settle([A.nonce], lambda: told.append("settle"))
        elif fate == "enable":
            asked.add(fate)
            on: Callable[[PackageRecord], PackageRecord] = lambda record: lease.switched_on(record, "me")  # noqa: E731
            case.claim.edit("enable", on, lambda: told.append("enable"))
        elif fate == "other":
            if KEY in case.store.records:
                case.edits(cause=f"at {case.clock.time}")
        elif fate == "vanish":
            case.store.records.pop(KEY, None)
        elif fate == "read":
            case.wait(0.25)
            case.reads()
        elif fate == "wait" or not case.store.calls:
            case.wait(1)
            if late:
                late.pop(0)()
        elif fate == "answer":
            case.store.answer()
        elif fate == "late":
            late.append(case.store.delay())
        else:
            case.store.lose(committed=fate == "committed")
        if case.claim.believes():
            taken = [decode(PackageRecord, KEY, call.value or b"") for call, _, _ in case.store.done]
            sent = [sent for _, sent, _ in case.store.done]
            assert case.claim.sent in sent
            assert any(record.term == case.claim.term and record.holder == ME for record in taken)
            assert case.clock.time < case.claim.sent + TIMING.timeout
    terms = [term for term, _, _ in case.acquired]
    assert terms == sorted(set(terms))
    case.claim.release("", "halted", lambda: told.append("release"))
    for _ in range(4):
        case.wait(4, prompt=True)
        case.reads()
    if KEY in case.store.records:
        while late:
            late.pop()()
        assert case.record.released or case.record.holder != ME
        assert "settle" not in asked or A not in case.record.unfenced
        assert "enable" not in asked or "me" not in case.record.off
    assert case.free()
    assert set(told) == {*asked, "release"} and told.count("release") == 1


def test_describe_names_holder_and_wait() -> None:
    """`status` says who holds it and how long a stand-by still waits."""
    case = Case(PackageRecord(term=3, lease=60, holder=A)).reads()
    text = describe(case.claim.record, case.claim.judgement, case.clock.time + 20)
    assert text == "held by a, term 3; taken here when nothing is heard for another 40.0 s"
    assert describe(FREE, None, 0) == "free, last term 3"
    assert describe(None, None, 0) == "no lock record"


def test_sessions_of_others_count_as_signs_of_life() -> None:
    """A stand-by waits a whole L after the holder's last renewal that it has seen, then takes and owes."""
    case = Case(PackageRecord(term=3, lease=60, holder=A))
    for seq in range(3):
        case.store.write("sessions/a/web", encode(SessionRecord(incarnation=A, seq=seq)))
        case.reads().wait(50)
    assert not case.store.calls
    case.wait(9)
    assert not case.reads().store.calls
    case.wait(1)
    case.takes()
    assert case.claim.debts == (A,)
