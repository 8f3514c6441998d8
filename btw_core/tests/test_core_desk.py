"""Timers, questions to the store and operations: who asked is told, once."""

from __future__ import annotations

from btw_core.ports import Operation, OperationEnded, StoreAnswered, StoreCall
from btw_core.testing.fakes import Bench
from btw_core.types import Verb


def test_timers_fire_in_the_order_of_their_time() -> None:
    """Due timers fire by time, those of one instant in the order in which they were set; later ones do not."""
    bench, fired = Bench(), list[str]()
    for when, name in ((1003, "c"), (1001, "a"), (1001, "b"), (1004, "d")):
        bench.desk.at(when, (name,), lambda name=name: fired.append(name))  # type: ignore[misc]
    assert bench.desk.next_deadline() == 1001
    bench.clock.time = 1003
    bench.desk.fire()
    assert fired == ["a", "b", "c"]
    assert bench.desk.next_deadline() == 1004


def test_a_timer_set_again_replaces_the_first() -> None:
    """A name has one instant: the last one that was set, earlier or later; forgotten, it has none."""
    bench, fired = Bench(), list[float]()
    for when in (1001, 1005, 1003):
        bench.desk.at(when, ("x", "y"), lambda: fired.append(bench.clock.time))
    bench.desk.at(1002, ("x",), lambda: fired.append(-1))
    bench.desk.forget(("x",))
    bench.desk.forget(("never set",))
    bench.wait(10)
    assert fired == [1003]
    assert bench.desk.next_deadline() is None


def test_a_timer_may_set_and_forget_timers() -> None:
    """What a timer does to other timers of the same instant counts at once."""
    bench, fired = Bench(), list[str]()

    def first() -> None:
        fired.append("first")
        bench.desk.forget(("second",))
        bench.desk.at(1000, ("third",), lambda: fired.append("third"))

    bench.desk.at(1000, ("first",), first)
    bench.desk.at(1000, ("second",), lambda: fired.append("second"))
    bench.desk.fire()
    assert fired == ["first", "third"]


def test_answers_come_to_who_asked_and_once() -> None:
    """Each question has its own answer, in whatever order they come; a second answer is nobody's."""
    bench, heard = Bench(), list[tuple[str, bool]]()
    for key in ("a", "b"):
        bench.desk.ask(key, lambda answer, key=key: heard.append((key, answer.conflict)), deadline=2)  # type: ignore[misc]
    (first, sent), (second, _) = bench.store.calls
    assert (first.key, first.deadline, sent) == ("a", 2, 1000)
    for call in (second, first, second):
        bench.desk.answered(StoreAnswered(call=call, sent=sent, conflict=call is second))
    assert heard == [("b", True), ("a", False)]
    bench.desk.answered(StoreAnswered(call=StoreCall(id=999, key="a"), sent=sent))
    assert len(heard) == 2


def test_ends_come_to_who_began() -> None:
    """The end of an operation is told to who began it, once; an unknown one is nobody's."""
    bench, heard = Bench(), list[str]()
    operation = Operation(id="n.1", package="web", verb=Verb.STOP)
    bench.desk.operate(operation, lambda report: heard.append(report.id))
    assert bench.executor.operations == [operation]
    for name in ("n.2", "n.1", "n.1"):
        bench.desk.ended(OperationEnded(id=name, ok=True))
    assert heard == ["n.1"]


def test_numbers_never_repeat() -> None:
    """A number is given once."""
    desk = Bench().desk
    numbers = [desk.number() for _ in range(100)]
    assert len(set(numbers)) == 100
