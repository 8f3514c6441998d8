"""One package's lock: getting it, knowing until when it counts, changing its record, giving it back.

All changes go through compare-and-swap at the last known revision. Changes that must come to pass sooner or later
(release, a settled debt, a switch) are *edits*: pure functions record -> record, applied until the record is a fixed
point of each. So a lost answer, a conflict or an outage needs no special case: read again, apply what is still missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

from . import lease
from .desk import Desk
from .lease import DamagedRecord, Judgement, PackageRecord, SessionRecord, Sighting, View, decode, encode
from .ports import StoreAnswered
from .types import Incarnation, PackageSpec

_TOUCH = "touch"
#: What `describe` says of a lock that was never held, or lost.
NO_RECORD = "no lock record"
Edit = Callable[[PackageRecord], PackageRecord]


class Claim:
    """Callbacks: `taking()` before the record may come to name us, `acquired(term, adopted, cause)`,
    `lost(cause, hard)`, `changed()` after each new reading."""

    def __init__(
        self,
        desk: Desk,
        spec: PackageSpec,
        me: Incarnation,
        *,
        taking: Callable[[], None],
        acquired: Callable[[int, bool, str], None],
        lost: Callable[[str, float], None],
        changed: Callable[[], None],
    ) -> None:
        self.desk = desk
        self.name, self.lock, self.timing = spec.name, spec.lock, spec.timing
        self.key = lease.PACKAGES + self.lock
        self.me = me
        self.wanted = False
        self.tracked = False  # who may want it any moment already counts how long its holder is silent
        self.held = False
        self.term = 0  # of the last acquisition
        self.floor = 0
        self.handed_over = False  # what we hold was given back in order a moment before we took it
        self._handed = -inf  # when that was seen
        self.predecessors: tuple[Incarnation, ...] = ()  # dead lives of this node, which are to be adopted
        self.gone: tuple[Incarnation, ...] = ()  # dead lives of this node, whose package was seen down here since
        self.record: PackageRecord | None = None
        self.revision: int | None = None  # of `record`; None: absent, or not yet read
        self.sent = 0.0  # the lease counts from here while held: the older of the two below
        self._renewal = 0.0  # of the session
        self._confirmed = 0.0  # when the record was asked for, and shown to be ours
        self.judgement: Judgement | None = None
        self.ripe_at: float | None = None  # a reading sent from then on may show that it can be taken
        self._sighting: Sighting | None = None
        self._will_take, self._acquired, self._lost, self._changed = taking, acquired, lost, changed
        self._edits: dict[str, tuple[Edit, Callable[[], None] | None]] = {}
        self._busy = False  # a CAS of ours is under way: its answer comes first
        self._sure = False  # `record` is what the store said, and no CAS of ours is in doubt
        self._doubt: int | None = None  # at this revision a CAS of ours may still be carried out
        self._read_since = 0.0  # a reading sent before this instant may be older than what we know
        self._taking: tuple[PackageRecord, float, bool] | None = None
        self._trouble = ""  # why the last CAS was not answered
        self._mine: PackageRecord | None = None  # our record as last known, debts and all

    # ---- what others ask of it
    @property
    def lost_at(self) -> float:
        """No effect may begin at or after this instant."""
        return self.timing.lost_at(self.sent)

    @property
    def begin_by(self) -> float:
        """An effect must begin before this instant: with the lock, and early enough to be cut off by H."""
        window = self.desk.ports.keeper.window
        return min(self.lost_at, self.timing.hard_at(self.sent) - 2 * window)

    def may_begin(self) -> float | None:
        """`begin_by`; None: it has passed, or the lock is not ours."""
        return self.begin_by if self.held and self.desk.now() < self.begin_by else None

    @property
    def debts(self) -> tuple[Incarnation, ...]:
        """Former holders that nobody has yet seen down, while we hold the lock."""
        return self._mine.unfenced if self.held and self._mine is not None else ()

    @property
    def holders(self) -> dict[str, tuple[str, ...]]:
        """Who holds or has held it, with their Ethernet addresses."""
        return self.record.macs if self.record is not None else {}

    @property
    def free(self) -> bool:
        """Nothing of ours is left in the record, as far as can be told."""
        return self._sure and not self._busy and not self.ours

    @property
    def ours(self) -> bool:
        """The record names this very life."""
        return self.record is not None and self.record.held_by(self.me)

    def believes(self) -> bool:
        """The lock counts as ours at this very moment."""
        return self.held and self.desk.now() < self.lost_at

    def renewed(self, sent: float) -> None:
        """The session's renewal that was sent at `sent` is committed. Too late is too late: a lost term stays lost."""
        if not self.held:
            return
        if not self.believes():
            self._lose("no renewal was confirmed in time")
            return
        if _TOUCH in self._edits:
            return
        self._renewal = max(self._renewal, sent)
        self._count()

    def _confirm(self, sent: float) -> None:
        """What was asked at `sent` has shown the record to be ours. A renewed session alone proves nothing of it: who
        finds the record gone waits for L from then on, whatever the session says."""
        if self.held and self.believes():
            self._confirmed = max(self._confirmed, sent)
            self._count()

    def _count(self) -> None:
        """The lease counts from the older of the two."""
        sent = min(self._renewal, self._confirmed)
        if sent > self.sent:
            self.sent = sent
            self._watch_the_clock()

    def touch(self) -> None:
        """The session record had vanished and is written again. Absence has no identity: a stand-by that saw none
        before and sees none again takes it for one long silence. So no renewal counts before the package's own record
        has a new revision, which ends every such reading."""
        if self.held:
            cause = f"session written again, {self.desk.number()}"
            self.edit(_TOUCH, lambda record: lease.touched(record, self.me, cause))

    def edit(self, name: str, edit: Edit, then: Callable[[], None] | None = None) -> None:
        """Apply `edit` to the record as soon as possible; `then` once the record is a fixed point of it."""
        self._edits[name] = (edit, then)
        self._write_edits()

    def release(self, off: str, cause: str, then: Callable[[], None], *, orderly: bool = False) -> None:
        """Give the lock back if the record still names us, and pay our debt if it is another's meanwhile: `then` comes
        after both. The caller has everything verified down. `orderly`: see PackageRecord."""
        self.held = False
        self.wanted = False
        self.desk.forget(("lease", self.name))

        gone = self.gone

        def edit(record: PackageRecord) -> PackageRecord:
            for life in gone:  # nobody has to wait for a lease that nobody can use any more
                record = lease.released(record, life, off, cause)
            return lease.settled(lease.released(record, self.me, off, cause, orderly=orderly), [self.me.nonce])

        self.edit("release", edit, then)

    def settle(self, nonces: Iterable[str], then: Callable[[], None] | None = None) -> None:
        """These former incarnations are known to be down."""
        gone = tuple(nonces)
        self.edit(f"settle {' '.join(gone)}", lambda record: lease.settled(record, gone), then)

    # ---- what the store says
    def seen(self, view: View, recheck: float = 0.0) -> None:
        """A reading of all records. `recheck`: see `lease.judge`."""
        found = view.packages.get(self.lock)
        if self._busy or view.sent < self._read_since:
            return  # older than the answer that is under way or has come
        self._learn(*(found or (None, None)), asked=view.sent)
        self._write_edits()
        if (self.wanted or self.tracked) and not self.held and not self._busy and not self._edits:
            self._consider(view, recheck)

    def noticed(self, revision: int, record: PackageRecord) -> None:
        """The watch saw a change: news of our own record, or a lock given back a moment ago."""
        if self._busy or not self._sure or (self.revision is not None and revision <= self.revision):
            return
        self._learn(revision, record)
        self._write_edits()
        self.reconsider()

    def reconsider(self) -> None:
        """It may be wanted from now on: what is free need not wait for the next reading."""
        record, revision = self.record, self.revision
        if not self.wanted or self.held or self._busy or self._edits or not self._sure:
            return
        if record is not None and revision is not None and record.released:
            now = self.desk.now()
            self._consider(View(sent=now, received=now, packages={self.lock: (revision, record)}, sessions={}), 0.0)

    def heard(self, key: str, session: SessionRecord) -> None:
        """The watch saw a session renewed, perhaps the holder's."""
        waits = (self.wanted or self.tracked) and not self.held
        if waits and self.record is not None and self.revision is not None:
            now = self.desk.now()
            self._sighting = lease.heard(self._sighting, self.revision, self.record, key, session, now)

    def _learn(self, revision: int | None, record: PackageRecord | None, *, asked: float | None = None) -> None:
        """`asked`: when this was asked for; None: nobody knows, it came by the watch."""
        if lease.handed_over(self.record, record):
            self._handed = self.desk.now()
        self.revision, self.record = revision, record
        self._sure = True
        if record is not None:
            self.floor = max(self.floor, record.term)
        if self.held:
            self._compare(record)
        if asked is not None and self._mine is record:
            self._confirm(asked)
        self._changed()

    def _compare(self, record: PackageRecord | None) -> None:
        """We believe to hold it: does the record say so too?"""
        if record is None or record.term < self.term:
            assert self._mine is not None
            self.desk.journal.write(
                "record_vanished", package=self.name, cause="our lock record is gone or set back; writing it again"
            )
            self._put(self._mine, self.revision)
        elif record.holder is None or record.holder.nonce != self.me.nonce:
            taker = record.holder.node if record.holder else "nobody"
            self._lose(f"taken over by {taker}, term {record.term}")
        elif record.released:
            self._lose(record.cause or "released by a person")
        else:
            self._mine = record

    def _consider(self, view: View, recheck: float) -> None:
        self.judgement = judged = lease.judge(
            view,
            self.lock,
            self.me,
            self._sighting,
            floor=self.floor,
            lease=self.timing.lease,
            recheck=recheck,
            predecessors=self.predecessors,
        )
        self._sighting = judged.sighting
        self.ripe_at = judged.sighting.since + judged.wait if judged.take is None and judged.wait else None
        if judged.take is None or not self.wanted or not self.desk.ports.keeper.attached():
            return
        self._will_take()
        sent = self.desk.now()
        self.handed_over = sent - self._handed <= self.timing.pace
        self._taking = (judged.take, sent, judged.adopted)
        self._put(judged.take, judged.expected)

    def _write_edits(self) -> None:
        """Bring the record one step nearer to what the edits want; tell those that are satisfied."""
        if self._busy or not self._sure or not self._edits:
            return
        wanted = self.record
        if wanted is not None:
            for edit, _ in self._edits.values():
                wanted = edit(wanted)
        if wanted is not None and wanted == self.record and self.revision == self._doubt:
            self._put(wanted, self.revision)  # the same again: what was in doubt can no longer undo what we report
        elif wanted is self.record or wanted == self.record:
            done, self._edits = self._edits, {}
            for _, then in done.values():
                if then is not None:
                    then()
        elif wanted is not None:
            self._put(wanted, self.revision)

    def _put(self, record: PackageRecord, expected: int | None) -> None:
        self._busy = True
        self.desk.ask(
            self.key,
            lambda answer: self._put_answered(answer, record),
            value=encode(record),
            expected=expected,
            deadline=self.timing.renewal_deadline,
        )

    def _put_answered(self, answer: StoreAnswered, record: PackageRecord) -> None:
        self._busy = False
        self._read_since = self.desk.now()
        taking, self._taking = self._taking, None
        if answer.revision is not None:
            self._trouble = ""
            self.revision, self.record = answer.revision, record  # what `acquired` may want to change at once
            if taking is not None:
                self._took(*taking)
            self._learn(answer.revision, record, asked=answer.sent)
            self._write_edits()
        elif answer.conflict:
            self._read()
        else:  # cannot tell: the next reading says whether it was written
            if answer.unavailable != self._trouble:
                cause = f"lock record not known to be written: {answer.unavailable}; trying again"
                self.desk.journal.write("store_trouble", package=self.name, cause=cause)
            self._trouble = answer.unavailable
            self._sure = False
            self._doubt = answer.call.expected
            self.desk.at(self.desk.now() + self.timing.retry, ("read", self.name), self._read)

    def _took(self, record: PackageRecord, sent: float, adopted: bool) -> None:
        if not self.wanted or self.desk.now() >= self.timing.lost_at(sent):
            return  # answered too late to count; the record is ours, and the next reading takes a new term
        self.held = True
        self.term = record.term
        self.sent = self._renewal = self._confirmed = sent
        self._mine = record
        self.predecessors = ()
        self._sighting = None
        self._watch_the_clock()
        self._acquired(record.term, adopted, record.cause)

    def _read(self) -> None:
        self.desk.ask(self.key, self._read_answered, deadline=self.timing.renewal_deadline)

    def _read_answered(self, answer: StoreAnswered) -> None:
        if self._busy or answer.sent < self._read_since:
            return
        if answer.records is None:
            if self._edits or self.held:
                self.desk.at(self.desk.now() + self.timing.retry, ("read", self.name), self._read)
            return
        try:
            found = [(r.revision, decode(PackageRecord, self.key, r.value)) for r in answer.records]
        except DamagedRecord as damage:
            self.desk.journal.write("record_damaged", package=self.name, cause=str(damage))
            return
        self._learn(*(found[0] if found else (None, None)), asked=answer.sent)
        self._write_edits()

    # ---- the clock
    def lapse(self) -> None:
        """What has run out counts as lost now, though its timer has not fired yet."""
        if self.held and not self.believes():
            self._ran_out()

    def _watch_the_clock(self) -> None:
        self.desk.at(self.lost_at, ("lease", self.name), self._ran_out)

    def _ran_out(self) -> None:
        if self.held:
            self._lose(f"no renewal was confirmed for timeout {self.timing.timeout:g} s")

    def _lose(self, cause: str) -> None:
        self.held = False
        self.desk.forget(("lease", self.name))
        self._lost(cause, self.timing.hard_at(self.sent))


def describe(record: PackageRecord | None, judgement: Judgement | None, now: float) -> str:
    """One line for `status`: who holds it, and what a stand-by waits for."""
    if record is None:
        text = NO_RECORD
    elif record.released or record.holder is None:
        text = f"free, last term {record.term}"
    else:
        text = f"held by {record.holder.node}, term {record.term}"
    if judgement is not None and judgement.take is None and judgement.wait:
        left = judgement.sighting.since + judgement.wait - now
        text += f"; taken here when nothing is heard for another {max(left, 0):.1f} s"
    return text
