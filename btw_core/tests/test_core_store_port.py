"""The threads around a store: one answer for each call and in time, whatever the store does."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from btw_core.clock import BootClock
from btw_core.ports import Report, StoreAnswered, StoreCall, StoreChanged
from btw_core.store import Conflict, Record, StoreUnavailable
from btw_core.store_local import LocalStore
from btw_core.store_port import WORKERS, ThreadedStorePort

SLOW = 30.0  # seconds: generous bound for anything that should be quick
CLOCK = BootClock()


class FakeStore:
    """A store that does what the test says: `act(key)` runs inside each call, and may block or raise."""

    creates_itself = False
    description = "fake:"

    def __init__(self, act: Callable[[str], None] = lambda key: None) -> None:
        self.act = act
        self.began: queue.Queue[tuple[str, float]] = queue.Queue()  # key, instant of the true send

    def _enter(self, key: str) -> None:
        self.began.put((key, CLOCK.now()))
        self.act(key)

    def get(self, key: str, *, deadline: float) -> Record | None:
        self._enter(key)
        return None if key == "absent" else Record(key, b"v", 7)

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        self._enter(key)
        return 8 if expected == 7 else Conflict()

    def watch(self, prefix: str, since: int) -> Iterator[list[Record]]:
        raise StoreUnavailable("no watch here")

    def close(self) -> None:
        pass

    def list(self, prefix: str, *, deadline: float) -> list[Record]:
        self._enter(prefix)
        return [Record("a", b"1", 1), Record("b", b"2", 2)]


class Blocking:
    """An `act` that hangs for keys that begin with "hang", until `free` is set."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def __call__(self, key: str) -> None:
        if key.startswith("hang"):
            assert self.free.wait(2 * SLOW)


class Inbox:
    """Where reports arrive."""

    def __init__(self) -> None:
        self.reports: queue.Queue[Report] = queue.Queue()

    def answer(self) -> StoreAnswered:
        report = self.reports.get(timeout=SLOW)
        assert isinstance(report, StoreAnswered)
        return report

    def change(self) -> StoreChanged:
        report = self.reports.get(timeout=SLOW)
        assert isinstance(report, StoreChanged)
        return report


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    found = Blocking()
    yield found
    found.free.set()


def make(store: FakeStore, inbox: Inbox, spare: int = 4) -> closing[Stopping]:
    return closing(Stopping(store, CLOCK, inbox.reports.put, spare))


class Stopping(ThreadedStorePort):
    """For `closing`."""

    def close(self) -> None:
        self.stop()


def test_each_kind_of_call_has_its_answer(inbox: Inbox) -> None:
    """get, list, put, Conflict and an absent key, told apart as StoreCall says."""
    with make(FakeStore(), inbox) as port:
        for call, expected in (
            (StoreCall(id=1, key="a"), {"records": (Record("a", b"v", 7),)}),
            (StoreCall(id=2, key="absent"), {"records": ()}),
            (StoreCall(id=3, key=""), {"records": (Record("a", b"1", 1), Record("b", b"2", 2))}),
            (StoreCall(id=4, key="packages/"), {"records": (Record("a", b"1", 1), Record("b", b"2", 2))}),
            (StoreCall(id=5, key="a", value=b"", expected=7), {"revision": 8}),
            (StoreCall(id=6, key="a", value=b"", expected=6), {"conflict": True}),
        ):
            port.submit(call)
            answer = inbox.answer()
            assert answer == StoreAnswered(call=call, sent=answer.sent, **expected)


def test_sent_is_never_later_than_the_true_send(inbox: Inbox) -> None:
    """The lease is counted from `sent`: at or before the moment in which the store was called, after the submit."""
    store = FakeStore()
    with make(store, inbox) as port:
        for number in range(50):
            before = CLOCK.now()
            port.submit(StoreCall(id=number, key="a", value=b"", expected=7))
            assert before <= inbox.answer().sent <= store.began.get(timeout=SLOW)[1]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StoreUnavailable("no quorum"), "no quorum"),
        (KeyError("leader"), "KeyError: 'leader'"),
        (StoreUnavailable(), "StoreUnavailable: "),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_whatever_a_store_raises_is_cannot_tell(inbox: Inbox, error: BaseException, words: str) -> None:
    """Its own words, or type and text of an exception that a store should not raise; the next call is served."""

    def act(key: str) -> None:
        if key == "bad":
            raise error

    with make(FakeStore(act), inbox) as port:
        for _ in range(WORKERS * 2):
            port.submit(StoreCall(id=1, key="bad"))
            assert inbox.answer().unavailable == words
        port.submit(StoreCall(id=2, key="good"))
        assert inbox.answer().records == (Record("good", b"v", 7),)


