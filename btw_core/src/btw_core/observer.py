"""The observer: rounds of status in a bounded pool, watch descriptors, btw_event hooks. Changes nothing.

The main thread reads orders and waits on all watch descriptors; it never calls foreign code, so it always answers.
What hangs holds one thread of the pool and is named in every answer until it comes back; nothing else waits for it.
A look is answered within half a pace, if need be in part; what comes later is news that nobody has asked for.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, cast

from . import wire
from .clock import boottime
from .context import RealContext
from .operation import Inventory, explain
from .ports import Look, Looked, ResourceHealth
from .resource import CannotTell, Context, Resource
from .types import Reason, Status

#: Threads that are there, and how many there may be when some are stuck.
THREADS, MOST_THREADS = 8, 32
#: Seconds that work may wait for a thread before another one is begun; before all of them count as stuck.
PATIENCE, HOPELESS = 0.5, 10.0
#: Events that wait for a hook that is slow; further ones are lost, and counted.
BACKLOG = 1000
_STATUSES = tuple(Status)
#: Seconds between two firings of one resource's watch: a descriptor that is always readable must not become a loop.
REST = 0.1
#: Seconds for the manager to take an answer.
SENDING = 5.0


class Pool:
    """Daemon threads, more of them while some are stuck."""

    def __init__(self, threads: int = THREADS, most: int = MOST_THREADS, hopeless: float = HOPELESS) -> None:
        self._todo: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads, self._most, self._hopeless = 0, most, hopeless
        self._taken = boottime()  # when a thread took work last
        for _ in range(threads):
            self._grow()

    def submit(self, work: Callable[[], None]) -> None:
        """Does not block. `work` must not raise."""
        if self._todo.empty():
            self._taken = boottime()
        self._todo.put(work)

    def tend(self) -> bool:
        """To be called now and then. False: every thread is stuck, and no more are allowed."""
        waited = 0.0 if self._todo.empty() else boottime() - self._taken
        if waited > PATIENCE and self._threads < self._most:
            self._grow()
            return True
        return waited <= self._hopeless

    def _grow(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            work = self._todo.get()
            self._taken = boottime()
            work()


class _Watched:
    """A package whose resources are watched."""

    def __init__(self, order: wire.Watch) -> None:
        self.order = order
        self.descriptors: dict[str, set[int]] = {}


class _Round:
    """One look, being answered. Touched under the observer's lock once it has begun."""

    def __init__(self, look: Look, wanted: tuple[str, ...], watched: _Watched | None) -> None:
        self.look, self.wanted, self.watched = look, wanted, watched
        self.todo: deque[str] = deque()
        self.answers: dict[str, ResourceHealth] = {}
        self.answered = False
        self.began = boottime()
        self.split = self.due = 0.0  # another thread joins; the answer is given with what there is

    def results(self) -> list[ResourceHealth]:
        return [self.answers[name] for name in self.wanted]


