"""Stores in memory: one that keeps the contract, and its descendants that break one rule each. The test that the
conformance kit bites runs this file on its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from btw_core.store import Conflict, Record, Store, StoreUnavailable
from btw_core.testing import LeaseContract, OutageContract, StoreContract

Records = list[Record]


class Place:
    """What all connections share. `frozen`: nobody is answered."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.records: dict[str, Record] = {}
        self.revision = 0
        self.frozen = False


class MemoryStore:
    """Keeps the contract."""

    creates_itself = False
    description = "memory:"

    def __init__(self, place: Place) -> None:
        self.place = place
        self.closed = False

    def get(self, key: str, *, deadline: float) -> Record | None:
        with self.place.changed:
            self.wait(deadline)
            return self.place.records.get(key)

    def list(self, prefix: str, *, deadline: float) -> Records:
        with self.place.changed:
            self.wait(deadline)
            return [record for key, record in self.place.records.items() if key.startswith(prefix)]

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        with self.place.changed:
            self.wait(deadline)
            found = self.place.records.get(key)
            return self.write(key, value) if (found.revision if found else None) == expected else Conflict()

    def watch(self, prefix: str, since: int) -> Iterator[Records]:
        while True:
            with self.place.changed:
                batch = self.newer(prefix, since)
                if not batch and not self.place.frozen:
                    self.place.changed.wait(0.05)
                    batch = self.newer(prefix, since)
                if self.closed or self.place.frozen:
                    raise StoreUnavailable("closed, or no answer")
            since = max([since, *(record.revision for record in batch)])
            yield batch

    def close(self) -> None:
        with self.place.changed:
            self.closed = True
            self.place.changed.notify_all()

    # ---- under the lock
    def wait(self, deadline: float) -> None:
        self.place.changed.wait_for(lambda: not self.place.frozen or self.closed, deadline)
        if self.place.frozen or self.closed:
            raise StoreUnavailable("closed, or no answer")

    def write(self, key: str, value: bytes) -> int:
        self.place.revision += 1
        self.place.records[key] = Record(key, value, self.place.revision)
        self.place.changed.notify_all()
        return self.place.revision

    def newer(self, prefix: str, since: int) -> Records:
        found = (r for r in self.place.records.values() if r.revision > since and r.key.startswith(prefix))
        return sorted(found, key=lambda record: record.revision)


class Memory(StoreContract):
    """The contract of stores of the kind `made`."""

    slack = 2.0
    patience = 5.0
    brief = 0.1
    place: Place
    made: type[MemoryStore] = MemoryStore

    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        self.place = Place()
        return lambda: self.made(self.place)

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.freeze(True)
        try:
            yield
        finally:
            self.freeze(False)

    def freeze(self, frozen: bool) -> None:
        with self.place.changed:
            self.place.frozen = frozen
            self.place.changed.notify_all()


class TestSound(Memory):
    """Breaks nothing."""


# ---- compare and swap
class CreatesTwice(MemoryStore):
    """Looks whether the key is absent, and writes it in another transaction."""

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        if expected is None and self.get(key, deadline=deadline) is None:
            time.sleep(0.02)
            with self.place.changed:
                return self.write(key, value)
        return super().put(key, value, expected=expected, deadline=deadline)


class TestCreatesTwice(Memory):
    made = CreatesTwice


class LosesIncrements(MemoryStore):
    """Compares, and swaps in another transaction."""

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        found = self.get(key, deadline=deadline)
        if expected is not None and found is not None and found.revision == expected:
            time.sleep(0.002)
            with self.place.changed:
                return self.write(key, value)
        return super().put(key, value, expected=expected, deadline=deadline)


class TestLosesIncrements(Memory):
    made = LosesIncrements


class ComparesValues(MemoryStore):
    """Takes any revision that the store has given to some key for the right one."""

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        with self.place.changed:
            self.wait(deadline)
            known = expected in [record.revision for record in self.place.records.values()]
            if known and key in self.place.records:
                return self.write(key, value)
        return super().put(key, value, expected=expected, deadline=deadline)