def test_a_hanging_call_is_answered_at_its_deadline_and_once(inbox: Inbox, blocking: Blocking) -> None:
    """Not before, not much after, with the instant of its sending; its late result is dropped; other calls go on."""
    store = FakeStore(blocking)
    with make(store, inbox) as port:
        before = CLOCK.now()
        port.submit(StoreCall(id=1, key="hang", deadline=0.5))
        sent = store.began.get(timeout=SLOW)[1]
        port.submit(StoreCall(id=2, key="a"))
        assert inbox.answer().call.id == 2
        answer = inbox.answer()
        assert 0.5 <= CLOCK.now() - before < SLOW
        assert (answer.call.id, answer.unavailable) == (1, "no answer from fake: within 0.5 s")
        assert before <= answer.sent <= sent
        blocking.free.set()
        for number in range(20):  # whatever the thread of call 1 would deliver comes in between
            port.submit(StoreCall(id=100 + number, key="a"))
            assert inbox.answer().call.id == 100 + number
        assert inbox.reports.empty()


def test_hanging_threads_are_replaced_up_to_a_bound(inbox: Inbox, blocking: Blocking) -> None:
    """WORKERS + spare hanging calls: served until then, beyond it refused at once and with the number; when they
    come back calls are served again, by no more threads than WORKERS."""
    store = FakeStore(blocking)
    with make(store, inbox, spare=2) as port:
        for number in range(WORKERS + 2):
            port.submit(StoreCall(id=number, key=f"hang{number}", deadline=0.2))
            assert inbox.answer().unavailable == "no answer from fake: within 0.2 s"
            assert store.began.get(timeout=SLOW)[0] == f"hang{number}"
        port.submit(StoreCall(id=50, key="a", deadline=SLOW * 10))
        assert inbox.answer().unavailable == f"{WORKERS + 2} calls have not come back from fake:"
        assert store.began.empty()
        blocking.free.set()
        until = time.monotonic() + SLOW
        while time.monotonic() < until:
            port.submit(StoreCall(id=51, key="a"))
            if not inbox.answer().unavailable:
                break
        else:
            pytest.fail("the port did not recover")
        workers = [thread for thread in threading.enumerate() if thread.name == "store-worker"]
        while len(workers) > WORKERS and time.monotonic() < until:
            workers[0].join(0.1)
            workers = [thread for thread in workers if thread.is_alive()]
        assert len(workers) <= WORKERS


def test_a_call_that_was_not_begun_in_time_is_never_sent(inbox: Inbox, blocking: Blocking) -> None:
    """All threads busy (none overdue yet): the call that waited beyond its deadline is answered, then forgotten."""
    store = FakeStore(blocking)
    with make(store, inbox, spare=0) as port:
        for number in range(WORKERS):
            port.submit(StoreCall(id=number, key="hang", deadline=SLOW))
            store.began.get(timeout=SLOW)
        port.submit(StoreCall(id=9, key="late", value=b"", deadline=0.1))
        assert inbox.answer().unavailable == "no thread was free within 0.1 s to ask fake:"
        blocking.free.set()
        assert {inbox.answer().call.id for _ in range(WORKERS)} == set(range(WORKERS))
        port.submit(StoreCall(id=10, key="next"))
        assert inbox.answer().call.id == 10
        assert [store.began.get(timeout=SLOW)[0]] == ["next"]


def test_a_queue_behind_hanging_calls_is_served_by_replacements(inbox: Inbox, blocking: Blocking) -> None:
    """Calls submitted before the hang was known are taken over by a new thread as soon as it is."""
    with make(FakeStore(blocking), inbox) as port:
        for number in range(WORKERS):
            port.submit(StoreCall(id=number, key="hang", deadline=0.3))
        port.submit(StoreCall(id=9, key="a", deadline=SLOW))
        answers = {answer.call.id: answer for answer in (inbox.answer() for _ in range(WORKERS + 1))}
        assert answers[9].records == (Record("a", b"v", 7),)
        assert all(answers[number].unavailable for number in range(WORKERS))