class Observer:
    """`run` serves one channel until its end."""

    def __init__(self, channel: socket.socket, inventory: Inventory) -> None:
        self._channel, self._inventory = channel, inventory
        self._pool = Pool()
        self._busy: dict[tuple[str, str], float] = {}  # resources in `status`, since when
        self._lock = threading.Lock()  # of _busy and of each round
        self._rounds: list[_Round] = []  # the main thread's
        self._watched: dict[str, _Watched] = {}
        self._owner: dict[int, tuple[_Watched, str]] = {}  # watch descriptors that are polled
        self._resting: deque[tuple[float, Callable[[], None]]] = deque()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # for the main thread
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._feeds = [_Feed(name, hook, self._say) for name, hook in inventory.listeners.items()]

    def run(self) -> None:
        """Blocks until the manager closes its end."""
        self._poll.register(self._channel, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        while True:
            ready = self._poll.poll(self._pause() * 1000)
            for descriptor, _ in ready:
                if descriptor in self._owner:
                    self._fired(descriptor)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            while not self._calls.empty():
                self._calls.get()()
            while self._resting and self._resting[0][0] <= boottime():
                self._resting.popleft()[1]()
            try:
                while True:
                    self._obey(wire.receive(self._channel, wire.TO_OBSERVER)[0])
            except BlockingIOError:
                pass
            except wire.Closed:
                return
            self._hasten()
            if not self._pool.tend():
                self._give_up()

    def _pause(self) -> float:
        """Seconds to wait at most."""
        now = boottime()
        due = [now + 0.5, *(round.split for round in self._rounds), *(when for when, _ in self._resting)]
        return max(0.001, min(due) - now)

    def _obey(self, order: wire.ToObserver) -> None:
        match order:
            case wire.Ask(look=look):
                self._look(look)
            case wire.Watch():
                self._forget(order.package)
                watched = self._watched[order.package] = _Watched(order)
                for name, resource in self._resources(order.package).items():
                    if hasattr(resource, "watch"):
                        self._pool.submit(lambda name=name: self._arm(watched, name))  # type: ignore[misc]
            case wire.Unwatch(package=package):
                self._forget(package)
            case wire.Happened(event=event):
                for feed in self._feeds:
                    feed.put(event)
            case wire.Ping():
                self._tell(wire.Pong())

    # ---- status
    def _look(self, look: Look) -> None:
        """Resources that an earlier look still waits for are answered for; the others are asked."""
        known = self._resources(look.package)
        round = _Round(look, look.resources or tuple(known), self._watched.get(look.package))
        with self._lock:
            for name in round.wanted:
                if name not in known:
                    round.answers[name] = _cannot_tell(name, f"resource {name} of package {look.package} is not loaded")
                elif since := self._busy.get((look.package, name)):
                    round.answers[name] = _waited(name, since)
                else:
                    round.todo.append(name)
        if not round.todo:
            self._answer(look.id, look.package, round.results())
            return
        pace = self._inventory.packages[look.package].spec.timing.pace
        round.split, round.due = round.began + pace / 4, round.began + pace / 2
        self._rounds.append(round)
        self._pool.submit(lambda: self._ask(round))

    def _ask(self, round: _Round) -> None:
        """Ask what nobody has asked yet. Several threads may be at it when some of them are stuck."""
        look = round.look
        while True:
            with self._lock:
                if not round.todo:
                    return
                name = round.todo.popleft()
            result = self._status(look.package, name, look.term, look.state)
            with self._lock:
                late = round.answered
                round.answers[name] = result
                complete = not late and len(round.answers) == len(round.wanted)
                round.answered = round.answered or complete
            if complete:
                self._answer(look.id, look.package, round.results())
            elif late and self._watched.get(look.package) is round.watched:
                # true still: nothing was started or stopped since, or the package would be watched anew
                self._answer(0, look.package, [result])

    def _hasten(self) -> None:
        """What takes long gets another thread for the rest; what takes too long is answered without it."""
        now = boottime()
        for round in [each for each in self._rounds if each.answered or each.split <= now]:
            if not round.answered and now < round.due:
                round.split = round.due
                self._pool.submit(lambda round=round: self._ask(round))  # type: ignore[misc]
                continue
            self._rounds.remove(round)
            with self._lock:
                if round.answered:
                    continue
                round.answered = True
                answers = dict(round.answers)
                for name in round.wanted:
                    if name not in answers:
                        since = self._busy.get((round.look.package, name), round.began)
                        answers[name] = _waited(name, since)
                round.todo.clear()
            self._answer(round.look.id, round.look.package, (answers[name] for name in round.wanted))

    def _status(self, package: str, name: str, term: int, state: Mapping[str, dict[str, Any]]) -> ResourceHealth:
        resource, key = self._resources(package)[name], (package, name)
        with self._lock:
            if since := self._busy.get(key):
                return _waited(name, since)
            self._busy[key] = boottime()
        try:
            status = resource.status(self._context(package, name, term, state))
            if status in _STATUSES:
                return ResourceHealth(resource=name, status=status)
            return _cannot_tell(name, f"defect in plugin: status returned {status!r}, which is no Status")
        except CannotTell as why:
            return _cannot_tell(name, str(why))
        except BaseException as error:  # noqa: BLE001 - foreign code; nothing it raises may end this thread
            return _cannot_tell(name, explain(error, resource))
        finally:
            with self._lock:
                del self._busy[key]

    # ---- watches; _arm and _refresh run in the pool, the rest in the main thread
    def _arm(self, watched: _Watched, name: str) -> None:
        """Ask for new descriptors and hand them to the main thread."""
        order = watched.order
        resource: Any = self._resources(order.package)[name]
        try:
            found = set(map(int, resource.watch(self._context(order.package, name, order.term, order.state))))
        except BaseException as error:  # noqa: BLE001 - foreign code; then only the pace looks at it
            self._say(order.package, name, f"not watched: {explain(error, resource)}")
            found = set()
        self._call(lambda: self._register(watched, name, found))

    def _register(self, watched: _Watched, name: str, found: set[int]) -> None:
        for descriptor in watched.descriptors.get(name, set()) - found:
            os.close(descriptor)
        if self._watched.get(watched.order.package) is not watched:  # meanwhile unwatched, or watched anew
            _close(found)
            return
        for descriptor in [each for each in found if not _open(each)]:
            found.remove(descriptor)
            self._say(watched.order.package, name, f"watch returned descriptor {descriptor}, which is not open")
        watched.descriptors[name] = found
        for descriptor in found:
            self._owner[descriptor] = watched, name
            self._poll.register(descriptor, select.POLLIN | select.POLLPRI)

    def _fired(self, descriptor: int) -> None:
        watched, name = self._owner[descriptor]
        for each in watched.descriptors[name]:
            self._silence(each)
        again = boottime() + REST
        self._pool.submit(lambda: self._refresh(watched, name, again))

    def _refresh(self, watched: _Watched, name: str, again: float) -> None:
        order = watched.order
        self._answer(0, order.package, [self._status(order.package, name, order.term, order.state)])

        def arm() -> None:
            self._pool.submit(lambda: self._arm(watched, name))

        self._call(lambda: self._resting.append((again, arm)))

    def _forget(self, package: str) -> None:
        watched = self._watched.pop(package, None)
        for found in watched.descriptors.values() if watched else ():
            for descriptor in found:
                self._silence(descriptor)
            _close(found)
        if watched:
            watched.descriptors.clear()

    def _silence(self, descriptor: int) -> None:
        if self._owner.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def _call(self, call: Callable[[], None]) -> None:
        self._calls.put(call)
        os.eventfd_write(self._wake, 1)

    # ---- what the rest uses
    def _resources(self, package: str) -> Mapping[str, Resource]:
        stock = self._inventory.packages.get(package)
        return stock.resources if stock else {}

    def _context(self, package: str, name: str, term: int, state: Mapping[str, dict[str, Any]]) -> Context:
        timing = self._inventory.packages[package].spec.timing
        context = RealContext(
            cluster=self._inventory.cluster,
            node=self._inventory.node,
            package=package,
            resource=name,
            term=term,
            verb=None,
            reason=Reason.NONE,
            state=dict(state.get(name, {})),
            deadline=boottime() + timing.timeout,
            operation="",
            log=lambda text: self._say(package, name, text),
            env=self._inventory.packages[package].env,
        )
        return cast(Context, context)

    def _answer(self, look: int, package: str, results: Iterable[ResourceHealth]) -> None:
        self._tell(wire.Answer(looked=Looked(id=look, package=package, results=tuple(results))))

    def _say(self, package: str, resource: str, text: str) -> None:
        self._tell(wire.Line(package=package, resource=resource, text=wire.bounded(text)))

    def _tell(self, message: wire.Message) -> None:
        with contextlib.suppress(OSError):  # the manager has gone; `run` sees the end of the channel
            wire.send(self._channel, message, SENDING)

    def _give_up(self) -> NoReturn:
        with self._lock:
            stuck = ", ".join(f"{package}/{name}" for package, name in self._busy)
        self._tell(wire.Stuck(cause=f"all {MOST_THREADS} threads are stuck in status or watch of {stuck or '(watch)'}"))
        os._exit(3)


class _Feed:
    """One extension's btw_event in a thread of its own."""

    def __init__(
        self, name: str, hook: Callable[[Mapping[str, Any]], object], say: Callable[[str, str, str], None]
    ) -> None:
        self._name, self._hook, self._say = name, hook, say
        self._events: queue.Queue[tuple[dict[str, Any], int]] = queue.Queue(BACKLOG)
        self._lost = 0
        threading.Thread(target=self._work, daemon=True).start()

    def put(self, event: dict[str, Any]) -> None:
        """Does not block."""
        try:
            self._events.put_nowait((event, self._lost))
            self._lost = 0
        except queue.Full:
            self._lost += 1
            if self._lost == 1:
                self._say("", self._name, f"extension {self._name} hangs in btw_event: events are lost")

    def _work(self) -> None:
        while True:
            event, lost = self._events.get()
            if lost:
                self._say("", self._name, f"extension {self._name} lost {lost} events before this one")
            try:
                self._hook(event)
            except BaseException as error:  # noqa: BLE001 - foreign code; it decides nothing
                self._say("", self._name, f"extension {self._name} failed: {type(error).__name__}: {error}")


def _open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # the plugin closed it, though it was not its any more
            os.close(descriptor)


def _waited(name: str, since: float) -> ResourceHealth:
    return _cannot_tell(name, f"status of {name} has not answered for {boottime() - since:.1f} s")


def _cannot_tell(name: str, why: str) -> ResourceHealth:
    return ResourceHealth(resource=name, status=None, detail=wire.bounded(why, 500))