class TestComparesValues(Memory):
    made = ComparesValues


class WritesInConflict(MemoryStore):
    """Answers Conflict for an absent key, after it has made it."""

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        answer = super().put(key, value, expected=expected, deadline=deadline)
        with self.place.changed:
            if expected is not None and key not in self.place.records:
                self.write(key, value)
                del self.place.records[key]
                self.place.records[key + "~"] = Record(key + "~", value, self.place.revision)
        return answer


class TestWritesInConflict(Memory):
    made = WritesInConflict


# ---- reading
class ReadsLate(MemoryStore):
    """Answers reads from a copy that is a little old."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.old: dict[str, Record] = {}
        self.at = 0.0

    def list(self, prefix: str, *, deadline: float) -> Records:
        if time.monotonic() > self.at + 0.02:
            self.old = {record.key: record for record in super().list("", deadline=deadline)}
            self.at = time.monotonic()
        super().list("", deadline=deadline)
        return [record for key, record in self.old.items() if key.startswith(prefix)]


class TestReadsLate(Memory):
    made = ReadsLate


class ListsTwoInstants(MemoryStore):
    """Long lists are read in two pages."""

    def list(self, prefix: str, *, deadline: float) -> Records:
        first = sorted(super().list(prefix, deadline=deadline), key=lambda record: record.key)
        time.sleep(0.005)
        second = sorted(super().list(prefix, deadline=deadline), key=lambda record: record.key)
        return first[: len(first) // 2] + [r for r in second if r.key not in {f.key for f in first[: len(first) // 2]}]


class TestListsTwoInstants(Memory):
    made = ListsTwoInstants


class FoldsCase(MemoryStore):
    """Prefixes are compared as SQL's LIKE does."""

    def list(self, prefix: str, *, deadline: float) -> Records:
        return [r for r in super().list("", deadline=deadline) if r.key.lower().startswith(prefix.lower())]


class TestFoldsCase(Memory):
    made = FoldsCase


class CutsValues(MemoryStore):
    """Values end at NUL."""

    def write(self, key: str, value: bytes) -> int:
        return super().write(key, value.partition(b"\0")[0])


class TestCutsValues(Memory):
    made = CutsValues


# ---- revisions
class RepeatsRevisions(MemoryStore):
    """A value that stays the same is no change."""

    def write(self, key: str, value: bytes) -> int:
        found = self.place.records.get(key)
        return found.revision if found and found.value == value else super().write(key, value)


class TestRepeatsRevisions(Memory):
    made = RepeatsRevisions


class ForgetsRevisions(MemoryStore):
    """The counter begins anew with the first connection."""

    def close(self) -> None:
        super().close()
        self.place.revision = 0


class TestForgetsRevisions(Memory):
    made = ForgetsRevisions


# ---- watching
class WatchesWithAGap(MemoryStore):
    """What was changed while this connection's former watch was down is lost."""

    ended_at = 0

    def watch(self, prefix: str, since: int) -> Iterator[Records]:
        try:
            yield from super().watch(prefix, max(since, self.place.revision) if 0 < self.ended_at <= since else since)
        finally:
            self.ended_at = self.place.revision


class TestWatchesWithAGap(Memory):
    made = WatchesWithAGap


class WatchesInSilence(MemoryStore):
    """Yields only what there is."""

    def watch(self, prefix: str, since: int) -> Iterator[Records]:
        return (batch for batch in super().watch(prefix, since) if batch)


class TestWatchesInSilence(Memory):
    made = WatchesInSilence


class WatchesBackwards(MemoryStore):
    """Newest first."""

    def newer(self, prefix: str, since: int) -> Records:
        return super().newer(prefix, since)[::-1]


class TestWatchesBackwards(Memory):
    made = WatchesBackwards


# ---- outages
class SaysNoneInAnOutage(MemoryStore):
    """No answer is no record."""

    def get(self, key: str, *, deadline: float) -> Record | None:
        try:
            return super().get(key, deadline=deadline)
        except StoreUnavailable:
            if self.closed or deadline != Memory.brief:
                raise
            return None


