"""What the kits for stores stand on: one fixture, two hooks. Needs pytest (`pip install btw-core[testing]`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeVar

import pytest

from ..store import Conflict, Record, Store, StoreUnavailable
from .rules import Rules

T = TypeVar("T")


class Contract(Rules):
    """Base of `StoreContract` and `LeaseContract`. A subclass overrides `make_store`, `outage` and `remove`; a test and
    its fixtures share `self`, so the fixture may leave there what the hooks need.

    Where the test of an engine has no way to an outage or a removal, it says why in `no_outage` or `no_removal`: the
    rules concerned are then skipped with that reason.
    """

    #: Seconds by which something may come later than promised.
    slack: ClassVar[float] = 10.0
    #: Deadline in seconds of calls in an outage.
    brief: ClassVar[float] = 1.0
    no_outage: ClassVar[str] = ""
    no_removal: ClassVar[str] = ""

    btw_kit = "store"
    _where = "btw_core.store and its Store"

    # ---- overridden by the author of a store
    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        """Opens one more connection to the same place, a fresh and empty one for each test. The kit closes them."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture make_store")

    def outage(self) -> AbstractContextManager[None]:
        """While it is entered the engine answers nobody: frozen or down, better frozen (deadlines are tried as well).
        On leaving it the engine is on its way back, with what it had."""
        self._lacks("outage", self.no_outage)
        raise AssertionError  # not reached

    def remove(self, key: str) -> None:
        """Delete the record as a person would, with the engine's own tools."""
        self._lacks("remove", self.no_removal)

    def _lacks(self, hook: str, reason: str) -> None:
        if reason:
            pytest.skip(reason)
        where = "no_outage" if hook == "outage" else "no_removal"
        name = type(self).__name__
        pytest.fail(f"{name} must override {hook}(), or say in {where} why its test cannot", pytrace=False)

    # ---- what the rules are written with
    @pytest.fixture
    def open_store(self, make_store: Callable[[], Store]) -> Iterator[Callable[[], Store]]:
        """`make_store`, and everything is closed at the end."""
        opened: list[Store] = []

        def one_more() -> Store:
            opened.append(make_store())
            return opened[-1]

        yield one_more
        for store in opened:
            store.close()

    def answer(self, what: str, call: Callable[[], T]) -> T:
        """The call is answered: the engine is up."""
        __tracebackhide__ = True
        try:
            return call()
        except StoreUnavailable as error:
            self.must(False, f"{what} raised StoreUnavailable({str(error)!r}), though the engine is up")
            raise

    def get(self, store: Store, key: str) -> Record | None:
        return self.answer(f"get({key!r})", lambda: store.get(key, deadline=self.patience))

    def records(self, store: Store, prefix: str) -> dict[str, Record]:
        """By key."""
        found = self.answer(f"list({prefix!r})", lambda: store.list(prefix, deadline=self.patience))
        listed = {record.key: record for record in found}
        self.must(len(listed) == len(found), f"list({prefix!r}) names a key twice: {[r.key for r in found]}")
        return listed

    def try_put(self, store: Store, key: str, value: bytes, expected: int | None) -> int | Conflict:
        return self.answer(f"put({key!r})", lambda: store.put(key, value, expected=expected, deadline=self.patience))

    def put(self, store: Store, key: str, value: bytes, expected: int | None = None) -> int:
        """A put that has to succeed."""
        revision = self.try_put(store, key, value, expected)
        if isinstance(revision, Conflict):
            self.must(False, f"put({key!r}) with expected={expected}, where the key is, answered Conflict")
            raise AssertionError  # not reached
        return revision

    def together(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """All at the same time, each in a thread; their results."""
        __tracebackhide__ = True
        gate = threading.Barrier(len(jobs))
        calls = [Call(lambda job=job: (gate.wait(self.patience), job())[1]) for job in jobs]  # type: ignore[misc]
        until = time.monotonic() + 4 * self.patience
        for call in calls:
            self.must(call.ended(until - time.monotonic()), f"still at work after {4 * self.patience:g} s")
        return [call.result() for call in calls]

    def answers_again(self, store: Store, key: str) -> Record | None:
        """What `get` says after an outage, once it says anything."""
        __tracebackhide__ = True
        until, trouble = time.monotonic() + self.patience, ""
        while time.monotonic() < until:
            try:
                return store.get(key, deadline=2.0)
            except StoreUnavailable as error:
                trouble = str(error)
                time.sleep(0.05)
        late = f"{self.patience:g} s after the outage"
        self.must(False, f"{late} get({key!r}) still raised StoreUnavailable({trouble!r})")
        raise AssertionError  # not reached


class Call:
    """A call in a thread of its own: whatever it does, the test goes on."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.seconds = 0.0  # that it took
        self._call = call
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self._value = self._call()
        except BaseException as error:  # noqa: BLE001 - told to the test by `result`, `pytest.fail` included
            self._error = error
        self.seconds = time.monotonic() - began

    def ended(self, seconds: float) -> bool:
        """Blocks for so long at most."""
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def result(self) -> Any:
        """What it returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._value

    def outcome(self) -> str:
        """In words; "StoreUnavailable" is what an outage asks for."""
        if self._thread.is_alive():
            return "no answer"
        if isinstance(self._error, StoreUnavailable):
            return "StoreUnavailable"
        return repr(self._error if self._error is not None else self._value)


class Follower:
    """A watch in a thread of its own. With `again` it is opened anew from the last revision seen whenever it ended, as
    btw_core.store_port does; with `short` it is closed after every batch that holds something."""

    def __init__(self, store: Store, prefix: str, since: int = 0, *, again: bool = False, short: bool = False) -> None:
        self.seen: list[Record] = []
        self.yields = 0
        self.opened = 0
        self.error: BaseException | None = None  # what ended it for good
        self._store, self._prefix, self._since = store, prefix, since
        self._again, self._short = again, short
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def newest(self) -> dict[str, Record]:
        return {record.key: record for record in list(self.seen)}

    def stop(self) -> None:
        """Its thread ends at the next yield, or when the store is closed; not waited for."""
        self._stop.set()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except BaseException as error:  # noqa: BLE001 - stores are foreign code; the test looks at it
                if not (self._again and isinstance(error, StoreUnavailable)):
                    self.error = error
                    return
                self._stop.wait(0.1)
            self._stop.wait(0.02 if self._short else 0.0)  # others write meanwhile

    def _follow(self) -> None:
        self.opened += 1
        watch = self._store.watch(self._prefix, self._since)
        try:
            for batch in watch:
                self.seen += batch
                self.yields += 1
                if batch:
                    self._since = max(self._since, *(record.revision for record in batch))
                if self._stop.is_set() or (batch and self._short):
                    return
        finally:
            if hasattr(watch, "close"):
                watch.close()
        raise RuntimeError("the iterator ended, without an exception")
