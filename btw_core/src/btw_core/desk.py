"""What every part of the shell works with: the ports, named timers, and questions to the store with their answers."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from .ports import Operation, OperationEnded, Ports, StoreAnswered, StoreCall

Key = tuple[str, ...]


class Desk:
    """One per manager. Nothing here blocks; callbacks run inside Manager.handle and Manager.tick."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self.journal = ports.journal
        self._ids = count(1)
        self._asked: dict[int, Callable[[StoreAnswered], None]] = {}
        self._operations: dict[str, Callable[[OperationEnded], None]] = {}
        self._timers: dict[Key, tuple[float, int, Callable[[], None]]] = {}
        self._heap: list[tuple[float, int, Key]] = []

    def now(self) -> float:
        return self.ports.clock.now()

    def number(self) -> int:
        """A number never given before."""
        return next(self._ids)

    # ---- timers: setting a name again replaces it
    def at(self, when: float, key: Key, do: Callable[[], None]) -> None:
        number = self.number()
        self._timers[key] = (when, number, do)
        heapq.heappush(self._heap, (when, number, key))

    def forget(self, key: Key) -> None:
        self._timers.pop(key, None)

    def next_deadline(self) -> float | None:
        """The instant of the next timer; None without any."""
        while self._heap:
            when, number, key = self._heap[0]
            if key in self._timers and self._timers[key][1] == number:
                return when
            heapq.heappop(self._heap)
        return None

    def fire(self) -> None:
        """Run everything that is due, in the order of its time."""
        now = self.now()
        while (when := self.next_deadline()) is not None and when <= now:
            _, _, key = heapq.heappop(self._heap)
            _, _, do = self._timers.pop(key)
            do()

    # ---- the store
    def ask(
        self,
        key: str,
        then: Callable[[StoreAnswered], None],
        *,
        deadline: float,
        value: bytes | None = None,
        expected: int | None = None,
    ) -> None:
        call = StoreCall(id=self.number(), key=key, value=value, expected=expected, deadline=deadline)
        self._asked[call.id] = then
        self.ports.store.submit(call)

    def answered(self, report: StoreAnswered) -> None:
        then = self._asked.pop(report.call.id, None)
        if then is not None:
            then(report)

    # ---- operations
    def operate(self, operation: Operation, then: Callable[[OperationEnded], None]) -> None:
        self._operations[operation.id] = then
        self.ports.keeper.tell()  # what may be up from now on, before the effect
        self.ports.executor.operate(operation)

    def ended(self, report: OperationEnded) -> None:
        then = self._operations.pop(report.id, None)
        if then is not None:
            then(report)
