"""The part of the conformance kit about outages (see `store_contract`). Needs pytest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from ..store import Conflict, Record, Store, StoreUnavailable
from .contract import Call, Contract, Follower

A, B, C = "packages/a", "packages/b", "packages/c"
Opener = Callable[[], Store]


class OutageContract(Contract):
    """The rules of an outage alone: subclass it once more for each further kind of outage an engine knows."""

    def test_an_outage_is_never_an_answer(self, open_store: Opener) -> None:
        """While the engine does not answer, get, put and list raise StoreUnavailable: never None, Conflict or []."""
        store = open_store()
        revision = self.put(store, A, b"1")
        with self.outage():
            made = {name: Call(call) for name, call in calls(store, revision, self.brief).items()}
            for name, call in made.items():
                call.ended(self.patience)
                self.must(call.outcome() in ("StoreUnavailable", "no answer"), f"{name}: {call.outcome()}")

    def test_deadlines_hold(self, open_store: Opener) -> None:
        """While the engine does not answer, every call ends at its deadline, also one of 0 s, and when several threads
        call at once."""
        store = open_store()
        revision = self.put(store, A, b"1")
        with self.outage():
            for deadline, times in ((0.0, 1), (self.brief / 20, 1), (self.brief, 4)):
                made = [(n, Call(c)) for n, c in calls(store, revision, deadline).items() for _ in range(times)]
                until = time.monotonic() + deadline + self.slack
                for name, call in made:
                    call.ended(until - time.monotonic())
                    told = f"{name} with deadline={deadline:g}: no answer within {deadline + self.slack:g} s"
                    self.must(call.ended(0) and call.seconds < deadline + self.slack, told)

    def test_it_answers_again_by_itself(self, open_store: Opener) -> None:
        """After an outage the same store answers again, without being opened anew, and all that was written is there
        at its revision."""
        store = open_store()
        revision = self.put(store, A, b"1")
        with self.outage():
            Call(lambda: store.get(A, deadline=self.brief / 2)).ended(self.slack)
        found = self.answers_again(store, A)
        self.must(found == Record(A, b"1", revision), f"written at {revision}, found after the outage: {found}")
        self.put(store, B, b"1")

    def test_a_lost_answer_is_told_by_a_read(self, open_store: Opener) -> None:
        """A put that raised StoreUnavailable was written as asked, or not at all, or will be written later, at the
        expected revision only: whoever alone writes a key reads which attempt was written, and once a later attempt is
        written no former one comes to pass."""
        writers = [_Writer(self, open_store(), f"sessions/n{n}/daemon") for n in range(3)]
        with ExitStack() as stack:
            for writer in writers:
                stack.callback(writer.stop)
            for _ in range(2):
                self._until(writers, "wrote", "no put was answered")
                with self.outage():
                    self._until(writers, "lost", "no put raised StoreUnavailable in the outage")
                self._until(writers, "wrote", "no put was answered after the outage")
        for writer in writers:
            writer.result()
        quiet = time.monotonic() + self.brief
        while time.monotonic() < quiet:
            for writer in writers:
                found = self.get(writer.store, writer.key)
                self.must(found == writer.known, f"{writer.key}: the last one written was {writer.known}, then {found}")
            time.sleep(self.brief / 10)

    def test_a_watch_has_no_gap_across_an_outage(self, open_store: Opener) -> None:
        """A watch either goes on after an outage or raises StoreUnavailable; opened again from the last revision seen
        it yields all that was changed meanwhile, what was written without an answer included."""
        store, writer = open_store(), open_store()
        hot = self.put(writer, A, b"1")
        with Follower(store, "packages/", again=True) as follower:
            self.eventually("the watch yields what is there", lambda: A in follower.newest())
            with self.outage():
                lost = [
                    Call(lambda n=n: writer.put(f"packages/lost{n}", b"", expected=None, deadline=self.brief))  # type: ignore[misc]
                    for n in range(3)
                ]
                for call in lost:
                    call.ended(self.brief + self.slack)
            self.answers_again(writer, A)
            for n in range(20):
                self.put(writer, f"packages/n{n}", b"")
            self.put(writer, A, b"2", hot)
            self.eventually(
                "the watch has yielded the newest record of each key",
                lambda: follower.ended or follower.newest() == self.records(writer, "packages/"),
            )
            self.must(not follower.ended, f"the watch ended with {follower.error!r}, which is no StoreUnavailable")

    def test_close_does_not_wait_for_the_engine(self, open_store: Opener) -> None:
        """`close` does not block in an outage, and ends the calls and watches that wait for an answer."""
        store = open_store()
        self.put(store, A, b"1")
        with Follower(store, "packages/") as follower:
            self.eventually("the watch yields what is there", lambda: A in follower.newest())
            with self.outage():
                waiting = Call(lambda: store.get(A, deadline=self.brief))
                self.must(Call(store.close).ended(self.slack), f"close took more than {self.slack:g} s")
                self.must(waiting.ended(self.brief + self.slack), "a call went on after close and its deadline")
                self.eventually("the watch ends", lambda: follower.ended, self.slack)

    def _until(self, writers: list[_Writer], counter: str, failure: str) -> None:
        """Each of them has made two more, or found something."""
        goal = {writer: getattr(writer, counter) + 2 for writer in writers}
        self.eventually(failure, lambda: all(getattr(w, counter) >= goal[w] or w.call.ended(0) for w in writers))
        for writer in writers:
            if writer.call.ended(0):
                writer.result()


class _Writer:
    """Writes one key again and again, as a node's session does, and knows what it may find there."""

    def __init__(self, kit: Contract, store: Store, key: str) -> None:
        self.kit, self.store, self.key = kit, store, key
        self.wrote = self.lost = 0
        self.known: Record | None = None
        self.doubts: set[bytes] = set()  # values that may have been written, or may still be
        self._stop, self._until = threading.Event(), 0.0
        self.call = Call(self._run)

    def stop(self) -> None:
        self._until = time.monotonic() + self.kit.patience
        self._stop.set()

    def result(self) -> None:
        """Raises what it found."""
        self.kit.must(self.call.ended(self.kit.patience), f"the writer of {self.key} hangs")
        self.call.result()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set() or (self.doubts and time.monotonic() < self._until):
            number += 1
            value = b"attempt %d of %s" % (number, self.key.encode())
            expected = self.known.revision if self.known else None
            try:
                answer = self.store.put(self.key, value, expected=expected, deadline=self.kit.brief / 2)
            except StoreUnavailable:
                self.lost += 1
                self.doubts.add(value)
                self._look()
                continue
            if isinstance(answer, Conflict):
                before = self.known
                if self._look():
                    told = f"{self.key}: Conflict at {expected}, where it is: {self.known}"
                    self.kit.must(self.known != before, told)
            else:
                self.known, self.doubts = Record(self.key, value, answer), set()
                self.wrote += 1
            self._stop.wait(0.005)

    def _look(self) -> bool:
        """Which attempt was written? False: that cannot be told now."""
        try:
            found = self.store.get(self.key, deadline=self.kit.brief / 2)
        except StoreUnavailable:
            self._stop.wait(self.kit.brief / 20)
            return False
        if found != self.known:
            newer = found is not None and (self.known is None or found.revision > self.known.revision)
            asked = found is not None and found.value in self.doubts
            told = f"{self.key}: after {self.known} and attempts {sorted(self.doubts)} it is {found}"
            self.kit.must(newer and asked, told)
            self.known, self.doubts = found, set()
        return True


def calls(store: Store, revision: int, deadline: float) -> dict[str, Callable[[], object]]:
    """One of each kind; the list finds nothing and the get something."""
    return {
        "get": lambda: store.get(A, deadline=deadline),
        "list": lambda: store.list("sessions/", deadline=deadline),
        "put": lambda: store.put(A, b"2", expected=revision, deadline=deadline),
    }
