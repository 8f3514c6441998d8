"""Operations of a package in their order, and what keeps a stop from being verified."""

from __future__ import annotations

from typing import Any

import pytest

from btw_core.ports import Operation
from btw_core.testing.fakes import Bench
from btw_core.timing import KILL_GRACE, Timing
from btw_core.types import Incarnation, PackageSpec, Reason, ResourceSpec, Verb
from btw_core.work import AFTERWARDS, Order, Outcome, Work

ME = Incarnation(node="a", machine="m", boot="b", nonce="me", slot="web")
RESOURCES = (
    ResourceSpec(name="disk", type="flag"),
    ResourceSpec(name="ip", type="flag", start_timeout=5, stop_timeout=3),
    ResourceSpec(name="web", type="flag"),
)
SPEC = PackageSpec(name="web", timing=Timing(), resources=RESOURCES)


class Case(Bench):
    """The work of one package; `limit` is what may_begin says."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: list[Outcome] = []
        self.remembered: list[tuple[str, ...]] = []
        self.full = False
        self.limit: float | None = 2000.0
        self.work = Work(
            self.desk,
            SPEC,
            ME,
            done=self.outcomes.append,
            remember=self._remember,
            may_begin=lambda: self.limit,
            holders=lambda: {"a": ("02:00:5e:00:53:01",)},
            handed_over=lambda: True,
        )

    def _remember(self) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        assert len(self.executor.operations) == self.begun
        self.remembered.append(self.work.pending)

    begun = 0

    def begins(self, verb: Verb, seconds: float = 30.0, resources: tuple[ResourceSpec, ...] = RESOURCES) -> Case:
        self.begun = len(self.executor.operations)
        order = Order(verb=verb, term=7, deadline=self.clock.time + seconds, reason=Reason.USER, resources=resources)
        self.work.begin(order)
        return self

    @property
    def last(self) -> Operation:
        return self.executor.operations[-1]

    def ends(self, *, ok: bool = True, **said: Any) -> Case:
        """The operation that was begun last is gone."""
        self.executor.end(self.last, ok=ok, **said)
        return self

    def names(self) -> list[str]:
        return [f"{o.verb} {o.resource}".strip() for o in self.executor.operations]


def started() -> Case:
    return Case().begins(Verb.START).ends().ends().ends()


# ---- a process kept ready
def test_the_first_operation_is_what_a_process_was_kept_ready_for() -> None:
    """Its id is written down with the intent as any other; the next one is forked while the one before it runs, but not
    in its way."""
    case = Case()
    case.work.prompt = True
    case.work.keep_ready(True)
    ready = case.executor.ready["web"]
    case.work.keep_ready(True)
    assert case.executor.ready["web"] == ready
    case.begins(Verb.START)
    assert case.last.id == ready
    assert case.remembered == [(ready.rpartition(".")[0],)]
    assert case.executor.ready["web"] == ""
    case.wait(AFTERWARDS)
    following = case.executor.ready["web"]
    assert following not in ("", ready)
    case.ends()
    assert case.last.id == following
    case.ends().wait(1.0)  # sooner than the third could be made ready
    assert {operation.id.rpartition(".")[0] for operation in case.executor.operations} == {case.work.pending[0]}
    assert case.executor.ready["web"] == ""  # and nothing is kept for a fourth


def test_a_sweep_finds_nobody_who_was_kept_ready() -> None:
    """It ends before, also when a stop has nothing to do but sweep."""
    case = Case()
    case.work.prompt = True
    case.work.keep_ready(True)
    case.begins(Verb.STOP, resources=())
    assert case.last.verb is Verb.SWEEP and case.executor.ready == {"web": ""}


def test_a_stop_that_was_swept_at_once_is_not_swept_again() -> None:
    """The zygote looks as soon as the last resource has stopped. What it says of any other, or of one that failed or
    said nothing, counts for nothing."""
    case = Case().begins(Verb.STOP).ends(swept=True).ends(swept=True)
    assert (case.last.verb, case.last.last) == (Verb.STOP, True)
    case.ends(ok=False, answered=False, swept=True)
    assert (case.last.verb, case.last.last) == (Verb.STOP, True)
    case.ends().ends()
    case.begins(Verb.STOP).ends().ends().ends(swept=True)
    stops = [f"stop {name}" for name in ("web", "ip", "disk")]
    assert case.names() == [*stops, "stop disk", "sweep", *stops]
    assert case.outcomes == 2 * [Outcome(Verb.STOP, True, "")]
    case.begins(Verb.STOP).ends().ends(ok=False, error="exit 1").ends(swept=True)
    assert case.outcomes[2:] == [Outcome(Verb.STOP, False, "stop of ip: exit 1")]


def test_what_was_kept_for_a_start_serves_the_stop() -> None:
    """A start that ends before its second operation leaves that one's process to the stop, under one name for both."""
    case = Case().begins(Verb.START)
    case.wait(AFTERWARDS)
    ready = case.executor.ready["web"]
    case.ends(ok=False, error="exit 1").begins(Verb.STOP)
    assert (case.last.verb, case.last.id) == (Verb.STOP, ready)
    assert case.work.pending == (ready.rpartition(".")[0],)


