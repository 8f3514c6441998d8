"""Renewing this node's session record: the proof of life that all its packages share.

seq counts attempts. Every attempt is a compare-and-swap at the last known revision with a seq of its own, so the record
read back after a lost answer says which attempt was committed, and only that attempt's `sent` counts.
"""

from __future__ import annotations

from collections.abc import Callable

from .desk import Desk
from .lease import DamagedRecord, SessionRecord, Sighting, View, decode, encode, gone_by_reboot, session_key, sight
from .ports import StoreAnswered
from .timing import Timing
from .types import Incarnation

_TIMER = ("session",)


class Session:
    """`committed(sent)` is called for each committed renewal, `rewritten()` before it when the record had vanished,
    `refused(cause)` when the slot is another's."""

    def __init__(
        self,
        desk: Desk,
        me: Incarnation,
        timing: Timing,
        *,
        committed: Callable[[float], None],
        rewritten: Callable[[], None],
        refused: Callable[[str], None],
    ) -> None:
        self.desk = desk
        self.me = me
        self.key = session_key(me)
        self.timing = timing
        self.sent: float | None = None  # of the last committed renewal
        self.trouble = ""  # why renewals do not get through at the moment
        self._committed = committed
        self._rewritten = rewritten
        self._refused = refused
        self._registered = False
        self._gone = False  # the record was removed, and is not yet written again
        self._over = False
        self._seq = 0
        self._revision: int | None = None
        self._attempts: dict[int, float] = {}  # seq -> sent, of everything that may still be committed
        self._sighting: Sighting | None = None
        self._former = ""  # nonce of the life before ours in this slot
        self._other_boots: dict[str, Sighting] = {}  # by session key

    def seen(self, view: View, recheck: float = 0.0) -> None:
        """Take the slot as soon as it is certainly nobody else's. `recheck`: seconds in which any living manager of a
        store that serves several computers renews its session; 0 where there is one computer."""
        if self._over or (recheck and not self._only_boot(view, recheck)) or self._registered:
            return
        found = view.sessions.get(self.key)
        if found is not None:
            revision, record = found
            other = record.incarnation
            # on this computer the lock on the package's state file has already proved the former manager dead
            if not record.ended and other.machine != self.me.machine:
                sighting = self._sighting
                self._sighting = sight(sighting, (revision, record.seq), view.received)
                if sighting is not None and self._sighting is not sighting:
                    self._give_up(
                        f"node name {self.me.node} is in use on another machine ({other.machine}): give each its own"
                    )
                    return
                if view.sent < self._sighting.since + view.longest(self.timing.lease):
                    return
            self._revision = revision
            self._former = other.nonce
        self._registered = True
        self._attempt()

    def _only_boot(self, view: View, recheck: float) -> bool:
        """Every session of another boot of this computer is over: it is silent for `recheck`. One that lives proves
        that two computers have one machine id (a cloned disk), and all that is concluded from a reboot would be wrong.
        """
        over = True
        for key, (revision, record) in view.sessions.items():
            other = record.incarnation
            if record.ended or not gone_by_reboot(other, self.me):
                continue
            before = self._other_boots.get(key)
            self._other_boots[key] = now = sight(before, (revision, record.seq), view.received)
            if before is not None and now is not before:
                self._give_up(
                    f"node {other.node} lives, on another computer with the same machine id {other.machine} (a cloned"
                    " disk?): give each its own: rm /etc/machine-id && systemd-machine-id-setup"
                )
                return False
            over = over and view.sent >= now.since + recheck
        return over

    def end(self, then: Callable[[], None]) -> None:
        """Say goodbye, as well as it goes; `then` comes in any case."""
        self._over = True
        self.desk.forget(_TIMER)
        if not self._registered:
            then()
            return
        record = SessionRecord(incarnation=self.me, seq=self._seq + 1, ended=True)
        self.desk.ask(
            self.key,
            lambda _answer: then(),
            value=encode(record),
            expected=self._revision,
            deadline=self.timing.renewal_deadline,
        )

    def _attempt(self) -> None:
        if not self.desk.ports.keeper.attached():
            self._later(self.timing.retry, self._attempt)
            return
        self._seq += 1
        sent = self.desk.now()
        self._attempts[self._seq] = sent
        self.desk.ask(
            self.key,
            self._put_answered,
            value=encode(SessionRecord(incarnation=self.me, seq=self._seq)),
            expected=self._revision,
            deadline=self.timing.renewal_deadline,
        )

    def _put_answered(self, answer: StoreAnswered) -> None:
        if self._over:
            return
        if answer.revision is not None:
            self._commit(self._seq, answer.revision)
        elif answer.conflict:
            self._read()
        else:
            self._say(answer.unavailable)
            self._later(self.timing.retry, self._read)

    def _read(self) -> None:
        self.desk.ask(self.key, self._read_answered, deadline=self.timing.renewal_deadline)

    def _read_answered(self, answer: StoreAnswered) -> None:
        if self._over:
            return
        if answer.records is None:
            self._say(answer.unavailable)
            self._later(self.timing.retry, self._read)
            return
        if not answer.records:
            self._revision = None  # somebody removed it: write it again
            self._gone = True
            self._attempt()
            return
        found = answer.records[0]
        try:
            record = decode(SessionRecord, self.key, found.value)
        except DamagedRecord as damage:
            self._say(str(damage))
            self._later(self.timing.retry, self._read)
            return
        foreign = record.incarnation.nonce not in (self.me.nonce, self._former)  # the former: the store was set back
        if foreign and self._revision != found.revision:
            self._give_up(
                f"node name {self.me.node} is in use by another manager (pid {record.incarnation.pid}), which has"
                " taken over the session"
            )
        elif record.incarnation.nonce == self.me.nonce and record.seq in self._attempts:
            self._commit(record.seq, found.revision)
        else:
            self._revision = found.revision
            self._attempt()

    def _commit(self, seq: int, revision: int) -> None:
        self.sent = self._attempts[seq]
        self._revision = revision
        # attempts with an older expected revision can no longer be committed
        self._attempts.clear()
        self._say("")
        if self._gone:
            self._gone = False
            self._rewritten()
        self._later(max(0.0, self.sent + self.timing.pace - self.desk.now()), self._attempt)
        self._committed(self.sent)

    def _give_up(self, why: str) -> None:
        self._over = True
        self._refused(why)

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        self.desk.at(self.desk.now() + seconds, _TIMER, do)

    def _say(self, trouble: str) -> None:
        if bool(trouble) != bool(self.trouble):
            if trouble:
                self.desk.journal.write("store_trouble", cause=f"renewal not confirmed: {trouble}; trying again")
            else:
                self.desk.journal.write("store_back", cause="renewals are confirmed again")
        self.trouble = trouble
