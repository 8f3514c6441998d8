"""A store whose every commit is seen by the judge, and the way to it: slow, lossy, or cut."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from ...ports import StoreAnswered, StoreCall, StoreChanged
from ...store import Record

if TYPE_CHECKING:
    from .node import Life

#: Called after each change: key, the record before and now, and the call that did it (None: a person).
Witness = Callable[[str, Record | None, Record | None, "Sent | None"], None]


class Sent:
    """Who sent a call, and when by its own clock."""

    __slots__ = ("call", "life", "local")

    def __init__(self, life: Life, call: StoreCall, local: float) -> None:
        self.life, self.call, self.local = life, call, local


class SimStore:
    """The truth of the store: linearizable, never loses a commit unless told to."""

    def __init__(self, witness: Witness) -> None:
        self.records: dict[str, Record] = {}
        self.revision = 0
        self.watchers: list[Callable[[Record], None]] = []
        self._witness = witness

    def put(self, key: str, value: bytes, expected: int | None, sent: Sent | None = None) -> int | None:
        """The new revision; None for a conflict."""
        before = self.records.get(key)
        if (before.revision if before else None) != expected:
            return None
        self.revision += 1
        record = self.records[key] = Record(key, value, self.revision)
        self._witness(key, before, record, sent)
        for watcher in list(self.watchers):
            watcher(record)
        return self.revision

    def list(self, prefix: str) -> tuple[Record, ...]:
        return tuple(record for key, record in self.records.items() if key.startswith(prefix))

    def remove(self, key: str) -> None:
        """What no btw does: a person or a defect took the record away."""
        before = self.records.pop(key)
        self.revision += 1
        self._witness(key, before, None, None)

    def restore(self, snapshot: dict[str, Record]) -> None:
        """The store of another time: old values at new revisions, later keys gone."""
        for key in [k for k in self.records if k not in snapshot]:
            self.remove(key)
        for key, record in snapshot.items():
            self.revision += 1
            before = self.records.get(key)
            self.records[key] = Record(key, record.value, self.revision)
            self._witness(key, before, self.records[key], None)


class Line:
    """The way of one node to the store. Probabilities hold for each call while there is trouble."""

    def __init__(self) -> None:
        self.cut = False  # nothing gets through
        self.loses_request = 0.0
        self.loses_answer = 0.0
        self.commits_late = 0.0  # share of the lost requests that arrive up to `late` seconds later
        self.late = 60.0
        self.slow = 0.0  # at most so many seconds more for each direction
        self.watch_silent = False
        self.watch_repeats = 0.0

    @property
    def troubled(self) -> bool:
        return bool(self.cut or self.loses_request or self.loses_answer or self.slow)


class SimStorePort:
    """`ports.StorePort` of one life of a manager."""

    def __init__(self, store: SimStore, life: Life, random: Random) -> None:
        self._store, self._life, self._random = store, life, random
        store.watchers.append(self._changed)

    def close(self) -> None:
        """The process is gone: nothing is watched any more."""
        self._store.watchers.remove(self._changed)

    def submit(self, call: StoreCall) -> None:
        life, line, random = self._life, self._life.node.line, self._random
        sent = Sent(life, call, life.clock.now())
        there = 0.001 + 0.01 * random.random()
        back = 0.001 + 0.01 * random.random()
        arrives, answers = True, True
        if line.slow:
            there += line.slow * random.random()
            back += line.slow * random.random()
        if line.cut or (line.loses_request and random.random() < line.loses_request):
            answers = False
            arrives = random.random() < line.commits_late
            there = line.late * random.random()
        elif line.loses_answer and random.random() < line.loses_answer:
            answers = False
        patience = call.deadline / life.clock.rate
        in_time = answers and there + back < patience
        if not in_time:
            life.world.scheduler.after(patience, lambda: self._answer(sent, None, "no answer in time"))
        if arrives:
            life.world.scheduler.after(there, lambda: self._arrive(sent, back if in_time else None))
        life.passed_port("renew" if call.value is not None and call.key.startswith("sessions/") else "")

    def _arrive(self, sent: Sent, back: float | None) -> None:
        call, store = sent.call, self._store
        if not sent.life.alive and call.value is None:
            return
        if call.value is not None:
            revision = store.put(call.key, call.value, call.expected, sent)
            answer = StoreAnswered(call=call, sent=sent.local, revision=revision, conflict=revision is None)
        elif not call.key or call.key.endswith("/"):
            answer = StoreAnswered(call=call, sent=sent.local, records=store.list(call.key))
        else:
            found = store.records.get(call.key)
            answer = StoreAnswered(call=call, sent=sent.local, records=(found,) if found else ())
        if back is not None:
            self._life.world.scheduler.after(back, lambda: self._answer(sent, answer, ""))

    def _answer(self, sent: Sent, answer: StoreAnswered | None, why: str) -> None:
        self._life.deliver(answer or StoreAnswered(call=sent.call, sent=sent.local, unavailable=why))

    def _changed(self, record: Record) -> None:
        line, random = self._life.node.line, self._random
        if line.watch_silent or line.cut:
            return
        report = StoreChanged(records=(record,))
        self._life.world.scheduler.after(0.001 + 0.02 * random.random(), lambda: self._life.deliver(report))
        if line.watch_repeats and random.random() < line.watch_repeats:
            self._life.world.scheduler.after(5 * random.random(), lambda: self._life.deliver(report))