def test_nothing_is_kept_of_another_zygote_or_at_rest() -> None:
    for end in (Work.unready, lambda work: work.keep_ready(False)):
        case = Case()
        case.work.prompt = True
        case.work.keep_ready(True)
        before = case.executor.ready["web"]
        end(case.work)
        assert case.executor.ready == {"web": ""}
        case.begins(Verb.STOP)
        assert case.last.id != before


def test_a_start_that_fails_for_every_node_is_told_so() -> None:
    """And only that start: the stop that follows, and the next start, are as ever."""
    case = Case().begins(Verb.START).ends().ends(ok=False, error="exit 1", everywhere=True)
    assert case.outcomes[-1] == Outcome(Verb.START, False, "start of ip: exit 1", everywhere=True)
    case.begins(Verb.STOP, resources=()).ends()
    case.begins(Verb.START).ends(ok=False, error="exit 2")
    assert [outcome.everywhere for outcome in case.outcomes] == [True, False, False]


# ---- order
def test_start_in_order_one_at_a_time() -> None:
    """Each resource is started when the one before it has ended well; then the sequence is done."""
    case = Case().begins(Verb.START)
    for index, resource in enumerate(RESOURCES):
        assert len(case.executor.operations) == index + 1
        assert (case.last.resource, case.last.verb, case.last.term) == (resource.name, Verb.START, 7)
        assert case.work.reach == index + 1
        case.ends()
    assert case.outcomes == [Outcome(Verb.START, True, "")]
    assert not case.work.busy and not case.work.alive and case.work.pending == ()


def test_only_a_start_is_told_of_an_orderly_release() -> None:
    """`Context.handed_over` says that nobody else can have what start would look for."""
    case = Case().begins(Verb.START, resources=RESOURCES[:1])
    assert case.last.handed_over
    case.ends().begins(Verb.STOP, resources=RESOURCES[:1])
    assert not case.last.handed_over


def test_operations_of_resources_know_the_holders() -> None:
    """What the lock record says of them goes along, except with the sweep."""
    case = Case().begins(Verb.STOP, resources=RESOURCES[:1])
    assert case.last.holders == {"a": ("02:00:5e:00:53:01",)}
    case.ends()
    assert case.last.verb is Verb.SWEEP and case.last.holders == {}


def test_start_ends_with_the_first_failure() -> None:
    """What comes after a failure is not begun; the cause names verb and resource."""
    case = Case().begins(Verb.START).ends().ends(ok=False, error="exit 1")
    assert case.outcomes == [Outcome(Verb.START, False, "start of ip: exit 1")]
    assert case.names() == ["start disk", "start ip"]
    assert case.work.reach == 2


def test_stop_in_reverse_and_then_the_sweep() -> None:
    """The last resource is stopped first; the sweep comes when all have stopped; then it is verified."""
    case = started().begins(Verb.STOP).ends().ends().ends()
    assert case.names()[3:] == ["stop web", "stop ip", "stop disk", "sweep"]
    assert [operation.last for operation in case.executor.operations[3:]] == [False, False, True, False]
    assert len(case.outcomes) == 1 and case.work.reach == 3
    case.ends()
    assert case.outcomes[1:] == [Outcome(Verb.STOP, True, "")]
    assert case.work.reach == 0 and case.work.state == {}
    assert {o.reason for o in case.executor.operations[3:]} == {Reason.USER}


def test_stop_of_nothing_still_sweeps() -> None:
    """Where nothing was started processes may still be left."""
    case = Case().begins(Verb.STOP, resources=())
    assert case.names() == ["sweep"]
    case.ends()
    assert case.outcomes == [Outcome(Verb.STOP, True, "")]


