"""The state machine: every pair of state and event on purpose, every row taken, and what no path may ever do."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from btw_core import events as ev
from btw_core import fsm
from btw_core.events import EVENTS, Event
from btw_core.fsm import IGNORED, ROWS, Row, Situation, Transition, UnexpectedEvent, step, timers
from btw_core.timing import Timing
from btw_core.types import Health, Reason, State

TIMING = Timing(pace=4, timeout=30, start_timeout=20, stop_timeout=10)

#: One line for each event, one column for each state: where its rows lead, in their order; "-" ignored on purpose,
#: "." cannot come. Written by hand: whoever changes the table says here that it was meant.
GRID = """
                sb        of  fe  un              st  ru                 de                 hg        fg        sk           hd  fd
Acquired        fe/st/un  .   .   .               .   .                  .                  .         .         fg           .   .
Settled         -         -   un  -               .   .                  .                  -         -         .            -   -
LeaseLost       -         -   sb  fg              fg  fg                 fg                 hg        fg        sk           -   -
LeftBehind      fg        hg  .   .               .   .                  .                  .         .         .            .   .
HealthSeen      -         -   -   ru/de/st/hg/un  -   ru/de/de/de/hg/fg  ru/de/de/de/hg/fg  -         -         hd/of/fd/sk  -   -
HealthOverdue   .         .   .   fg              .   fg                 fg                 .         .         .            .   .
HealFailed      -         -   -   -               -   fg                 fg                 -         -         -            -   -
StartSucceeded  .         .   .   .               ru  .                  .                  .         .         .            .   .
StartFailed     .         .   .   .               fg  .                  .                  .         .         .            .   .
StartOverdue    .         .   .   .               fg  .                  .                  .         .         .            .   .
StopVerified    .         .   .   .               .   .                  .                  hd/of/sb  hd/of/fd  .            .   .
StopFailed      .         .   .   .               .   .                  .                  sk/sk     sk/sk     .            .   .
StopOverdue     .         .   .   .               .   .                  .                  sk/sk     sk/sk     .            .   .
HardDeadline    .         .   .   .               .   .                  .                  sk        sk        sk           .   .
SurvivorsGone   -         -   .   .               .   .                  .                  -         -         fg/sk        -   -
HaltAskedFor    hd        hd  hd  hg              hg  hg                 hg                 hg        hg        hg           -   hd
Withdrawn       -         -   sb  hg              hg  hg                 hg                 -         -         hg           -   -
StopUnfinished  .         .   .   fg              .   .                  .                  .         .         .            .   .
Released        -         -   -   -               -   -                  -                  -         -         -            hd  fd
HoldOffPassed   .         .   .   .               .   .                  .                  .         .         .            .   sb
SwitchedOff     of        -   -   -               -   -                  -                  -         -         -            -   -
SwitchedOn      -         sb  -   -               -   -                  -                  -         -         -            -   -
"""  # noqa: E501 - a table
NAMES = dict(zip(["sb", "of", "fe", "un", "st", "ru", "de", "hg", "fg", "sk", "hd", "fd"], State, strict=True))
KINDS = {kind.__name__: kind for kind in EVENTS}


def grid() -> dict[tuple[State, type[Event]], str]:
    head, *lines = (line.split() for line in GRID.strip().splitlines())
    return {(NAMES[s], KINDS[line[0]]): cell for line in lines for s, cell in zip(head, line[1:], strict=True)}


CELLS = grid()


def rows(state: State, kind: type[Event]) -> list[Row]:
    return [row for row in ROWS if row.state is state and row.event is kind]


def variants(kind: type[Event], at: float) -> list[Event]:
    """One event for every way in which the table may look at it."""
    if kind is ev.Acquired:
        flags = [(False, False), (True, False), (False, True)]
        return [ev.Acquired(at=at, term=7, owing=owing, handed=handed) for owing, handed in flags]
    if kind in (ev.LeaseLost, ev.LeftBehind):
        return [kind(at=at, hard=at + 10)]
    if kind is ev.HealthSeen:
        return [ev.HealthSeen(at=at, health=health, curable=curable) for health in Health for curable in (False, True)]
    if kind is ev.HaltAskedFor:
        return [ev.HaltAskedFor(at=at, reason=Reason.USER)]
    return [kind(at=at, cause="why")]


class Package:
    """A package that things happen to, one second apart."""

    def __init__(self, timing: Timing = TIMING) -> None:
        self.now = 1000.0
        self.situation = Situation(timing=timing)
        self.actions: tuple[ev.Action, ...] = ()

    def meets(self, kind: type[Event], after: float = 1.0, **more: Any) -> Package:
        self.now += after
        _, self.situation, self.actions = step(self.situation, kind(at=self.now, **more))
        return self

    def sees(self, health: Health, *, after: float = 1.0, curable: bool = False) -> Package:
        return self.meets(ev.HealthSeen, after, health=health, curable=curable)

    def waits(self) -> Package:
        """The next timer comes at its very instant."""
        when, kind = min(timers(self.situation), key=lambda due: due[0])
        return self.meets(kind, when - self.now)

    def acquires(self) -> Package:
        return self.meets(ev.Acquired, term=self.situation.term + 1)

    def starts(self) -> Package:
        return self.acquires().sees(Health.DOWN)

    def runs(self) -> Package:
        return self.starts().meets(ev.StartSucceeded)

    def loses(self) -> Package:
        """T has passed; H is S later."""
        return self.meets(ev.LeaseLost, hard=self.now + 1 + self.situation.timing.stop_timeout)

    def halts(self, reason: Reason = Reason.USER) -> Package:
        return self.meets(ev.HaltAskedFor, reason=reason)

    @property
    def state(self) -> State:
        return self.situation.state

    def does(self, state: State, *actions: ev.Action) -> bool:
        """Fails with both sides shown."""
        assert (self.situation.state, self.actions) == (state, actions)
        return True


def stop(package: Package, reason: Reason, deadline: float | None = None) -> ev.StopResources:
    return ev.StopResources(reason=reason, deadline=package.now + 10 if deadline is None else deadline)


# ---- the table as a whole
def test_grid_is_complete() -> None:
    """The grid names each of the 12 states x 22 events exactly once."""
    assert len(State) == 12 and len(EVENTS) == 22
    assert set(CELLS) == {(state, kind) for state in State for kind in EVENTS}


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("state", State)
def test_every_pair_is_meant(state: State, kind: type[Event]) -> None:
    """Each pair leads where the grid says, in the order of its rows; or is ignored; or raises."""
    cell = CELLS[state, kind]
    found = rows(state, kind)
    ignored = kind in IGNORED and state in IGNORED[kind][0]
    if cell == ".":
        assert not found and not ignored
        for event in variants(kind, 5.0):
            with pytest.raises(UnexpectedEvent, match=f"{kind.__name__} in state {state}"):
                step(Situation(timing=TIMING, state=state), event)
    elif cell == "-":
        assert not found and ignored
        for event in variants(kind, 5.0):
            situation = Situation(timing=TIMING, state=state)
            assert step(situation, event) == Transition(None, situation, ())
    else:
        assert [row.next for row in found] == [NAMES[name] for name in cell.split("/")]
        assert not ignored


def test_guards_and_actions_are_all_used() -> None:
    """Every guard and action that a row names exists, and none exists that no row names."""
    assert {row.when for row in ROWS} == set(fsm.GUARDS)
    assert {name for row in ROWS for name in row.do} == set(fsm.ACTIONS)


@pytest.mark.parametrize("off", ["", "disk"])
@pytest.mark.parametrize("halt", [False, True])
def test_verified_down_always_leads_out(halt: bool, off: str) -> None:
    """A package is halting only because somebody wants it or this node is off: there is a row for each."""
    for state in (State.HALTING, State.FAILING):
        situation = Situation(timing=TIMING, state=state, halt=halt, off=off)
        if state is State.FAILING or halt or off:
            assert step(situation, ev.StopVerified(at=5.0)).actions == (ev.Release(),)


def test_no_row_stands_behind_one_that_always_holds() -> None:
    """Only the last row of a pair may be without a guard, and no guard stands twice."""
    for state in State:
        for kind in EVENTS:
            guards = [row.when for row in rows(state, kind)]
            assert "" not in guards[:-1]
            assert len(set(guards)) == len(guards)


def test_reasons_are_given() -> None:
    """Every row says why, and every ignored pair does too."""
    assert all(row.why for row in ROWS)
    assert all(states and why for states, why in IGNORED.values())


# ---- all paths
def possible(s: Situation, now: float) -> Iterator[Event]:
    """What the shell can bring in this situation: of the events of the grid those whose conditions hold."""
    due = {kind: when for when, kind in timers(s)}
    for kind in EVENTS:
        if CELLS[s.state, kind] == ".":
            continue
        if kind in TIMED:
            if kind in due:
                yield kind(at=max(now, due[kind]))
        elif kind is ev.LeaseLost and not s.held:
            continue  # lost once
        elif kind is ev.SurvivorsGone and s.gone:
            continue  # said once
        elif kind is ev.HealthSeen:
            yield from (e for e in variants(kind, now + 1) if e.health in DOWN or not e.curable)  # type: ignore[attr-defined]
        else:
            yield from variants(kind, now + 1)


TIMED = (ev.HealthOverdue, ev.StartOverdue, ev.StopOverdue, ev.HardDeadline, ev.HoldOffPassed)
DOWN = (Health.DOWN, Health.PARTLY)


class Watch:
    """What must hold along every path."""

    def __init__(self) -> None:
        self.verified = True  # nothing of ours is up: nothing was started or looked after, or it was verified down
        self.lost = False

    def check(self, before: Situation, event: Event, after: Transition) -> None:
        s = after.situation
        for when, kind in timers(s):
            assert rows(s.state, kind), f"timer {kind.__name__} has no row in {s.state}"
            assert when >= 0
        if after.row is None:
            assert s == before
            return
        if isinstance(event, ev.Acquired):
            self.lost = False
        if isinstance(event, ev.LeaseLost | ev.LeftBehind):
            self.lost = True
        gone = isinstance(event, ev.HealthSeen) and event.health is Health.DOWN and before.gone
        if isinstance(event, ev.StopVerified) or gone:
            self.verified = True
        elif s.state in (State.UNKNOWN, State.STARTING, State.RUNNING) or isinstance(event, ev.LeftBehind):
            self.verified = False
        for action in after.actions:
            if isinstance(action, ev.StartResources | ev.HealResources):
                assert s.held and not self.lost, "started without the lock"
            if isinstance(action, ev.StartResources):
                assert action.deadline == event.at + s.timing.start_timeout
            if isinstance(action, ev.Release):
                assert self.verified, "released what may be up"
                assert s.state in (State.HALTED, State.FAILED, State.OFF, State.STANDBY)
            if isinstance(action, ev.StopResources | ev.HurryStop):
                assert action.deadline == s.deadline
                assert action.deadline <= event.at + s.timing.stop_timeout
                assert s.held or s.hard is None or action.deadline <= s.hard or s.hard <= event.at
        assert not (s.halt and s.state in (State.FAILED, State.OFF, State.STANDBY)), "halt was forgotten"
        assert s.state is not State.OFF or s.off
        assert (s.state is State.STUCK) <= (not self.verified)


def shape(s: Situation, now: float) -> tuple[Any, ...]:
    """Situations of one shape are alike to the table."""
    late = s.hard is not None and now >= s.hard
    known = (s.state, s.held, s.hard is None, late, s.cut, s.gone, s.halt, bool(s.off), s.deadline is None)
    return (*known, s.on_stop_failure)


def test_every_row_is_taken_on_some_path() -> None:
    """From the beginning each row can be reached by what the shell may bring; on all these paths the rules hold."""
    taken: set[Row] = set()
    seen = set()
    begin = (Situation(timing=TIMING, on_stop_failure=what) for what in ("hold", "fence"))
    queue = deque((situation, 0.0, True, False) for situation in begin)
    while queue:
        situation, now, verified, lost = queue.popleft()
        for event in possible(situation, now):
            watch = Watch()
            watch.verified, watch.lost = verified, lost
            after = step(situation, event)
            watch.check(situation, event, after)
            if after.row is None:
                continue
            taken.add(after.row)
            mark = (shape(after.situation, event.at), watch.verified, watch.lost)
            if mark not in seen:
                seen.add(mark)
                queue.append((after.situation, event.at, watch.verified, watch.lost))
    assert set(ROWS) - taken == set()
    assert len(seen) > len(State)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from([TIMING, Timing(), Timing(pace=1, timeout=3, start_timeout=60, stop_timeout=1)]))
def test_random_walks_keep_the_rules(data: st.DataObject, timing: Timing) -> None:
    """Along any walk of possible events, with any times between them, the rules hold."""
    situation, now, watch = Situation(timing=timing), 0.0, Watch()
    for _ in range(data.draw(st.integers(1, 40))):
        now += data.draw(st.floats(0, 40))
        choices = [event for event in possible(situation, now) if CELLS[situation.state, type(event)] != "-"]
        if not choices:
            assert situation.state is State.HALTED
            break
        event = data.draw(st.sampled_from(choices))
        after = step(situation, event)
        watch.check(situation, event, after)
        situation, now = after.situation, event.at


@pytest.mark.parametrize("curable", [False, True])
@pytest.mark.parametrize("health", Health)
@pytest.mark.parametrize("state", [State.UNKNOWN, State.RUNNING, State.DEGRADED, State.STUCK])
def test_every_health_fits_a_row(state: State, health: Health, curable: bool) -> None:
    """No health is left without an answer where health is looked at."""
    event = ev.HealthSeen(at=5.0, health=health, curable=curable)
    assert step(Situation(timing=TIMING, state=state, held=True), event).row is not None


# ---- the loop of the original, row by row
def test_standby_gets_the_lock() -> None:
    """stand-by: try the lock; when it is got: active, state unknown, run `status`."""
    package = Package().acquires()
    assert package.does(State.UNKNOWN, ev.Look())
    assert package.situation.held and package.situation.term == 1


@pytest.mark.parametrize(("health", "state"), [(Health.UP, State.RUNNING), (Health.DEGRADED, State.DEGRADED)])
def test_unknown_already_up(health: Health, state: State) -> None:
    """unknown: `status` 0 or 2: already up, taken as running (degraded is said, and its countdown runs)."""
    assert Package().acquires().sees(health).does(state)


@pytest.mark.parametrize("health", DOWN)
def test_unknown_down_starts(health: Health) -> None:
    """unknown, 1: run `start`, by start_timeout."""
    package = Package().acquires().sees(health)
    assert package.does(State.STARTING, ev.StartResources(deadline=package.now + 20))


def test_unknown_critical_halts() -> None:
    """unknown, 3: critical, halt. This node is switched off before the stop."""
    package = Package().acquires().meets(ev.HealthSeen, health=Health.CRITICAL, cause="disk 3")
    assert package.does(State.HALTING, ev.SwitchOff(cause="disk 3"), stop(package, Reason.CRITICAL))


def test_starting_exit_0_runs() -> None:
    """starting, exit 0: running, and looked at."""
    assert Package().starts().meets(ev.StartSucceeded).does(State.RUNNING, ev.Look())


def test_starting_other_exit_fails() -> None:
    """starting, other exit: run `stop`, failing."""
    package = Package().starts().meets(ev.StartFailed)
    assert package.does(State.FAILING, stop(package, Reason.START_FAILED))


def test_starting_longer_than_start_timeout_fails() -> None:
    """starting, longer than start_timeout: kill it (a stop cancels what runs), run `stop`, failing."""
    package = Package().starts()
    began = package.now
    package.waits()
    assert package.now == began + 20
    assert package.does(State.FAILING, stop(package, Reason.START_FAILED))


def test_running_healthy_resets_the_countdown() -> None:
    """running, 0: healthy, the health countdown is reset to `timeout`."""
    package = Package().runs().sees(Health.UP, after=29)
    assert package.does(State.RUNNING)
    assert timers(package.situation) == [(package.now + 30, ev.HealthOverdue)]


@pytest.mark.parametrize("health", [Health.DEGRADED, Health.CANNOT_TELL])
def test_running_degraded_or_silent_counts_down(health: Health) -> None:
    """running, 2 or no answer yet: countdown goes on. At its end: run `stop`, failing."""
    package = Package().runs()
    healthy = package.now
    for _ in range(5):
        assert package.sees(health, after=5).does(State.DEGRADED)
    package.waits()
    assert package.now == healthy + 30
    assert package.does(State.FAILING, stop(package, Reason.FAILURE))


def test_degraded_gets_well() -> None:
    """running, 2 and then 0: the countdown starts anew."""
    package = Package().runs().sees(Health.DEGRADED, after=20).sees(Health.UP)
    assert package.does(State.RUNNING)
    assert timers(package.situation) == [(package.now + 30, ev.HealthOverdue)]


@pytest.mark.parametrize("health", DOWN)
def test_running_down_fails(health: Health) -> None:
    """running, 1: run `stop`, failing."""
    package = Package().runs().sees(health)
    assert package.does(State.FAILING, stop(package, Reason.FAILURE))


def test_running_critical_halts() -> None:
    """running, 3: run `stop`, halting; then off here, and another node may start it."""
    package = Package().runs().sees(Health.CRITICAL)
    assert package.does(State.HALTING, ev.SwitchOff(cause="critical"), stop(package, Reason.CRITICAL))
    assert package.meets(ev.StopVerified).does(State.OFF, ev.Release())
    assert package.meets(ev.SwitchedOn).does(State.STANDBY)


def test_stop_done() -> None:
    """halting, failing, `stop` done: halted or failed. Only then the lock is released."""
    package = Package().runs().halts()
    assert package.does(State.HALTING, stop(package, Reason.USER))
    assert package.meets(ev.StopVerified).does(State.HALTED, ev.Release())
    assert Package().starts().meets(ev.StartFailed).meets(ev.StopVerified).does(State.FAILED, ev.Release())


@pytest.mark.parametrize("begin", [Package.halts, Package.loses], ids=["halting", "failing"])
def test_stop_not_done_is_stuck(begin: Any) -> None:
    """halting, failing, `stop` fails or stop_timeout passes: not "halted", but stuck, and nothing is released."""
    assert begin(Package().runs()).meets(ev.StopFailed).does(State.STUCK, ev.CancelOperations())
    package = begin(Package().runs())
    began = package.now
    assert package.waits().does(State.STUCK, ev.CancelOperations())
    assert package.now == began + 10


def test_failed_releases_waits_and_stands_by() -> None:
    """failed: release the lock, wait one pace, back to stand-by."""
    package = Package().starts().meets(ev.StartFailed).meets(ev.StopVerified)
    assert timers(package.situation) == []  # the wait begins when the lock is free
    assert package.meets(ev.Released).does(State.FAILED, ev.HoldOff(until=package.now + 4))
    assert package.waits().does(State.STANDBY)


def test_halted_releases_and_exits() -> None:
    """halted: release the lock, exit."""
    assert Package().runs().halts().meets(ev.StopVerified).meets(ev.Released).does(State.HALTED, ev.Leave())


@pytest.mark.parametrize("before", [Package.acquires, Package.starts, Package.runs])
def test_lock_lost_while_active_fails(before: Any) -> None:
    """lock lost while active: run `stop`, failing; it has to be done by H."""
    package = before(Package()).meets(ev.LeaseLost, hard=1005.5)
    assert package.does(State.FAILING, stop(package, Reason.LOCK_LOST, 1005.5))


# ---- beyond the original
def test_what_is_handed_over_is_started_without_a_look() -> None:
    """Its holder has verified it down a moment ago, and clients wait."""
    package = Package().meets(ev.Acquired, term=3, handed=True)
    assert package.does(State.STARTING, ev.StartResources(deadline=package.now + TIMING.start_timeout))


def test_debts_come_before_what_was_handed_over() -> None:
    assert Package().meets(ev.Acquired, term=3, handed=True, owing=True).does(State.FENCING, ev.Fence())


def test_debts_are_fenced_first() -> None:
    """With a former holder not known to be down nothing is looked at or started before that is settled."""
    package = Package().meets(ev.Acquired, term=3, owing=True)
    assert package.does(State.FENCING, ev.Fence())
    assert package.sees(Health.DOWN).does(State.FENCING)
    assert package.meets(ev.Settled).does(State.UNKNOWN, ev.Look())
    assert timers(package.situation) == [(package.now + 30, ev.HealthOverdue)]


@pytest.mark.parametrize("end", [Package.halts, Package.loses])
def test_fencing_ends_without_a_stop(end: Any) -> None:
    """Nothing was started while fencing, so nothing is stopped."""
    package = end(Package().meets(ev.Acquired, term=3, owing=True))
    assert package.state in (State.HALTED, State.STANDBY)
    assert not any(isinstance(action, ev.StopResources) for action in package.actions)


def test_curable_is_healed_without_a_second_start() -> None:
    """What vanished and can heal is put back; the countdown goes on; a heal that fails is a failure."""
    package = Package().runs()
    healthy = package.now
    assert package.sees(Health.PARTLY, curable=True).does(State.DEGRADED, ev.HealResources())
    assert timers(package.situation) == [(healthy + 30, ev.HealthOverdue)]
    package.meets(ev.HealFailed)
    assert package.does(State.FAILING, stop(package, Reason.FAILURE))


def test_left_behind_is_stopped_and_then_off_or_free() -> None:
    """What a former life left up is stopped by H; a node that is off stays off."""
    package = Package().meets(ev.LeftBehind, hard=1003.0)
    assert package.does(State.FAILING, stop(package, Reason.LEFT_BEHIND, 1003.0))
    package = Package().meets(ev.SwitchedOff, cause="disk").meets(ev.LeftBehind, hard=1003.0)
    assert package.does(State.HALTING, stop(package, Reason.LEFT_BEHIND, 1003.0))
    assert package.meets(ev.StopVerified).does(State.OFF, ev.Release())


def test_lock_lost_while_stopping_hurries_the_stop() -> None:
    """The stop that runs is not begun again; it gets until H when that is earlier, and no longer than before."""
    package = Package().runs().halts()
    first = package.now + 10
    package.meets(ev.LeaseLost, hard=first - 5)
    assert package.does(State.HALTING, ev.HurryStop(deadline=first - 5))
    package = Package().runs().halts().meets(ev.LeaseLost, hard=first + 5)
    assert package.does(State.HALTING, ev.HurryStop(deadline=first))


def test_hard_deadline_cuts_off_once() -> None:
    """At H without the lock processes are killed, and H is not asked for again."""
    package = Package().runs().meets(ev.LeaseLost, hard=1010.0).meets(ev.StopFailed)
    assert package.waits().does(State.STUCK, ev.CutOff())
    assert package.now == 1010.0
    assert timers(package.situation) == []


def test_after_the_hard_deadline_only_looked_at() -> None:
    """Past H, what held it being gone starts no further stop: it counts as down only when it is seen down."""
    package = Package().runs().meets(ev.LeaseLost, hard=1010.0).meets(ev.StopFailed).waits()
    assert package.sees(Health.DOWN).does(State.STUCK)  # processes may still be there
    assert package.meets(ev.SurvivorsGone).does(State.STUCK, ev.Look())
    for health in (Health.PARTLY, Health.CANNOT_TELL, Health.UP, Health.CRITICAL):
        assert package.sees(health).does(State.STUCK)
    assert package.sees(Health.DOWN).does(State.FAILED, ev.Release())


def test_stuck_past_the_hard_deadline_stops_under_a_new_term() -> None:
    """Whoever gets the lock anew after it was cut off stops once more, with the full time: nobody else is active."""
    package = Package().runs().meets(ev.LeaseLost, hard=1010.0).meets(ev.StopFailed).waits()
    package.acquires()
    assert package.does(State.FAILING, stop(package, Reason.FAILURE))
    assert package.meets(ev.StopVerified).does(State.FAILED, ev.Release())


def test_every_loss_has_its_hard_deadline() -> None:
    """A term after one that was cut off is cut off at its own H, and no H is left over from the one before."""
    package = Package().runs().meets(ev.LeaseLost, hard=1010.0).meets(ev.StopFailed).waits()
    package.meets(ev.SurvivorsGone).sees(Health.DOWN).meets(ev.Released).waits().runs()
    assert package.situation.hard is None
    hard = package.now + 5
    package.meets(ev.LeaseLost, hard=hard)
    assert (hard, ev.HardDeadline) in timers(package.situation)


def test_being_gone_counts_for_one_stop_only() -> None:
    """A stop that was begun after the survivors were gone, and fails, may have left new ones: down is not enough."""
    package = Package().runs().meets(ev.LeaseLost, hard=1010.0).meets(ev.StopFailed).waits().meets(ev.SurvivorsGone)
    assert package.halts().meets(ev.StopFailed).sees(Health.DOWN).does(State.STUCK)


def test_a_person_stops_it_again_after_the_hard_deadline() -> None:
    """Past H a person may have it stopped once more, with the full time."""
    package = Package().runs().meets(ev.LeaseLost, hard=1010.0).meets(ev.StopFailed).waits().halts()
    assert package.does(State.HALTING, stop(package, Reason.USER))


def test_stuck_stops_again_when_what_held_it_is_gone() -> None:
    """While the lock is held, or H not reached, the stop is tried again, for its first reason."""
    package = Package().starts().meets(ev.StartFailed).meets(ev.StopFailed).meets(ev.SurvivorsGone)
    assert package.does(State.FAILING, stop(package, Reason.START_FAILED))
    package = Package().runs().meets(ev.LeaseLost, hard=1010.0).meets(ev.StopFailed).meets(ev.SurvivorsGone)
    assert package.does(State.FAILING, stop(package, Reason.LOCK_LOST, 1010.0))


def test_halt_is_not_forgotten() -> None:
    """Asked for while it fails or is stuck, the halt comes in the end, not another term."""
    package = Package().runs().sees(Health.DOWN).halts()
    assert package.does(State.HALTING)
    assert package.meets(ev.StopFailed).meets(ev.SurvivorsGone).meets(ev.StopVerified).state is State.HALTED


def test_hold_off_doubles_up_to_a_limit() -> None:
    """A package that fails again and again is tried here ever more rarely: 1, 2, 4 ... 32 paces, not beyond."""
    package, paces = Package(), []
    for _ in range(8):
        package.starts().meets(ev.StartFailed).meets(ev.StopVerified).meets(ev.Released)
        (held_off,) = package.actions
        assert isinstance(held_off, ev.HoldOff)
        paces.append((held_off.until - package.now) / 4)
        package.waits()
    assert paces == [1, 2, 4, 8, 16, 32, 32, 32]


def hold_off_after(*healths: tuple[float, Health]) -> float:
    """Two failures, then it runs and is seen like this, then fails: paces of the hold-off."""
    package = Package()
    for _ in range(2):
        package.starts().meets(ev.StartFailed).meets(ev.StopVerified).meets(ev.Released).waits()
    package.runs()
    for after, health in healths:
        package.sees(health, after=after)
    package.sees(Health.DOWN).meets(ev.StopVerified).meets(ev.Released)
    (held_off,) = package.actions
    assert isinstance(held_off, ev.HoldOff)
    return (held_off.until - package.now) / 4


def test_health_for_timeout_forgives_failures() -> None:
    """`timeout` of health without a break forgets former failures; less, or health with a break, does not."""
    assert hold_off_after((15, Health.UP), (15, Health.UP)) == 1
    assert hold_off_after((15, Health.UP), (14, Health.UP)) == 4
    assert hold_off_after((15, Health.UP), (10, Health.DEGRADED), (10, Health.UP)) == 4


def test_lock_counts_as_given_back_with_the_release() -> None:
    """After a release the situation does not claim to hold the lock."""
    assert not Package().runs().halts().meets(ev.StopVerified).situation.held


def test_situation_is_not_changed_by_a_step() -> None:
    """`step` is pure: the situation that it was given stays as it was."""
    situation = Package().runs().situation
    copy = msgspec.structs.replace(situation)
    step(situation, ev.HealthSeen(at=9999.0, health=Health.CRITICAL))
    assert situation == copy


@pytest.mark.parametrize("kind", [ev.StopFailed, ev.StopOverdue])
def test_a_stop_that_fails_fences_only_where_that_is_wanted(kind: type[Event]) -> None:
    """on_stop_failure = "hold" keeps the lock; "fence" has this node fenced, and keeps it too until then."""
    for what, actions in (("hold", (ev.CancelOperations(),)), ("fence", (ev.CancelOperations(), ev.FenceSelf()))):
        package = Package().runs().halts()
        package.situation = msgspec.structs.replace(package.situation, on_stop_failure=what)
        package.meets(kind)
        assert package.does(State.STUCK, *actions) and package.situation.held
