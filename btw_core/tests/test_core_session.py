"""Renewing the node's session: which attempt counts, and who the slot belongs to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btw_core.lease import SessionRecord, decode, encode, session_key
from btw_core.ports import StoreAnswered
from btw_core.session import Session
from btw_core.testing.fakes import Bench
from btw_core.timing import Timing
from btw_core.types import Incarnation

TIMING = Timing(pace=4, timeout=16, stop_timeout=20)  # r = 4, retry after 0.5


def life(nonce: str, machine: str = "m1", node: str = "a", boot: str = "b1") -> Incarnation:
    return Incarnation(node=node, machine=machine, boot=boot, nonce=nonce, slot="web", pid=77)


ME = life("me")
KEY = session_key(ME)


class Case(Bench):
    """A session of ours, and what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.committed: list[float] = []
        self.rewritten: list[int] = []  # how many renewals were committed before
        self.refused: list[str] = []
        self.session = Session(
            self.desk,
            ME,
            TIMING,
            committed=self.committed.append,
            rewritten=lambda: self.rewritten.append(len(self.committed)),
            refused=self.refused.append,
        )

    def registers(self) -> Case:
        """First renewal, committed at once."""
        self.session.seen(self.view())
        self.store.answer()
        return self

    def put(self, who: Incarnation, seq: int, *, ended: bool = False) -> None:
        self.store.write(KEY, encode(SessionRecord(incarnation=who, seq=seq, ended=ended)))

    @property
    def record(self) -> SessionRecord:
        return decode(SessionRecord, KEY, self.store.records[KEY].value)


def test_renews_once_a_pace_counted_from_sent() -> None:
    """Every pace after the *sending* of the last committed attempt the next one is sent; its `sent` counts."""
    case = Case()
    case.session.seen(case.view())
    case.wait(3)  # the answer takes 3 s
    case.store.answer()
    assert case.committed == [1000] and case.record == SessionRecord(incarnation=ME, seq=1)
    case.wait(0.9)
    assert not case.store.calls
    case.wait(0.1)
    (call, sent), = case.store.calls
    assert (sent, call.expected, call.deadline) == (1004, case.store.revision, TIMING.renewal_deadline)
    case.store.answer()
    assert case.committed == [1000, 1004]
    assert case.session.sent == 1004


def test_registers_once() -> None:
    """Further readings change nothing."""
    case = Case().registers()
    case.session.seen(case.view())
    assert not case.store.calls


def test_lost_answer_committed_counts_from_its_own_attempt() -> None:
    """A renewal whose answer was lost, read back later, counts from when *it* was sent."""
    case = Case().registers()
    case.wait(4)
    case.store.lose(committed=True)
    case.wait(3)
    assert case.committed == [1000]  # nothing is known yet
    case.store.answer()  # the reading, sent after 0.5 s
    assert case.committed == [1000, 1004]
    case.wait(1)
    assert case.store.calls[0][1] == 1008


def test_lost_answer_not_committed_counts_from_the_next() -> None:
    """A renewal that was not committed counts for nothing; the next attempt has a seq of its own."""
    case = Case().registers()
    case.wait(4)
    case.store.lose(committed=False)
    case.wait(1)
    case.store.answer()
    case.store.answer()
    assert case.committed == [1000, 1005]
    assert case.record.seq == 3


def test_late_commit_counts_from_when_it_was_sent() -> None:
    """A write that comes to pass after the next attempt was sent is found out, and counts from its own sending."""
    case = Case().registers()
    case.wait(4)
    late = case.store.delay()
    case.wait(1)
    case.store.answer()  # reads seq 1: attempt 3 is sent
    assert late().revision is not None
    assert case.store.answer().conflict
    case.store.answer()
    assert case.committed == [1000, 1004]
    assert case.record.seq == 2
    case.wait(4, prompt=True)
    assert case.record.seq > 3


@given(st.lists(st.sampled_from(["answer", "committed", "lost", "late", "wait"]), max_size=60))
def test_what_counts_was_committed(fates: list[str]) -> None:
    """Whatever becomes of calls and answers: each `sent` that counts is that of an attempt that is in the store, counts
    grow, and once the store is well again renewals come through."""
    case = Case()
    case.session.seen(case.view())
    late: list[Callable[[], StoreAnswered]] = []
    for fate in fates:
        if fate == "wait" or not case.store.calls:
            case.wait(0.5)
            if late:
                late.pop(0)()
        elif fate == "answer":
            case.store.answer()
        elif fate == "late":
            late.append(case.store.delay())
        else:
            case.store.lose(committed=fate == "committed")
        assert set(case.committed) <= {sent for _, sent, _ in case.store.done}
        assert case.committed == sorted(set(case.committed))
    case.wait(10, prompt=True)
    assert case.committed[-1] >= case.clock.time - TIMING.pace - TIMING.retry
    assert case.refused == []


def test_another_life_in_the_slot_refuses() -> None:
    """Written by another incarnation, the slot is given up for good, with its name."""
    case = Case().registers()
    case.put(life("other"), 1)
    case.wait(4)
    case.store.answer()
    case.store.answer()
    assert case.refused == ["node name a is in use by another manager (pid 77), which has taken over the session"]
    case.wait(100, prompt=True)
    assert case.record.incarnation.nonce == "other"
    assert case.committed == [1000]


def test_vanished_record_is_written_again() -> None:
    """A session that somebody removed is written again, and said so once, before that renewal is reported."""
    case = Case().registers()
    del case.store.records[KEY]
    case.wait(8, prompt=True)
    assert case.record.incarnation == ME
    assert case.committed == [1000, 1004, 1008]
    assert case.rewritten == [1]