def test_stop_goes_on_past_failures_but_is_not_verified() -> None:
    """Every resource is tried, all failures are named, and there is no sweep that could make it look well."""
    case = started().begins(Verb.STOP).ends(ok=False, error="busy").ends().ends(ok=False, error="exit 2")
    assert case.names()[3:] == ["stop web", "stop ip", "stop disk"]
    assert case.outcomes[1:] == [Outcome(Verb.STOP, False, "stop of web: busy; stop of disk: exit 2")]
    assert case.work.reach == 3


def test_what_else_ended_a_part_of_a_stop_is_repeated() -> None:
    """A stop or sweep whose process was ended from outside says nothing of the stop: once more, three times in all."""
    case = started().begins(Verb.STOP, resources=RESOURCES[:1])
    case.ends(ok=False, answered=False, error="ended without a result: killed by SIGKILL")
    case.ends().ends(ok=False, answered=False, error="ended without a result")
    assert case.names()[3:] == ["stop disk", "stop disk", "sweep", "sweep"]
    case.ends()
    assert case.outcomes[-1] == Outcome(Verb.STOP, True, "")
    case = started().begins(Verb.STOP, resources=RESOURCES[:1])
    for _ in range(3):
        case.ends(ok=False, answered=False, error="ended without a result")
    assert not case.outcomes[1:]
    case.ends(ok=False, answered=False, error="ended without a result")
    assert not case.outcomes[-1].ok and "ended without a result" in case.outcomes[-1].cause


def test_sweep_that_finds_survivors() -> None:
    """What survived is named in cause and outcome."""
    left = ("pid 12 (sleep), state D",)
    case = started().begins(Verb.STOP).ends().ends().ends().ends(ok=False, error="survivors", survivors=left)
    assert case.outcomes[1:] == [Outcome(Verb.STOP, False, "sweep: survivors: pid 12 (sleep), state D", left)]


def test_survivors_are_never_well() -> None:
    """A sweep that says it went well and names survivors did not."""
    case = started().begins(Verb.STOP).ends().ends().ends().ends(survivors=("pid 12",))
    assert [outcome.ok for outcome in case.outcomes] == [True, False]


@pytest.mark.parametrize("verb", [Verb.START, Verb.HEAL])
def test_nothing_begins_without_the_lock(verb: Verb) -> None:
    """When the lease has run out between two resources the next is not begun; each carries the instant sent + T."""
    case = Case().begins(verb)
    assert case.last.not_after == 2000
    case.limit = None
    case.ends()
    assert case.outcomes == [Outcome(verb, False, "the lock had run out before it could begin")]
    assert len(case.executor.operations) == 1


def test_a_stop_needs_no_lock() -> None:
    """Stopping goes on without it, and has no limit for its beginning."""
    case = started()
    case.limit = None
    case.begins(Verb.STOP).ends().ends().ends().ends()
    assert case.outcomes[-1].ok
    assert {o.not_after for o in case.executor.operations[3:]} == {0}


# ---- deadlines
def test_each_resource_has_its_own_timeout_within_the_packages() -> None:
    """The earlier of the resource's own limit, from its own beginning, and the package's deadline."""
    case = Case().begins(Verb.START, seconds=20)
    assert case.last.deadline == 1020
    case.wait(10)
    case.ends()
    assert case.last.deadline == 1015
    case.wait(1)
    case.ends()
    assert case.last.deadline == 1020
    case.ends()
    case.begins(Verb.STOP, seconds=2)
    case.ends()
    assert case.last.deadline == 1013


def test_a_stop_that_takes_too_long_is_killed_and_the_next_begun() -> None:
    """A resource that exceeds its own limit does not keep the others from being stopped; the stop is not verified."""
    case = started().begins(Verb.STOP).ends()
    slow = case.last
    case.wait(3)
    assert case.executor.killed == [slow.id]
    case.executor.end(slow, ok=False, error="killed")
    assert case.last.resource == "disk"  # at once, now that it is gone
    case.ends()
    assert case.outcomes[1:] == [Outcome(Verb.STOP, False, "stop of ip was killed: not done in time (3.0 s)")]


def test_the_last_line_of_an_operation_is_told() -> None:
    """What an operation has printed last stands in what it is doing, and in why it was killed; what another resource
    prints does not, nor what the one before it did."""
    case = started().begins(Verb.STOP)
    case.work.heard("web", "closing")
    case.work.heard("disk", "hello")
    assert case.work.describe() == "stop of web, 0.0 s; it said last: closing"
    case.ends()
    assert case.work.describe() == "stop of ip, 0.0 s"
    slow = case.last
    case.work.heard("ip", "still in use")
    case.wait(3)
    case.work.heard("ip", "late")
    case.executor.end(slow, ok=False, error="killed")
    case.ends()
    told = "stop of ip was killed: not done in time (3.0 s); it said last: still in use"
    assert case.outcomes[1:] == [Outcome(Verb.STOP, False, told)]


