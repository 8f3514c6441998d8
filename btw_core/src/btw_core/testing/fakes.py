"""Ports whose answers a test decides, one by one, in a time of its own. For the parts of the manager's shell."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from ..desk import Desk
from ..lease import View
from ..manager import reading
from ..ports import Lock, Look, Operation, OperationEnded, Ports, StoreAnswered, StoreCall
from ..store import Record
from ..types import Saved


class ManualClock:
    """Stands still until the test moves it."""

    def __init__(self, time: float = 1000.0) -> None:
        self.time = time

    def now(self) -> float:
        return self.time


class ScriptedStore:
    """Keeps records; carries out and answers nothing until it is told to.

    `calls` are waiting, oldest first. `done` is every put that was carried out: its call, when it was sent and when it
    came to pass.
    """

    def __init__(self, clock: ManualClock, deliver: Callable[[StoreAnswered], None]) -> None:
        self.clock = clock
        self.deliver = deliver
        self.records: dict[str, Record] = {}
        self.revision = 0
        self.calls: deque[tuple[StoreCall, float]] = deque()
        self.done: list[tuple[StoreCall, float, float]] = []

    def submit(self, call: StoreCall) -> None:
        self.calls.append((call, self.clock.now()))

    def write(self, key: str, value: bytes) -> int:
        """Somebody else writes, whatever is there."""
        self.revision += 1
        self.records[key] = Record(key, value, self.revision)
        return self.revision

    def answer(self) -> StoreAnswered:
        """Carry out the oldest call and say so."""
        call, sent = self.calls.popleft()
        answer = self._carry_out(call, sent)
        self.deliver(answer)
        return answer

    def lose(self, *, committed: bool) -> None:
        """The oldest call gets no answer; its write came to pass or not."""
        call, sent = self.calls.popleft()
        if committed:
            self._carry_out(call, sent)
        self.deliver(StoreAnswered(call=call, sent=sent, unavailable="no answer"))

    def delay(self) -> Callable[[], StoreAnswered]:
        """The oldest call gets no answer; its write is tried when the returned function is called."""
        call, sent = self.calls.popleft()
        self.deliver(StoreAnswered(call=call, sent=sent, unavailable="no answer"))
        return lambda: self._carry_out(call, sent)

    def _carry_out(self, call: StoreCall, sent: float) -> StoreAnswered:
        found = self.records.get(call.key)
        if call.value is None:
            below = call.key == "" or call.key.endswith("/")
            named = tuple(r for k, r in self.records.items() if (k.startswith(call.key) if below else k == call.key))
            return StoreAnswered(call=call, sent=sent, records=named)
        if (found.revision if found else None) != call.expected:
            return StoreAnswered(call=call, sent=sent, conflict=True)
        self.done.append((call, sent, self.clock.now()))
        return StoreAnswered(call=call, sent=sent, revision=self.write(call.key, call.value))


class ScriptedExecutor:
    """Begins operations and looks, and leaves their end to the test."""

    def __init__(self, deliver: Callable[[OperationEnded], None]) -> None:
        self.deliver = deliver
        self.operations: list[Operation] = []  # all that were begun
        self.killed: list[str] = []
        self.looks: list[Look] = []
        self.watched: set[str] = set()
        self.ready: dict[str, str] = {}  # package -> the operation that a process is kept for

    def operate(self, operation: Operation) -> None:
        self.operations.append(operation)
        if self.ready.get(operation.package) == operation.id:
            self.ready[operation.package] = ""

    def end(self, operation: Operation, *, ok: bool = True, **said: Any) -> None:
        """The operation is gone."""
        self.deliver(OperationEnded(id=operation.id, ok=ok, **said))

    def kill(self, operation: str) -> None:
        self.killed.append(operation)

    def prepare(self, package: str, operation: str) -> None:
        self.ready[package] = operation

    def look(self, look: Look) -> None:
        self.looks.append(look)

    def watch(self, package: str, term: int, state: dict[str, dict[str, Any]]) -> None:
        self.watched.add(package)

    def unwatch(self, package: str) -> None:
        self.watched.discard(package)


class MemoryDisk:
    """Remembers in memory; `full` makes every save raise OSError."""

    def __init__(self) -> None:
        self.saved: dict[str, Saved] = {}
        self.full = False

    def load(self, package: str) -> Saved | None:
        return self.saved.get(package)

    def known(self, package: str, *, here: bool = False) -> bool:
        return package in self.saved and self.saved[package].term > 0

    def save(self, package: str, saved: Saved, *, durable: bool = True) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.saved[package] = saved


class MemoryKeeper:
    """A keeper that the test lets live or die, and what it was told."""

    def __init__(self) -> None:
        self.lives = True
        self.window = 0.0
        self.told: dict[str, tuple[float, float]] = {}  # who may be up, until when
        self.known: dict[str, tuple[float, float]] = {}  # of that, what counts
        self.locks: dict[str, Lock | None] = {}  # which term operations may go on under, until when
        self.left: dict[str, tuple[float, float] | None] = {}  # what a former life had told

    def attached(self) -> bool:
        return self.lives

    def former(self, package: str) -> tuple[float, float] | None:
        return self.left.get(package, (inf, inf))

    def lease(self, package: str, lost_at: float, hard: float, lock: Lock | None = None) -> None:
        self.told[package] = lost_at, hard
        self.locks[package] = lock

    def down(self, package: str, lock: Lock | None = None) -> None:
        self.told.pop(package, None)
        self.locks[package] = lock

    def tell(self) -> None:
        self.known = dict(self.told)


class ListJournal:
    """Keeps every line."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(
        self, event: str, *, package: str = "", cause: str = "", state: str = "", term: int = 0, **data: Any
    ) -> None:
        self.lines.append({"event": event, "package": package, "cause": cause, "state": state, "term": term, **data})

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]


class Bench:
    """A desk with all its ports, and time that passes only in `wait`."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = ScriptedStore(self.clock, lambda answer: self.desk.answered(answer))
        self.executor = ScriptedExecutor(lambda report: self.desk.ended(report))
        self.disk = MemoryDisk()
        self.journal = ListJournal()
        self.keeper = MemoryKeeper()
        ports = Ports(
            clock=self.clock,
            store=self.store,
            executor=self.executor,
            disk=self.disk,
            journal=self.journal,
            keeper=self.keeper,
        )
        self.desk = Desk(ports)

    def wait(self, seconds: float, *, prompt: bool = False) -> None:
        """Time passes; timers fire at their instant. `prompt`: the store answers everything at once."""
        end = self.clock.time + seconds
        while True:
            while prompt and self.store.calls:
                self.store.answer()
            due = self.desk.next_deadline()
            if due is None or due > end:
                break
            self.clock.time = max(self.clock.time, due)
            self.desk.fire()
        self.clock.time = end

    def view(self) -> View:
        """What a reading of all records would say that is sent and answered now."""
        call, now = StoreCall(id=0, key=""), self.clock.time
        return reading(StoreAnswered(call=call, sent=now, records=tuple(self.store.records.values())), now)[0]