def test_damaged_record_is_cannot_tell() -> None:
    """A session record that cannot be read is asked for again, said once, and not overwritten."""
    case = Case().registers()
    case.store.write(KEY, b"{")
    case.wait(10, prompt=True)
    assert case.committed == [1000] and case.refused == []
    assert case.store.records[KEY].value == b"{"
    assert case.journal.events() == ["store_trouble"]
    assert "cannot be read" in case.journal.lines[0]["cause"]


def test_trouble_is_said_once_and_its_end_too() -> None:
    """An outage is one line at its beginning and one at its end, however many tries fail."""
    case = Case().registers()
    case.wait(4)
    for _ in range(5):
        case.store.lose(committed=False)
        case.wait(0.5)
    assert case.session.trouble == "no answer"
    case.wait(1, prompt=True)
    assert case.session.trouble == ""
    assert case.journal.events() == ["store_trouble", "store_back"]


def test_former_life_on_this_computer_is_replaced_at_once() -> None:
    """The state file's lock has proved it dead."""
    case = Case()
    case.put(life("former"), 9)
    case.registers()
    assert case.committed == [1000] and case.record.incarnation == ME


def test_slot_that_said_goodbye_is_free() -> None:
    """An ended session of another machine is replaced at once."""
    case = Case()
    case.put(life("former", "m2"), 9, ended=True)
    case.registers()
    assert case.committed == [1000]


def test_another_boot_of_this_computer_must_be_silent_first() -> None:
    """After a reboot the slot is taken once nobody can have renewed it for `recheck`; without one (one computer) at
    once."""
    case = Case()
    case.put(life("former", boot="b0"), 9)
    case.session.seen(case.view(), 12.0)
    case.wait(11.9)
    case.session.seen(case.view(), 12.0)
    assert not case.store.calls
    case.wait(0.1)
    case.session.seen(case.view(), 12.0)
    case.store.answer()
    assert case.committed == [1012] and case.record.incarnation == ME
    alone = Case()
    alone.put(life("former", boot="b0"), 9)
    alone.registers()
    assert alone.committed == [1000]


@pytest.mark.parametrize("node", ["a", "b"])
def test_a_cloned_computer_is_refused(node: str) -> None:
    """A session of our machine id and another boot that goes on is another computer: nothing is written, and the
    message says how to give each its own id."""
    case, other = Case(), life("clone", boot="b0", node=node)
    for seq in (1, 2):
        case.store.write(session_key(other), encode(SessionRecord(incarnation=other, seq=seq)))
        case.session.seen(case.view(), 12.0)
        case.wait(4)
    (refused,) = case.refused
    assert refused.startswith(f"node {node} lives, on another computer with the same machine id m1")
    assert "systemd-machine-id-setup" in refused
    case.wait(100)
    case.session.seen(case.view(), 12.0)
    assert not case.store.calls


def test_a_clone_that_comes_later_ends_both() -> None:
    """Registered at the same instant, neither saw the other: as soon as one moves, the other gives up."""
    case, other = Case().registers(), life("clone", boot="b0", node="b")
    for seq in (1, 2):
        case.store.write(session_key(other), encode(SessionRecord(incarnation=other, seq=seq)))
        case.session.seen(case.view(), 12.0)
    assert len(case.refused) == 1


def test_name_in_use_on_another_machine_is_refused() -> None:
    """A living session of this node name elsewhere: nothing is written, the machine is named."""
    case = Case()
    case.put(life("other", "m2"), 1)
    case.session.seen(case.view())
    case.wait(4)
    case.put(life("other", "m2"), 2)
    case.session.seen(case.view())
    assert case.refused == ["node name a is in use on another machine (m2): give each its own"]
    case.wait(200)
    case.session.seen(case.view())
    assert not case.store.calls and len(case.refused) == 1


def test_silent_slot_of_another_machine_is_taken_after_a_lease() -> None:
    """This node's disk in a new computer: after a whole L of silence the slot is ours."""
    case = Case()
    case.put(life("other", "m2"), 1)
    case.session.seen(case.view())
    case.wait(TIMING.lease - 0.1)
    case.session.seen(case.view())
    assert not case.store.calls
    case.wait(0.2)
    case.registers()
    assert case.record.incarnation == ME


@pytest.mark.parametrize("fate", ["answer", "lost"])
def test_goodbye(fate: str) -> None:
    """The end is written, its answer waited for and no longer; nothing is renewed afterwards."""
    case, ended = Case().registers(), list[bool]()
    case.session.end(lambda: ended.append(True))
    assert ended == []
    if fate == "answer":
        case.store.answer()
        assert case.record.ended
    else:
        case.store.lose(committed=False)
    assert ended == [True]
    case.wait(100)
    assert not case.store.calls


def test_goodbye_before_the_first_renewal() -> None:
    """Nothing was written, nothing is to be ended; the slot is not taken afterwards."""
    case, ended = Case(), list[bool]()
    case.session.end(lambda: ended.append(True))
    case.session.seen(case.view())
    assert ended == [True] and not case.store.calls


def test_answers_after_the_goodbye_change_nothing() -> None:
    """A renewal that is answered after the end neither counts nor sends another."""
    case = Case().registers()
    case.wait(4)
    case.session.end(lambda: None)
    case.store.answer()
    case.store.answer()
    case.wait(100)
    assert case.committed == [1000] and not case.store.calls


def test_without_a_keeper_nothing_is_renewed() -> None:
    """A keeper that does not beat: no attempt; as soon as one does, the next."""
    case = Case().registers()
    case.keeper.lives = False
    case.wait(3 * TIMING.pace)
    assert not case.store.calls and case.session.trouble == ""  # whose trouble it is, the keeper's port says
    case.keeper.lives = True
    case.wait(TIMING.retry)
    case.store.answer()
    assert len(case.committed) == 2 and case.session.trouble == ""