def test_many_calls_from_many_threads_have_one_answer_each(inbox: Inbox) -> None:
    """400 calls, some of which raise, some of which run into their deadline: 400 answers, none twice."""

    def act(key: str) -> None:
        number = int(key)
        if number % 7 == 0:
            raise ValueError(key)
        if number % 50 == 1:
            time.sleep(0.05)  # the store's slowness: around the deadline below

    with make(FakeStore(act), inbox) as port:

        def submit(first: int) -> None:
            for number in range(first, 400, 4):
                port.submit(StoreCall(id=number, key=str(number), deadline=0.05 if number % 50 == 1 else SLOW))

        threads = [threading.Thread(target=submit, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SLOW)
        assert sorted(inbox.answer().call.id for _ in range(400)) == list(range(400))
        assert inbox.reports.empty()


def test_after_stop_nothing_is_delivered(inbox: Inbox, blocking: Blocking) -> None:
    """Neither what is under way nor what is submitted later; its threads end."""
    store = FakeStore(blocking)
    port = ThreadedStorePort(store, CLOCK, inbox.reports.put)
    port.submit(StoreCall(id=1, key="hang"))
    store.began.get(timeout=SLOW)
    port.stop()
    port.submit(StoreCall(id=2, key="a"))
    blocking.free.set()
    for thread in threading.enumerate():
        if thread.name.startswith("store-"):
            thread.join(SLOW)
            assert not thread.is_alive()
    assert inbox.reports.empty()
    assert store.began.empty()


class Watched(FakeStore):
    """A store whose watch yields what the script says; an exception in it is raised, ending that watch."""

    def __init__(self, script: list[list[Record] | Exception]) -> None:
        super().__init__()
        self.script = iter(script)
        self.asked: list[tuple[str, int]] = []

    def watch(self, prefix: str, since: int) -> Iterator[list[Record]]:
        self.asked.append((prefix, since))
        for item in self.script:
            if isinstance(item, Exception):
                raise item
            yield item


def test_a_watch_goes_on_from_the_last_revision_seen(inbox: Inbox) -> None:
    """Empty lists are not reported; after "cannot tell", after a defect of the store and after a watch that just
    ends the next one asks for what is newer than anything seen, and the trouble can be read."""
    a, b, c = Record("p/a", b"", 3), Record("p/b", b"", 9), Record("p/a", b"", 12)
    store = Watched([[], [a], StoreUnavailable("gone"), [b, a], ValueError("defect"), [c]])
    with make(store, inbox) as port:
        port.start_watch("p/")
        assert [inbox.change().records for _ in range(3)] == [(a,), (b, a), (c,)]
        until = time.monotonic() + SLOW
        while len(store.asked) < 4 and time.monotonic() < until:
            time.sleep(0.01)  # the fourth is asked after a pause
        assert store.asked[:4] == [("p/", 0), ("p/", 3), ("p/", 9), ("p/", 12)]
        assert port.watch_trouble == "the store ended the watch"
    assert inbox.reports.empty()


def test_the_embedded_store_through_the_port(inbox: Inbox, tmp_path: Path) -> None:
    """A put is answered with its revision and seen by the watch, from this store and from another; stop ends all."""
    path, runtime = str(tmp_path / "local.db"), tmp_path / "run"
    with closing(LocalStore(path, runtime=runtime)) as store, closing(LocalStore(path, runtime=runtime)) as other:
        port = ThreadedStorePort(store, CLOCK, inbox.reports.put)
        port.start_watch("")
        port.submit(StoreCall(id=1, key="a", value=b"1", deadline=SLOW))
        reports = [inbox.reports.get(timeout=SLOW) for _ in range(2)]
        assert {type(report) for report in reports} == {StoreAnswered, StoreChanged}
        assert other.put("a", b"2", expected=1, deadline=SLOW) == 2
        assert inbox.change().records == (Record("a", b"2", 2),)
        port.stop()
