"""One package on one node: turns what comes in into events, steps the table, carries out the actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import events as ev
from . import lease
from .claim import Claim
from .debts import Debts
from .desk import Desk
from .events import Action, Event
from .fsm import WATCHED, Situation, step, timers
from .health import assess
from .lease import View
from .memory import Memory
from .ports import HaltAsked, Look, Looked, Operation, OperationEnded, ResourceHealth
from .types import Health, Incarnation, PackageSpec, State, Verb
from .work import Order, Outcome, Work

#: Seconds that killing and surveying may take before they are asked for again.
SOON = 5.0
UNLOADED = "not loaded: its package file was changed or removed while it runs; mend that, see `btw check`"
Told = Callable[["Controller", Event, State], None]
_UP = (State.RUNNING, State.DEGRADED)
#: States that a withdrawal ends; what stops already goes on with it.
_ENDS = (State.FENCING, State.UNKNOWN, State.STARTING, *_UP)


class Controller:
    """`left` is set once the package is done with on this node. `told(controller, event, before)` after each step."""

    def __init__(self, desk: Desk, spec: PackageSpec, me: Incarnation, told: Told | None = None) -> None:
        self.desk, self.spec, self.me, self.name = desk, spec, me, spec.name
        self.situation = Situation(timing=spec.timing, on_stop_failure=spec.on_stop_failure)
        self.since, self.cause = desk.now(), "began"
        self.allowed, self.unwanted = True, ""  # may try for the lock; has to end here: see `place`
        self.left, self.maintenance = False, ""  # maintenance: why failures are passed over
        self._told = told
        self.health: dict[str, ResourceHealth] = {}
        self.claim = Claim(
            desk,
            spec,
            me,
            taking=lambda: self.memory.taking(),
            acquired=self._acquired,
            lost=lambda cause, hard: self.apply(ev.LeaseLost(at=desk.now(), cause=cause, hard=hard)),
            changed=self._record_changed,
        )
        self.work = Work(
            desk,
            spec,
            me,
            done=self._worked,
            remember=lambda: self.memory.save(durable=False),
            may_begin=self.claim.may_begin,
            holders=lambda: self.claim.holders,
            handed_over=lambda: self.claim.handed_over,
        )
        self.memory = Memory(
            desk, spec, me, self.claim, self.work, operation=self._operation, left_behind=self._left_behind
        )
        self.debts = Debts(desk, spec, me, self.claim, operation=self._operation, say=self._say)
        self._look: tuple[int, float] | None = None  # the look that has not been answered
        self.survivors: tuple[str, ...] = ()  # while stuck: what is alive, and on what it hangs
        self._was_up, self._held_up = False, False  # in this term; something alive keeps a stop from being verified
        self._asking, self._said = False, ""  # a survey is under way; the last note since the last change of state

    def begin(self) -> None:
        """Remember, end what a former life left unfinished, then stand by. Raises ValueError (memory)."""
        self.memory.load()
        if self.memory.limits is not None:
            self.desk.at(self.memory.limits[0], ("lapse", self.name), self._lapsed)
        if self.memory.off:
            self.apply(ev.SwitchedOff(at=self.desk.now(), cause=self.memory.off))
        self._pace()
        self.memory.end_former(self._settle_wanted)

    # ---- what the manager passes on
    def seen(self, view: View, recheck: float = 0.0) -> None:
        self.claim.seen(view, recheck)
        self.debts.seen(view)

    def renewed(self, sent: float) -> None:
        """The session's renewal that was sent at `sent` is committed."""
        self.claim.renewed(sent)
        self.memory.tell_keeper()

    def halt(self, asked: HaltAsked) -> None:
        if self.memory.may_be_up and self.situation.state in (State.STANDBY, State.OFF):
            # not adopted yet; left alone, only its processes would be killed at H, and an address or a mount would stay
            self._left_behind("a former life of this node may have left it up")
        self.apply(ev.HaltAskedFor(at=self.desk.now(), cause=asked.cause, reason=asked.reason))

    def place(self, *, allowed: bool, unwanted: str = "") -> None:
        """What is decided for this node: may it try for the lock, or has the package to end here, and why."""
        self.allowed, self.unwanted = allowed, unwanted
        self.withdraw(unwanted, *_ENDS)
        self._settle_wanted()
        self.claim.reconsider()

    def withdraw(self, cause: str, *states: State) -> None:
        """End it here, for `cause`, if it is in one of these states."""
        if cause and self.situation.state in states:
            self.apply(ev.Withdrawn(at=self.desk.now(), cause=cause))

    def enable(self, cause: str) -> None:
        if self.situation.state in (State.HALTING, State.STUCK):
            self._say("not enabled: still stopping after critical; enable it once it is off")
            return
        self.claim.edit("enable", lambda record: lease.switched_on(record, self.me.node))
        self.memory.off = ""
        self.memory.try_save()
        self.apply(ev.SwitchedOn(at=self.desk.now(), cause=cause))

    def observer_lost(self) -> None:
        """Another observer has begun: it knows nothing of what was asked of the former one."""
        if self.situation.state in WATCHED:
            self._watch()

    def looked(self, report: Looked) -> None:
        if report.id and (self._look is None or self._look[0] != report.id):
            return  # an answer to a question of a former state
        if report.id:
            self._look = None
        self.claim.lapse()  # who stood still may hear that the disk refuses it before it hears of its lease
        if self.situation.state not in (*WATCHED, State.STUCK):
            return
        if report.id:  # the whole picture: an observer that has not loaded the package says nothing of its resources
            silent = (ResourceHealth(resource=r.name, status=None, detail=UNLOADED) for r in self.spec.resources)
            self.health = {each.resource: each for each in silent}
        for result in report.results:
            self.health[result.resource] = result
        if not report.id and len(self.health) < len(self.spec.resources):
            return  # news of one resource before the first whole round: that round is under way
        found = assess(self.spec.resources, self.health)
        self._assessed(found.health, found.cause, found.curable)

    def _assessed(self, health: Health, cause: str, curable: bool = False) -> None:
        if self.maintenance and self.situation.state in _UP and health is not Health.UP:
            self._say(f"passed over in maintenance ({self.maintenance}): {health}, {cause}")
            health, cause, curable = Health.UP, "maintenance", False
        self.apply(ev.HealthSeen(at=self.desk.now(), cause=cause, health=health, curable=curable))

    # ---- events and actions
    def apply(self, event: Event) -> None:
        """One step of the table: journal it with its cause, then act."""
        before = self.situation.state
        row, self.situation, actions = step(self.situation, event)
        if row is None:
            return
        state = self.situation.state
        if state is not before or actions:
            cause = f"{row.why}: {event.cause}" if event.cause else row.why
            if state is not before:
                self.since, self.cause, self._said = event.at, cause, ""
            self.desk.journal.write(
                "transition", package=self.name, cause=cause, state=state, term=self.situation.term, before=before
            )
        if state in _UP and before not in _UP:
            self._was_up = True
            self.desk.ports.executor.watch(self.name, self.situation.term, self.work.state)
        elif before in WATCHED and state not in WATCHED:
            self.desk.ports.executor.unwatch(self.name)
            self._look = None
        if before is State.FENCING and state is not State.FENCING:
            self.debts.cancel()
        if state is State.FAILING and before in (State.UNKNOWN, State.STARTING, *_UP) and self.situation.held:
            self.memory.fails(event.cause or row.why, everywhere=getattr(event, "everywhere", False))
        found = event.health if isinstance(event, ev.HealthSeen) and before is State.UNKNOWN else Health.DOWN
        if state is not before and found is not Health.DOWN:
            self.memory.begun()  # some of it was up already, and all of it is ours now: a stop has to take all down
            self.work.reach = len(self.spec.resources)
            self.memory.try_save()
        if before is State.STUCK and state in (State.HALTED, State.OFF, State.FAILED):
            self.memory.verified_down()  # by looking: nothing is alive, and status says down
        for action in actions:
            self._do(action)
        self._settle_wanted()
        self.memory.tell_keeper()
        self._rearm()
        if self._told is not None:
            self._told(self, event, before)

    def _do(self, action: Action) -> None:
        term, resources = self.situation.term, self.spec.resources
        match action:
            case ev.Look():
                self._ask_look()
            case ev.Fence():
                self.memory.tell_keeper()  # before the effect
                self.debts.pay()
            case ev.StartResources():
                self.memory.begun()
                self.memory.tell_keeper()  # before the effect
                self.health.clear()
                self.work.begin(Order(verb=Verb.START, term=term, deadline=action.deadline, resources=resources))
            case ev.HealResources():
                self._heal()
            case ev.StopResources():
                self.survivors = ()
                reach = self.work.reach if self.memory.may_be_up or self.work.reach else len(resources)
                part, why = resources[:reach], action.reason
                self.work.begin(Order(verb=Verb.STOP, term=term, deadline=action.deadline, reason=why, resources=part))
            case ev.HurryStop():
                self.work.hurry(action.deadline)
            case ev.CancelOperations():
                self.work.cancel()
                self._held_up = self._held_up or bool(self.work.alive)
            case ev.CutOff():
                self.desk.operate(self._operation(Verb.SWEEP, self.desk.now() + SOON), lambda _report: self._survey())
            case ev.FenceSelf():
                self.memory.begun()  # what does not stop may be up, whoever started it: the keeper must hear of it
                self.memory.fate = self.desk.now()
            case ev.SwitchOff():
                self.memory.off = action.cause
                self.memory.try_save()
            case ev.Release():
                self._release()
            case ev.Leave():
                self._leave()
            case _:
                pass  # HoldOff: its deadline is in the situation, and so among the timers

    def _rearm(self) -> None:
        """The situation says which event is due when; nothing else does."""
        for key in ("HealthOverdue", "StartOverdue", "StopOverdue", "HoldOffPassed", "HardDeadline"):
            self.desk.forget((key, self.name))
        for when, kind in timers(self.situation):
            self.desk.at(when, (kind.__name__, self.name), lambda kind=kind: self._due(kind))  # type: ignore[misc]

    def _due(self, kind: type[Event]) -> None:
        cause = self.work.describe() or assess(self.spec.resources, self.health).cause
        if kind in (ev.HardDeadline, ev.HoldOffPassed):
            cause = ""
        self.apply(kind(at=self.desk.now(), cause=cause))

    def _settle_wanted(self) -> None:
        now = self.situation
        # cut off, but not seen down: who holds the lock may stop it, so it tries to be us
        regain = now.state is State.STUCK and now.cut and not now.held
        waits = now.state is State.STANDBY
        self.claim.wanted = self.memory.ready and ((waits and self.allowed) or regain)
        self.claim.tracked = self.memory.ready and waits
        self.work.keep_ready(self.memory.ready and (waits or now.state in WATCHED))

    # ---- the lock
    def _acquired(self, term: int, adopted: bool, cause: str) -> None:
        handed, owing = self.memory.acquired(adopted=adopted) and not self.unwanted, bool(self.claim.debts)
        self._was_up, now, cause = False, self.desk.now(), f"{cause}, term {term}"
        self.apply(ev.Acquired(at=now, cause=cause, term=term, owing=owing, handed=handed))
        self._go_on()
        self.withdraw(self.unwanted, *_ENDS)  # taken only to be given back: a former life of this node had it

    def _go_on(self) -> None:
        """With the stop of a former life."""
        memory, now = self.memory, self.desk.now()
        if memory.failed and self.situation.state is State.UNKNOWN:
            self.apply(ev.StopUnfinished(at=now, cause=memory.failed, everywhere=memory.everywhere))

    def _record_changed(self) -> None:
        self.memory.tell_keeper()  # a reading may have moved the lease on
        record = self.claim.record
        if record is None:
            return
        self.memory.noted()
        if self.situation.state is State.FENCING and self.claim.held and not self.claim.debts:
            self.apply(ev.Settled(at=self.desk.now()))
            self._go_on()
        if self.situation.state is State.STANDBY and self.me.node in record.off:
            self.apply(ev.SwitchedOff(at=self.desk.now(), cause=record.off[self.me.node]))
        if not self.claim.held:
            self.memory.consider(record, self.situation.state)

    def _lapsed(self) -> None:
        """A former life's lease has run out, and nobody has said whose the lock is."""
        waits = self.situation.state in (State.STANDBY, State.OFF)
        if waits and self.memory.may_be_up:
            self._left_behind("the lease of this node's former manager has run out")

    def _left_behind(self, cause: str) -> None:
        hard = self.desk.now() + self.spec.timing.stop_timeout
        self.apply(ev.LeftBehind(at=self.desk.now(), cause=cause, hard=hard))

    def _release(self) -> None:
        self.memory.try_save()
        off, orderly = self.situation.off, self._was_up and self.situation.state is State.HALTED
        self.claim.release(off, off or self.cause, self._given_back, orderly=orderly)
        if self.situation.state is State.HALTED and not self.left:
            self._wait_to_leave()

    def _given_back(self) -> None:
        self.apply(ev.Released(at=self.desk.now()))

    def _wait_to_leave(self) -> None:
        patience = 2 * self.spec.timing.renewal_deadline + self.spec.timing.retry
        due = self.desk.now() + patience
        # fired much too late it was frozen, and has not heard yet what it owes to whoever took the lock
        do = lambda: self._leave() if self.desk.now() < due + patience else self._wait_to_leave()  # noqa: E731 - short
        self.desk.at(due, ("leave", self.name), do)

    def _leave(self) -> None:
        if not self.left and not self.claim.free:
            self._say(f"the lock could not be given back; others will wait up to {self.spec.timing.lease:.1f} s")
        self.left = True
        for key in ("leave", "pace"):
            self.desk.forget((key, self.name))

    # ---- operations
    def _operation(self, verb: Verb, deadline: float, **more: Any) -> Operation:
        term, number = self.situation.term, self.work.aside()
        return Operation(id=number, package=self.name, verb=verb, term=term, deadline=deadline, **more)

    def _heal(self) -> None:
        if self.work.busy:
            return
        down = assess(self.spec.resources, self.health).down
        resources = tuple(r for r in self.spec.resources if r.name in down)
        deadline = self.desk.now() + self.spec.timing.start_timeout
        self.work.begin(Order(verb=Verb.HEAL, term=self.situation.term, deadline=deadline, resources=resources))

    def _worked(self, outcome: Outcome) -> None:
        if outcome.verb is Verb.STOP and outcome.ok:
            self.memory.verified_down()
        else:
            self.memory.try_save()
        now = self.desk.now()
        match outcome.verb, outcome.ok:
            case Verb.START, True:
                self.apply(ev.StartSucceeded(at=now, cause=f"in {now - self.work.began:.1f} s"))
            case Verb.START, False:
                self.apply(ev.StartFailed(at=now, cause=outcome.cause, everywhere=outcome.everywhere))
            case Verb.HEAL, True:
                if self.situation.state in WATCHED:
                    self.health.clear()
                    self._watch()
            case Verb.HEAL, False:
                self.apply(ev.HealFailed(at=now, cause=outcome.cause))
            case Verb.STOP, True:
                self.apply(ev.StopVerified(at=now, cause=f"in {now - self.work.began:.1f} s"))
            case _:
                self._held_up = bool(outcome.survivors) or bool(self.work.alive)
                self.survivors = outcome.survivors
                self.apply(ev.StopFailed(at=now, cause=outcome.cause))

    def _survey(self) -> None:
        """While stuck: is what held it gone?"""

        def ended(report: OperationEnded) -> None:
            self._asking = False
            if self.situation.state is not State.STUCK:
                return
            if report.survivors and not self.survivors:
                self._say(f"still alive: {'; '.join(report.survivors)}")
            self.survivors = report.survivors
            if not report.ok or report.survivors or self.work.alive:
                self._held_up = True
            elif self._held_up and (not self.situation.held or self.desk.now() >= self.since + self.work.patience):
                self._held_up = False
                self.apply(ev.SurvivorsGone(at=self.desk.now()))

        if not self._asking:
            self._asking = True
            self.desk.operate(self._operation(Verb.SURVEY, self.desk.now() + SOON), ended)

    # ---- once a pace
    def _pace(self) -> None:
        self.desk.at(self.desk.now() + self.spec.timing.pace, ("pace", self.name), self._pace)
        if self.situation.state in WATCHED:
            if self._look is None:
                self._ask_look()
            elif (waited := self.desk.now() - self._look[1]) >= self.spec.timing.pace / 2:  # else only just asked
                self._assessed(Health.CANNOT_TELL, f"the observer has not answered for {waited:.1f} s")
        elif self.situation.state is State.STUCK:
            self._survey()
            if self.situation.gone and self._look is None:
                self._ask_look()  # nothing is left alive: only a status that says down is missing
        elif self.situation.state is State.FENCING:
            self.debts.pay()

    def _watch(self) -> None:
        """Ask for news from now on, and for the whole picture now."""
        self.desk.ports.executor.watch(self.name, self.situation.term, self.work.state)
        self._ask_look()

    def _ask_look(self) -> None:
        number = self.desk.number()
        self._look = (number, self.desk.now())
        look = Look(id=number, package=self.name, term=self.situation.term, state=self.work.state)
        self.desk.ports.executor.look(look)

    # ---- words
    def _say(self, text: str) -> None:
        if text == self._said:
            return  # found again, as each pace
        self._said = text
        self.desk.journal.write("note", package=self.name, cause=text, state=self.situation.state)
