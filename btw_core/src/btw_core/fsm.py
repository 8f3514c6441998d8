"""The state machine of one package on one node: a table of rows, and nothing else decides.

`step(situation, event)` is pure: time arrives in the event, everything to be done leaves as actions. The first row of
(state, event) whose guard holds is taken. A pair that has no row and is not in IGNORED is a defect and raises.
`timers(situation)` says which event is due when; the shell fires exactly those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from . import events as ev
from .events import Action, Event
from .timing import Timing
from .types import Health, Reason, State

#: A package that fails again and again waits at most this many paces before this node tries once more.
HOLD_OFF_CEILING = 32

#: States in which `status` is asked once a pace and its answers count.
WATCHED = (State.UNKNOWN, State.RUNNING, State.DEGRADED)
#: States in which nothing is up by this life's doing.
REST = (State.STANDBY, State.OFF, State.HALTED, State.FAILED)

_DOWN = (Health.DOWN, Health.PARTLY)
_STOPPING = (State.HALTING, State.FAILING)


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """All that the table may look at."""

    timing: Timing
    state: State = State.STANDBY
    term: int = 0
    held: bool = False  # the lock counts as ours
    hard: float | None = None  # H, once the lock is lost
    cut: bool = False  # H has passed and processes were killed
    gone: bool = False  # while stuck: no process is left
    halt: bool = False  # somebody wants this package to end here
    off: str = ""  # why this node does not take part
    on_stop_failure: str = "hold"
    reason: Reason = Reason.NONE  # of the last stop
    deadline: float | None = None  # of the start, stop or hold-off that runs
    healthy_at: float = 0.0  # last instant of health; the countdown runs from here
    up_since: float | None = None  # healthy without a break
    failures: int = 0  # in a row, without `timeout` of health between them


class Row(NamedTuple):
    """One line of the table. `when` names a guard ("" = always), `do` names builders of actions."""

    state: State
    event: type[Event]
    when: str
    next: State
    do: tuple[str, ...]
    why: str


class Transition(NamedTuple):
    """The outcome of one step."""

    row: Row | None  # None: ignored on purpose
    situation: Situation
    actions: tuple[Action, ...]


class UnexpectedEvent(Exception):
    """An event came in a state where it cannot come: a defect of btw."""


def _health(*kinds: Health) -> Callable[[Situation, Event], bool]:
    return lambda _s, e: isinstance(e, ev.HealthSeen) and e.health in kinds


GUARDS: dict[str, Callable[[Situation, Event], bool]] = {
    "": lambda _s, _e: True,
    "owing": lambda _s, e: isinstance(e, ev.Acquired) and e.owing,
    "handed over": lambda _s, e: isinstance(e, ev.Acquired) and e.handed,
    "up": _health(Health.UP),
    "degraded": _health(Health.DEGRADED),
    "down": _health(*_DOWN),
    "curable": lambda _s, e: isinstance(e, ev.HealthSeen) and e.health in _DOWN and e.curable,
    "critical": _health(Health.CRITICAL),
    "cannot tell": _health(Health.CANNOT_TELL),
    "halt wanted": lambda s, _e: s.halt,
    "off": lambda s, _e: bool(s.off),
    "fence wanted": lambda s, _e: s.on_stop_failure == "fence",
    "in time": lambda s, e: s.held or s.hard is None or e.at < s.hard,
    "gone, down, halt wanted": lambda s, e: s.gone and s.halt and _health(Health.DOWN)(s, e),
    "gone, down, off": lambda s, e: s.gone and bool(s.off) and _health(Health.DOWN)(s, e),
    "gone, down": lambda s, e: s.gone and _health(Health.DOWN)(s, e),
}


def _reason(s: Situation, e: Event) -> Reason:
    match e:
        case ev.HaltAskedFor():
            return e.reason
        case ev.Withdrawn():
            return Reason.USER
        case ev.SurvivorsGone():
            return s.reason
        case ev.LeaseLost():
            return Reason.LOCK_LOST
        case ev.LeftBehind():
            return Reason.LEFT_BEHIND
        case ev.StartFailed() | ev.StartOverdue():
            return Reason.START_FAILED
        case ev.HealthSeen(health=Health.CRITICAL):
            return Reason.CRITICAL
    return Reason.FAILURE


def _stop_deadline(s: Situation, e: Event) -> float:
    full = e.at + s.timing.stop_timeout
    # without the lock the stop ends at H; past H only a person asks for one, and gets the full time
    return full if s.held or s.hard is None or s.hard <= e.at else min(full, s.hard)


def _hurry(s: Situation, _e: Event) -> Action:
    assert s.deadline is not None and s.hard is not None
    return ev.HurryStop(deadline=min(s.deadline, s.hard))


def _hold_off(s: Situation, e: Event) -> Action:
    paces = min(2 ** max(s.failures - 1, 0), HOLD_OFF_CEILING)
    return ev.HoldOff(until=e.at + paces * s.timing.pace)


ACTIONS: dict[str, Callable[[Situation, Event], Action]] = {
    "look": lambda _s, _e: ev.Look(),
    "fence": lambda _s, _e: ev.Fence(),
    "start": lambda s, e: ev.StartResources(deadline=e.at + s.timing.start_timeout),
    "heal": lambda _s, _e: ev.HealResources(),
    "stop": lambda s, e: ev.StopResources(reason=_reason(s, e), deadline=_stop_deadline(s, e)),
    "hurry": _hurry,
    "cancel": lambda _s, _e: ev.CancelOperations(),
    "cut off": lambda _s, _e: ev.CutOff(),
    "fence self": lambda _s, _e: ev.FenceSelf(),
    "switch off": lambda s, _e: ev.SwitchOff(cause=s.off),
    "release": lambda _s, _e: ev.Release(),
    "hold off": _hold_off,
    "leave": lambda _s, _e: ev.Leave(),
}

_S = State


def _stopping(state: State) -> tuple[Row, ...]:
    return (
        Row(state, ev.StopVerified, "halt wanted", _S.HALTED, ("release",), "verified down"),
        Row(state, ev.StopVerified, "off", _S.OFF, ("release",), "verified down; another node may start it"),
        Row(state, ev.StopFailed, "fence wanted", _S.STUCK, ("cancel", "fence self"), "stop failed; fencing this node"),
        Row(state, ev.StopFailed, "", _S.STUCK, ("cancel",), "stop failed; the lock is kept, nobody may start it"),
        Row(state, ev.StopOverdue, "fence wanted", _S.STUCK, ("cancel", "fence self"), "no stop; fencing this node"),
        Row(state, ev.StopOverdue, "", _S.STUCK, ("cancel",), "stop took too long; a lock that is held is kept"),
        Row(state, ev.HardDeadline, "", _S.STUCK, ("cancel", "cut off"), "hard deadline without the lock"),
        Row(state, ev.LeaseLost, "", state, ("hurry",), "lock lost while stopping"),
        Row(state, ev.HaltAskedFor, "", _S.HALTING, (), "halt asked for while stopping"),
    )


def _withdrawn(state: State) -> Row:
    return Row(state, ev.Withdrawn, "", _S.HALTING, ("stop",), "not to run here any more")


def _up(state: State) -> tuple[Row, ...]:
    return (
        Row(state, ev.HealthSeen, "up", _S.RUNNING, (), "healthy"),
        Row(state, ev.HealthSeen, "degraded", _S.DEGRADED, (), "degraded; the countdown of `timeout` runs"),
        Row(state, ev.HealthSeen, "cannot tell", _S.DEGRADED, (), "cannot tell; the countdown of `timeout` runs"),
        Row(state, ev.HealthSeen, "curable", _S.DEGRADED, ("heal",), "vanished; putting it back"),
        Row(state, ev.HealthSeen, "critical", _S.HALTING, ("switch off", "stop"), "critical; switched off here"),
        Row(state, ev.HealthSeen, "down", _S.FAILING, ("stop",), "down"),
        Row(state, ev.HealthOverdue, "", _S.FAILING, ("stop",), "not healthy for `timeout`"),
        Row(state, ev.HealFailed, "", _S.FAILING, ("stop",), "could not be put back"),
        Row(state, ev.LeaseLost, "", _S.FAILING, ("stop",), "lock lost"),
        Row(state, ev.HaltAskedFor, "", _S.HALTING, ("stop",), "halt asked for"),
        _withdrawn(state),
    )


ROWS: tuple[Row, ...] = (
    Row(_S.STANDBY, ev.Acquired, "owing", _S.FENCING, ("fence",), "lock acquired; a former holder did not release it"),
    Row(_S.STANDBY, ev.Acquired, "handed over", _S.STARTING, ("start",), "lock handed over, down everywhere"),
    Row(_S.STANDBY, ev.Acquired, "", _S.UNKNOWN, ("look",), "lock acquired"),
    Row(_S.STANDBY, ev.LeftBehind, "", _S.FAILING, ("stop",), "left up by a former life of this node"),
    Row(_S.STANDBY, ev.SwitchedOff, "", _S.OFF, (), "switched off on this node"),
    Row(_S.STANDBY, ev.HaltAskedFor, "", _S.HALTED, ("release",), "halt asked for"),
    Row(_S.OFF, ev.LeftBehind, "", _S.HALTING, ("stop",), "left up by a former life of this node"),
    Row(_S.OFF, ev.SwitchedOn, "", _S.STANDBY, (), "enabled"),
    Row(_S.OFF, ev.HaltAskedFor, "", _S.HALTED, ("release",), "halt asked for"),
    Row(_S.FENCING, ev.Settled, "", _S.UNKNOWN, ("look",), "former holders are down"),
    Row(_S.FENCING, ev.LeaseLost, "", _S.STANDBY, (), "lock lost before anything was started"),
    Row(_S.FENCING, ev.HaltAskedFor, "", _S.HALTED, ("release",), "halt asked for before anything was started"),
    Row(_S.FENCING, ev.Withdrawn, "", _S.STANDBY, ("release",), "not to run here any more; nothing was started"),
    Row(_S.UNKNOWN, ev.HealthSeen, "up", _S.RUNNING, (), "already up"),
    Row(_S.UNKNOWN, ev.HealthSeen, "degraded", _S.DEGRADED, (), "already up, degraded"),
    Row(_S.UNKNOWN, ev.HealthSeen, "down", _S.STARTING, ("start",), "down"),
    Row(_S.UNKNOWN, ev.HealthSeen, "critical", _S.HALTING, ("switch off", "stop"), "critical; switched off here"),
    Row(_S.UNKNOWN, ev.HealthSeen, "cannot tell", _S.UNKNOWN, (), "cannot tell yet"),
    Row(_S.UNKNOWN, ev.HealthOverdue, "", _S.FAILING, ("stop",), "no status for `timeout`"),
    Row(_S.UNKNOWN, ev.LeaseLost, "", _S.FAILING, ("stop",), "lock lost"),
    Row(_S.UNKNOWN, ev.HaltAskedFor, "", _S.HALTING, ("stop",), "halt asked for"),
    _withdrawn(_S.UNKNOWN),
    Row(_S.UNKNOWN, ev.StopUnfinished, "", _S.FAILING, ("stop",), "failed in a former life, and not yet down"),
    Row(_S.STARTING, ev.StartSucceeded, "", _S.RUNNING, ("look",), "started"),
    Row(_S.STARTING, ev.StartFailed, "", _S.FAILING, ("stop",), "start failed"),
    Row(_S.STARTING, ev.StartOverdue, "", _S.FAILING, ("stop",), "start took longer than start_timeout"),
    Row(_S.STARTING, ev.LeaseLost, "", _S.FAILING, ("stop",), "lock lost"),
    Row(_S.STARTING, ev.HaltAskedFor, "", _S.HALTING, ("stop",), "halt asked for"),
    _withdrawn(_S.STARTING),
    *_up(_S.RUNNING),
    *_up(_S.DEGRADED),
    *_stopping(_S.HALTING),
    Row(_S.HALTING, ev.StopVerified, "", _S.STANDBY, ("release",), "verified down"),
    *_stopping(_S.FAILING),
    Row(_S.FAILING, ev.StopVerified, "", _S.FAILED, ("release",), "verified down"),
    Row(_S.STUCK, ev.HaltAskedFor, "", _S.HALTING, ("stop",), "asked to stop once more"),
    Row(_S.STUCK, ev.Withdrawn, "", _S.HALTING, ("stop",), "asked to stop once more"),
    Row(_S.STUCK, ev.Acquired, "", _S.FAILING, ("stop",), "lock acquired again; stopping once more under it"),
    Row(_S.STUCK, ev.LeaseLost, "", _S.STUCK, (), "lock lost while stuck"),
    Row(_S.STUCK, ev.HardDeadline, "", _S.STUCK, ("cut off",), "hard deadline without the lock"),
    Row(_S.STUCK, ev.SurvivorsGone, "in time", _S.FAILING, ("stop",), "what held it is gone; stopping once more"),
    Row(_S.STUCK, ev.SurvivorsGone, "", _S.STUCK, ("look",), "what held it is gone; too late to stop, looking only"),
    Row(_S.STUCK, ev.HealthSeen, "gone, down, halt wanted", _S.HALTED, ("release",), "down, and nothing is left"),
    Row(_S.STUCK, ev.HealthSeen, "gone, down, off", _S.OFF, ("release",), "down, and nothing is left"),
    Row(_S.STUCK, ev.HealthSeen, "gone, down", _S.FAILED, ("release",), "down, and nothing is left"),
    Row(_S.STUCK, ev.HealthSeen, "", _S.STUCK, (), "still not known to be down"),
    Row(_S.FAILED, ev.Released, "", _S.FAILED, ("hold off",), "released"),
    Row(_S.FAILED, ev.HoldOffPassed, "", _S.STANDBY, (), "others had their time to take it"),
    Row(_S.FAILED, ev.HaltAskedFor, "", _S.HALTED, ("release",), "halt asked for"),
    Row(_S.HALTED, ev.Released, "", _S.HALTED, ("leave",), "released"),
)

_NOT_UP = (_S.STANDBY, _S.OFF, _S.FENCING, _S.STARTING, _S.HALTING, _S.FAILING, _S.HALTED, _S.FAILED)
_HELD = (_S.FENCING, _S.UNKNOWN, _S.STARTING, _S.RUNNING, _S.DEGRADED, *_STOPPING, _S.STUCK)

#: Pairs that do happen and change nothing, each with its reason.
IGNORED: dict[type[Event], tuple[tuple[State, ...], str]] = {
    ev.HealthSeen: (_NOT_UP, "a look that was under way when the state changed"),
    ev.HealFailed: ((*_NOT_UP, _S.UNKNOWN, _S.STUCK), "a heal that was cancelled"),
    ev.LeaseLost: (REST, "nothing is up"),
    ev.SurvivorsGone: ((*REST, *_STOPPING), "a survey that was under way when the state changed"),
    ev.HaltAskedFor: ((_S.HALTED,), "already so"),
    ev.Withdrawn: ((*REST, *_STOPPING), "it holds nothing, or stops already"),
    ev.Settled: ((*REST, _S.UNKNOWN, *_STOPPING), "the lock was lost or given back meanwhile"),
    ev.Released: (
        (_S.STANDBY, _S.OFF, *_HELD),
        "given back, and since then taken again or not wanted",
    ),
    ev.SwitchedOff: ((_S.OFF, *_HELD, _S.HALTED, _S.FAILED), "asked only of a stand-by"),
    ev.SwitchedOn: (tuple(s for s in _S if s is not _S.OFF), "already on"),
}

_TABLE: dict[tuple[State, type[Event]], tuple[Row, ...]] = {}
for _row in ROWS:
    _TABLE[_row.state, _row.event] = (*_TABLE.get((_row.state, _row.event), ()), _row)


def _absorb(s: Situation, e: Event) -> Situation:
    """What an event changes whatever the state."""
    new: dict[str, object] = {}
    match e:
        case ev.Acquired():
            new = {"held": True, "term": e.term, "hard": None, "healthy_at": e.at}
        case ev.Settled():
            new = {"healthy_at": e.at}
        case ev.LeaseLost() | ev.LeftBehind():
            new = {"held": False, "hard": e.hard, "cut": False}
        case ev.HaltAskedFor():
            new = {"halt": True}
        case ev.HealthSeen() if e.health is Health.UP and s.state in WATCHED:
            calm = s.up_since is not None and e.at - s.up_since >= s.timing.timeout
            new = {"healthy_at": e.at, "up_since": e.at if s.up_since is None else s.up_since}
            new |= {"failures": 0} if calm else {}
        case ev.HealthSeen() if e.health is Health.CRITICAL and s.state in WATCHED:
            new = {"off": e.cause or "critical"}
        case ev.HealthSeen() if s.state in WATCHED:
            new = {"up_since": None}
        case ev.StartSucceeded():
            new = {"healthy_at": e.at, "up_since": e.at}
        case ev.HardDeadline():
            new = {"cut": True}
        case ev.SurvivorsGone():
            new = {"gone": True}
        case ev.SwitchedOff():
            new = {"off": e.cause}
        case ev.SwitchedOn():
            new = {"off": ""}
    return msgspec.structs.replace(s, **new) if new else s


def _settle(s: Situation, actions: tuple[Action, ...], next_state: State) -> Situation:
    """What taking a row changes: the next state, the deadline that its actions carry, the count of failures."""
    new: dict[str, object] = {"state": next_state, "gone": s.gone and next_state is _S.STUCK}
    if next_state not in (*_STOPPING, _S.STARTING, _S.FAILED):
        new["deadline"] = None
    for action in actions:
        match action:
            case ev.StopResources():
                new |= {"deadline": action.deadline, "reason": action.reason, "up_since": None}
            case ev.StartResources() | ev.HurryStop():
                new["deadline"] = action.deadline
            case ev.HoldOff():
                new["deadline"] = action.until
            case ev.Release():
                new["held"] = False
    if next_state is _S.FAILED and s.state is not _S.FAILED:
        new |= {"failures": s.failures + 1, "deadline": None}
    return msgspec.structs.replace(s, **new)


def step(situation: Situation, event: Event) -> Transition:
    """Where `event` leads from `situation`, and what to do. Raises UnexpectedEvent."""
    key = (situation.state, type(event))
    if key not in _TABLE:
        if situation.state in IGNORED.get(type(event), ((), ""))[0]:
            return Transition(None, situation, ())
        raise UnexpectedEvent(f"{type(event).__name__} in state {situation.state}: {event.cause}")
    absorbed = _absorb(situation, event)
    for row in _TABLE[key]:
        if GUARDS[row.when](absorbed, event):
            actions = tuple(ACTIONS[name](absorbed, event) for name in row.do)
            return Transition(row, _settle(absorbed, actions, row.next), actions)
    raise UnexpectedEvent(f"{type(event).__name__} in state {situation.state} fits no guard: {event}")


def timers(s: Situation) -> list[tuple[float, type[Event]]]:
    """Which event is due when, as things stand. An event that came is asked for anew by the next situation."""
    due: list[tuple[float, type[Event]]] = []
    if s.state in WATCHED:
        due.append((s.healthy_at + s.timing.timeout, ev.HealthOverdue))
    if s.deadline is not None:
        kinds: dict[State, type[Event]] = {
            _S.STARTING: ev.StartOverdue,
            _S.HALTING: ev.StopOverdue,
            _S.FAILING: ev.StopOverdue,
            _S.FAILED: ev.HoldOffPassed,
        }
        due.append((s.deadline, kinds[s.state]))
    if not s.held and s.hard is not None and not s.cut and s.state in (*_STOPPING, _S.STUCK):
        due.append((s.hard, ev.HardDeadline))
    return due


def diagram() -> str:
    """The table as a Mermaid state diagram, one arrow for each pair of states."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for row in ROWS:
        if row.state is not row.next:
            label = row.event.__name__ + (f" [{row.when}]" if row.when else "")
            arrows.setdefault((row.state, row.next), []).append(label)
    ids = {state: state.name.lower() for state in State}
    lines = ["stateDiagram-v2", f"    [*] --> {ids[_S.STANDBY]}"]
    lines += [f"    state {chr(34)}{state}{chr(34)} as {ids[state]}" for state in State]
    lines += [f"    {ids[a]} --> {ids[b]}: {' / '.join(dict.fromkeys(labels))}" for (a, b), labels in arrows.items()]
    lines.append(f"    {ids[_S.HALTED]} --> [*]: Released")
    return "\n".join(lines)


def markdown() -> str:
    """What docs/states.md shows: the diagram, every row, and what is ignored."""
    lines = ["```mermaid", diagram(), "```", ""]
    lines += ["| state | event | when | next | do | why |", "|---|---|---|---|---|---|"]
    lines += [f"| {r.state} | {r.event.__name__} | {r.when} | {r.next} | {', '.join(r.do)} | {r.why} |" for r in ROWS]
    lines += ["", "| ignored | in | why |", "|---|---|---|"]
    lines += [f"| {kind.__name__} | {', '.join(sorted(states))} | {why} |" for kind, (states, why) in IGNORED.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