def test_what_cannot_be_killed_delays_the_next_only_by_the_grace() -> None:
    """A killed stop that does not vanish: after KILL_GRACE the next resource is stopped beside it, and the package is
    not verified down as long as it lives."""
    case = started().begins(Verb.STOP).ends()
    stuck = case.last
    case.wait(3 + KILL_GRACE / 2)
    assert case.last is stuck
    case.wait(KILL_GRACE / 2)
    assert case.last.resource == "disk"
    case.ends()
    assert not case.outcomes[-1].ok
    assert list(case.work.alive) == [stuck.id]
    case.begins(Verb.STOP)
    assert case.last.resource == "disk"  # waits for the grace once more
    case.wait(KILL_GRACE)
    case.ends().ends().ends().ends()
    assert case.outcomes[-1] == Outcome(Verb.STOP, False, "still alive: stop of ip")
    assert case.work.reach == 3
    case.executor.end(stuck, ok=False, error="killed")
    case.begins(Verb.STOP).ends().ends().ends().ends()
    assert case.outcomes[-1] == Outcome(Verb.STOP, True, "")
    assert not case.work.reach


def test_a_sweep_that_cannot_be_killed_is_named() -> None:
    """Not as a sweep of a resource without a name."""
    case = Case().begins(Verb.STOP, 10, resources=())
    case.wait(10 + KILL_GRACE)
    case.begins(Verb.STOP, 10, resources=())
    case.wait(KILL_GRACE)
    case.ends()
    assert case.outcomes[-1] == Outcome(Verb.STOP, False, "still alive: sweep")


def test_the_grace_is_for_all_that_was_killed() -> None:
    """With two alive the next is not begun as soon as one of them is gone."""
    case = Case().begins(Verb.START)
    start = case.last
    case.begins(Verb.STOP, seconds=60, resources=RESOURCES[1:2]).wait(KILL_GRACE)
    stop = case.last
    assert stop.verb is Verb.STOP
    case.begins(Verb.STOP)
    case.executor.end(stop, ok=False)
    assert case.last is stop
    case.executor.end(start, ok=False)
    assert (case.last.verb, case.last.resource) == (Verb.STOP, "web")


def test_pending_names_what_is_alive() -> None:
    """What is remembered after a sequence are the sequences whose operations have not ended."""
    case = started().begins(Verb.STOP).ends()
    stuck = case.last
    case.wait(3 + KILL_GRACE)
    case.ends()
    assert case.work.pending == (stuck.id.rpartition(".")[0],)


def test_what_a_former_sequence_left_alive_stays_remembered() -> None:
    """A start that could not be killed is still named when the stop after it is remembered: the next life of the
    manager must see its end too."""
    case = Case().begins(Verb.START)
    start = case.last
    case.begins(Verb.STOP)
    assert len(case.remembered[-1]) == 2
    assert case.remembered[-1][1] == start.id.rpartition(".")[0]
    case.wait(KILL_GRACE)
    assert case.last.id.startswith(f"{case.remembered[-1][0]}.")


def test_hurry_shortens_what_runs_and_what_comes() -> None:
    """The deadline of the whole sequence moves forward, never back."""
    case = started().begins(Verb.STOP)
    case.work.hurry(case.clock.time + 4)
    case.work.hurry(case.clock.time + 9)
    slow = case.last
    case.wait(4)
    assert case.executor.killed == [slow.id]
    case.executor.end(slow, ok=False)
    assert case.last.deadline <= case.clock.time
    case.wait(0)
    assert case.executor.killed[-1] == case.last.id


def test_hurry_without_work_does_nothing() -> None:
    """Nothing runs, nothing is killed."""
    case = started()
    case.work.hurry(1.0)
    case.wait(100)
    assert case.executor.killed == []


# ---- cancelling
def test_cancel_kills_and_ends_without_outcome() -> None:
    """What runs is killed; neither its end nor its deadline is told to anybody, and nothing more is begun."""
    case = Case().begins(Verb.START)
    case.work.cancel()
    assert case.executor.killed == [case.last.id] and not case.work.busy
    case.wait(100)
    case.ends(ok=False)
    assert case.outcomes == [] and len(case.executor.operations) == 1
    assert not case.work.alive


