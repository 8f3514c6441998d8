"""What this node remembers of a package across the lives of its manager, and what follows from a former life.

A former life in this boot may have left operations unfinished (they must end first), the package up (to be adopted, or
to be stopped when the lock is another's meanwhile), and a debt in the record (to be settled once it is down).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import msgspec

from . import lease
from .claim import Claim
from .desk import Desk
from .fsm import REST
from .lease import PackageRecord
from .ports import Operation, OperationEnded
from .types import Incarnation, PackageSpec, Saved, State, Verb
from .work import Work


class Memory:
    """`operation(verb, deadline, ...)` makes an operation of this package; `left_behind(cause)` wants it stopped."""

    def __init__(
        self,
        desk: Desk,
        spec: PackageSpec,
        me: Incarnation,
        claim: Claim,
        work: Work,
        *,
        operation: Callable[..., Operation],
        left_behind: Callable[[str], None],
    ) -> None:
        self.desk, self.spec, self.me = desk, spec, me
        self.claim, self.work = claim, work
        self.may_be_up = False
        self.down = False  # verified down in this life, and nothing was begun since
        self.off = ""
        self.failed, self.everywhere = "", False  # see `Saved`
        self.ready = False  # nothing that a former life had begun runs any more
        self.former: Saved | None = None  # a former life in this boot, until it is dealt with
        self.fate: float | None = None  # this node is to be fenced: the instant that was decided
        self.limits: tuple[float, float] | None = None  # lost_at and hard of what it left up
        self._operation, self._left_behind = operation, left_behind
        self._floor = -1  # as it is on disk for good
        self._trouble = ""  # why it could not be written the last time

    # ---- the disk
    def load(self) -> None:
        """Raises ValueError: the memory is damaged."""
        saved = self.desk.ports.disk.load(self.spec.name)
        if saved is not None:
            self.claim.floor = saved.term
            self.off = saved.off
            if saved.incarnation.boot == self.me.boot:
                self.former = saved
                self.may_be_up = saved.may_be_up
                self.failed, self.everywhere = saved.failed, saved.everywhere
                if saved.may_be_up:
                    self.work.state = dict(saved.state)
        now, said = self.desk.now(), self.desk.ports.keeper.former(self.spec.name)
        if said is not None and said[1] < inf:
            self.may_be_up = True  # also when the disk has lost it
        if self.may_be_up:
            self.work.reach = len(self.spec.resources)
            self.limits = said or (now, now + self.spec.timing.stop_timeout)
        if self._to_save() != saved:  # a full disk keeps nobody from adopting what is up; a start will be refused
            self.try_save()

    def save(self, *, durable: bool = True) -> None:
        """See `Disk.save`. Raises OSError."""
        saved = self._to_save()
        self.desk.ports.disk.save(self.spec.name, saved, durable=durable)
        if durable:
            self._floor = saved.term

    def _to_save(self) -> Saved:
        pending = self.work.pending if self.ready or self.former is None else self.former.pending
        return Saved(
            incarnation=self.me if self.former is None else self.former.incarnation,
            heirs=() if self.former is None else self.former.heirs,
            term=self.claim.floor,
            may_be_up=self.may_be_up or self.work.reach > 0,
            pending=pending,
            off=self.off,
            failed=self.failed,
            everywhere=self.everywhere,
            state=self.work.state,
        )

    def try_save(self, *, durable: bool = True) -> None:
        """Where the effect is not of our making, or already undone: go on without memory, but say so, and try again:
        a disk is full for a while, and whoever comes after us has to know us as long as we are."""
        try:
            self.save(durable=durable)
        except OSError as error:
            trouble = f"cannot write memory: {error}"
            if trouble != self._trouble:  # said once
                self.desk.journal.write("memory_trouble", package=self.spec.name, cause=trouble)
            self._trouble = trouble
            self.desk.at(self.desk.now() + self.spec.timing.pace, ("memory", self.spec.name), self.try_save)
        else:
            self._trouble = ""

    def tell_keeper(self) -> None:
        """Until when what is up here may be up: our own lease counts, or that of the life that left it up. And until
        when an effect may begin."""
        keeper = self.desk.ports.keeper
        lock = (self.claim.term, self.claim.begin_by) if self.claim.held else None
        if not self.may_be_up and not self.work.reach:
            keeper.down(self.spec.name, lock)
        elif self.fate is not None:
            keeper.lease(self.spec.name, self.fate, self.fate, lock)
        elif self.claim.term:
            keeper.lease(self.spec.name, self.claim.lost_at, self.spec.timing.hard_at(self.claim.sent), lock)
        elif self.limits is not None:
            keeper.lease(self.spec.name, *self.limits)

    # ---- the former life
    def end_former(self, then: Callable[[], None]) -> None:
        """What the former manager had begun and not seen to end must be gone before anything else."""
        former = self.former

        def ready() -> None:
            self.ready = True
            if former is not None:
                self.claim.predecessors = former.lives
            then()

        def ended(report: OperationEnded) -> None:
            if report.ok and not report.survivors:
                ready()
                return
            left = "; ".join(report.survivors) or report.error
            cause = f"stand-by: an operation of this node's former manager does not end: {left}"
            self.desk.journal.write("note", package=self.spec.name, cause=cause)
            self.desk.at(self.desk.now() + self.spec.timing.pace, ("former", self.spec.name), again)

        def again() -> None:
            assert former is not None
            deadline = self.desk.now() + self.spec.timing.stop_timeout
            self.desk.operate(self._operation(Verb.SWEEP, deadline, only=former.pending), ended)

        if former is not None and former.pending:
            again()
        else:
            ready()

    def noted(self) -> None:
        """A record was read: its term has to be known here even after the store is lost or set back. The one that we
        have just taken waits until it is started: an fsync takes time, and after a crash nothing of it is up."""
        if self.claim.floor != self._floor and not self.claim.held:
            self.try_save()

    def taking(self) -> None:
        """The lock is about to be ours. Whoever comes after a kill between the two must know us by name, or what is up
        here would be nobody's."""
        former = self.former
        if former is not None and self.me not in former.heirs:
            self.former = msgspec.structs.replace(former, heirs=(*former.heirs, self.me))
            self.try_save()

    def acquired(self, *, adopted: bool) -> bool:
        """The lock is ours, and so is from now on what a former life may have left up. True: it was handed over, and
        nothing is up here by our doing, so that it can be started without a look; should that fail all is stopped."""
        self.former, self.claim.predecessors = None, ()
        self.failed = self.failed if adopted else ""
        handed = self.claim.handed_over and not self.may_be_up
        if handed:
            self.work.reach = len(self.spec.resources)
        else:
            self.try_save(durable=False)  # else the start, which begins at once, saves it
        return handed

    def begun(self) -> None:
        """From here on it may be up by our doing."""
        self.may_be_up, self.down = True, False

    def fails(self, cause: str, *, everywhere: bool) -> None:
        """It is about to be stopped, and is not to be started here by whoever comes after us."""
        self.failed, self.everywhere = cause, everywhere

    def consider(self, record: PackageRecord, state: State) -> None:
        """The record is another's, or free: stop what was left behind, settle debts of what is down here."""
        if not self.ready:
            return
        owed = [d for d in record.unfenced if lease.gone_by_reboot(d, self.me) or self._is_own(d)]
        if state in (State.STANDBY, State.OFF):
            if self.former is not None:
                lives = {life.nonce for life in self.former.lives}
                if any(record.held_by(life) for life in self.former.lives):
                    if state is State.OFF and self.may_be_up:
                        self._left_behind("switched off here")  # not to be adopted
                    return  # to be adopted
                if record.released and self.may_be_up:
                    return  # who takes it decides: we look, another makes us stop it
                taker = record.holder  # an older life of this very node (our disk was lost between) is none
                here = taker is not None and lease.same_boot(taker, self.me) and not self._is_own(taker)
                if not self.may_be_up or (here and all(d.nonce not in lives for d in record.unfenced)):
                    # a taker on this computer has seen our processes end before it started: what is up now may be
                    # its own, and a stop of ours (a script's, a flag's) could not tell the two apart
                    self._forget_former()
            # memory is no proof that a debt is paid (it may have been lost in between): a verified stop is
            if self.may_be_up or (not self.down and any(self._is_own(d) for d in owed)):
                holder = record.holder.node if record.holder else "nobody"
                self._left_behind(f"term {record.term} is {holder}'s")
                return
        if record.held_by(self.me) and state is State.OFF and not self.may_be_up:
            # the store was set back, and we will not take it again
            cause = "given back once more: the store was set back"
            self.claim.edit("give back", lambda found: lease.released(found, self.me, self.off, cause))
        paid = [d.nonce for d in owed if self.down or not self._is_own(d)]
        if paid and not self.may_be_up and state in REST:
            self.claim.settle(paid)

    def verified_down(self) -> None:
        """Nothing of this package is up here, whatever life of this node had started it."""
        if self.former is not None:
            self.claim.gone = self.former.lives
        self.down, self.fate = True, None
        self._forget_former()

    def _forget_former(self) -> None:
        self.former, self.claim.predecessors = None, ()
        self.may_be_up, self.failed = False, ""
        self.work.reach, self.work.state = 0, {}
        self.try_save()

    def _is_own(self, debt: Incarnation) -> bool:
        """A life of this very node (not of a namesake with another state directory) in this boot. All but ours are
        over: the lock on the state file has proved it."""
        return lease.same_boot(debt, self.me) and (debt.node, debt.home) == (self.me.node, self.me.home)