class TestSaysNoneInAnOutage(Memory):
    made = SaysNoneInAnOutage


class HangsPastTheDeadline(MemoryStore):
    """Takes no deadline below its own for a list."""

    def list(self, prefix: str, *, deadline: float) -> Records:
        return super().list(prefix, deadline=max(deadline, 2 * Memory.slack))


class TestHangsPastTheDeadline(Memory):
    made = HangsPastTheDeadline


class WritesLateWhateverComes(MemoryStore):
    """A put without an answer is carried out after the outage, and not compared any more."""

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        try:
            return super().put(key, value, expected=expected, deadline=deadline)
        except StoreUnavailable:
            if not self.closed and key.startswith("sessions/"):
                threading.Thread(target=self.later, args=(key, value), daemon=True).start()
            raise

    def later(self, key: str, value: bytes) -> None:
        with self.place.changed:
            self.place.changed.wait_for(lambda: not self.place.frozen)
        time.sleep(0.02)
        with self.place.changed:
            self.write(key, value)


class TestWritesLateWhateverComes(Memory):
    made = WritesLateWhateverComes


class StaysDown(MemoryStore):
    """Once there was no answer, none is asked for any more."""

    down = False

    def wait(self, deadline: float) -> None:
        if self.down:
            raise StoreUnavailable("still down")
        try:
            super().wait(deadline)
        except StoreUnavailable:
            self.down = deadline == Memory.brief / 2 and not self.closed
            raise


class TestStaysDown(Memory):
    made = StaysDown


# ---- the end
class LeavesWatches(MemoryStore):
    """Calls after close are refused, watches go on."""

    def watch(self, prefix: str, since: int) -> Iterator[Records]:
        if self.closed:
            raise StoreUnavailable("closed")
        other = MemoryStore(self.place)
        while True:
            for batch in other.watch(prefix, since):
                since = max([since, *(record.revision for record in batch)])
                yield batch


class TestLeavesWatches(Memory):
    made = LeavesWatches


class AnswersAfterClose(MemoryStore):
    """close only ends watches."""

    def get(self, key: str, *, deadline: float) -> Record | None:
        with self.place.changed:
            if self.closed:
                return self.place.records.get(key)
        return super().get(key, deadline=deadline)


class TestAnswersAfterClose(Memory):
    made = AnswersAfterClose


class CloseWaits(MemoryStore):
    """close says goodbye to the engine, and waits for its answer."""

    def close(self) -> None:
        with self.place.changed:
            self.place.changed.wait_for(lambda: not self.place.frozen)
        super().close()


class TestCloseWaits(Memory):
    made = CloseWaits


class Nameless(MemoryStore):
    description = "memory:\n"


class TestNameless(Memory):
    made = Nameless


# ---- what the lease rests on
class MemoryLease(LeaseContract):
    """The contract of the lease on stores of the kind `made`."""

    patience = 5.0
    place: Place
    made: type[MemoryStore] = MemoryStore

    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        self.place = Place()
        return lambda: self.made(self.place)

    def remove(self, key: str) -> None:
        del self.place.records[key]


class TestSoundLease(MemoryLease):
    """Breaks nothing."""


class WritesAlways(MemoryStore):
    """Does not compare."""

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        with self.place.changed:
            return self.write(key, value)


class TestWritesAlways(MemoryLease):
    made = WritesAlways


class ListsOldSessions(MemoryStore):
    """Shows sessions as they were when first listed."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.first: dict[str, Record] = {}

    def list(self, prefix: str, *, deadline: float) -> Records:
        listed = super().list(prefix, deadline=deadline)
        return [self.first.setdefault(r.key, r) if r.key.startswith("sessions/") else r for r in listed]


class TestListsOldSessions(MemoryLease):
    made = ListsOldSessions


# ---- hooks
class TestHooksMissing(OutageContract):
    """No outage, and no word why."""

    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        place = Place()
        return lambda: MemoryStore(place)


class TestHooksExcused(TestHooksMissing):
    no_outage = "memory does not break"