def test_a_stop_cancels_the_start_and_waits_for_its_end() -> None:
    """No stop runs beside a start of the same package: it begins when the start is gone, or has had the grace."""
    case = Case().begins(Verb.START).ends()
    running = case.last
    case.begins(Verb.STOP)
    assert case.executor.killed == [running.id] and case.last is running
    case.executor.end(running, ok=False, error="killed")
    assert case.last.verb is Verb.STOP
    case.wait(KILL_GRACE)
    assert case.names() == ["start disk", "start ip", "stop web"]


def test_late_end_of_a_start_does_not_disturb_the_stop() -> None:
    """A killed start that ends during the stop is taken off the living, no more."""
    case = Case().begins(Verb.START)
    start = case.last
    case.begins(Verb.STOP, resources=RESOURCES[:1])
    case.wait(KILL_GRACE)
    stop = case.last
    assert stop.verb is Verb.STOP
    case.executor.end(start, ok=True)
    assert case.last is stop
    case.ends().ends()
    assert case.outcomes == [Outcome(Verb.STOP, True, "")]


# ---- memory
def test_intent_before_effect() -> None:
    """The sequence is remembered before its first operation, by a name that all its operations begin with."""
    case = Case().begins(Verb.START).ends().ends()
    (pending,) = case.remembered
    assert all(o.id.startswith(f"{pending[0]}.") for o in case.executor.operations)
    case.ends().begins(Verb.STOP)
    assert case.remembered[1] != pending
    assert len({o.id for o in case.executor.operations}) == 4


@pytest.mark.parametrize("verb", [Verb.START, Verb.HEAL])
def test_what_cannot_be_remembered_is_not_begun(verb: Verb) -> None:
    """A full disk: no operation, the sequence has failed and says why."""
    case = Case()
    case.full = True
    case.begins(verb)
    assert case.executor.operations == []
    assert [(o.verb, o.ok) for o in case.outcomes] == [(verb, False)]
    assert "No space left on device" in case.outcomes[0].cause and "nothing was begun" in case.outcomes[0].cause
    assert case.work.reach == 0 and not case.work.busy


def test_a_stop_goes_on_without_memory() -> None:
    """Not to stop would be worse; it is said."""
    case = started()
    case.full = True
    case.begins(Verb.STOP).ends().ends().ends().ends()
    assert case.outcomes[-1].ok
    assert case.journal.events() == ["memory_trouble"]


def test_state_goes_from_one_operation_to_the_next() -> None:
    """What an operation leaves, also a failed one, is given to the next of the same resource; forgotten when down."""
    case = Case().begins(Verb.START).ends(state={"pid": 1}).ends(ok=False, error="x", state={"n": 2})
    assert case.work.state == {"disk": {"pid": 1}, "ip": {"n": 2}}
    case.begins(Verb.STOP, resources=RESOURCES[:2])
    assert (case.last.resource, case.last.state) == ("ip", {"n": 2})
    case.ends(state={}).ends()
    assert case.work.state == {"disk": {"pid": 1}, "ip": {}}
    case.ends()
    assert case.work.state == {}


def test_heal_only_what_is_down() -> None:
    """A heal runs the resources that it was given, in order, without touching the reach."""
    case = started().begins(Verb.HEAL, resources=(RESOURCES[1],))
    assert (case.last.verb, case.last.resource) == (Verb.HEAL, "ip")
    case.ends()
    assert case.outcomes[-1] == Outcome(Verb.HEAL, True, "")
    assert case.work.reach == 3


def test_describe_says_what_is_worked_on() -> None:
    """Verb, resource and seconds since the sequence began; empty when idle."""
    case = Case()
    assert case.work.describe() == ""
    case.begins(Verb.START).wait(3.1)
    assert case.work.describe() == "start of disk, 3.1 s"


def test_a_stop_that_hangs_is_repeated_ever_less_often() -> None:
    """Each would be killed like the last; once one is verified the next is tried at once again."""
    case = started()
    patience = []
    for _ in range(8):
        case.begins(Verb.STOP).ends(ok=False, error="x").ends().ends()
        patience.append(case.work.patience)
    pace = case.work.spec.timing.pace
    assert patience == [0.0, *(pace * share for share in (1, 2, 4, 8, 16, 32, 32))]
    case.begins(Verb.STOP).ends().ends().ends().ends()
    assert case.outcomes[-1].ok
    assert case.work.patience == 0.0
