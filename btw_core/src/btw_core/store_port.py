"""Threads and deadlines around any `Store`: the `StorePort` of a real node.

Engines are foreign code that may hang in a system call for ever. So each call runs in a worker thread, and a
timekeeper answers in its stead when the deadline has passed; a thread that hangs is replaced, up to a bound.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable

from .clock import Clock
from .ports import Report, StoreAnswered, StoreCall, StoreChanged
from .store import Conflict, Store, StoreUnavailable

#: Calls that are made to the store at the same time.
WORKERS = 4


class _Job:
    """A call on its way. `sent` None: not begun; `answered`: nothing more may be delivered for it."""

    __slots__ = ("answered", "call", "due", "hung", "sent")

    def __init__(self, call: StoreCall, due: float) -> None:
        self.call = call
        self.due = due
        self.sent: float | None = None
        self.answered = False
        self.hung = False


class ThreadedStorePort:
    """`ports.StorePort` on daemon threads: WORKERS of them, and up to `spare` more in place of hanging ones.

    `deliver` is called from any thread, `submit` included; it must only hand the report on (call_soon_threadsafe),
    and must not raise. The store stays its owner's, who closes it after `stop`.
    """

    def __init__(self, store: Store, clock: Clock, deliver: Callable[[Report], None], spare: int = 4) -> None:
        self._store = store
        self._clock = clock
        self._deliver = deliver
        self._most = WORKERS + spare
        lock = threading.Lock()  # of everything below; never held over a call to the store or to `deliver`
        self._work = threading.Condition(lock)
        self._time = threading.Condition(lock)
        self._queue: deque[_Job] = deque()
        self._due: list[tuple[float, int, _Job]] = []
        self._count = itertools.count()
        self._threads = 0
        self._idle = 0
        self._hung = 0
        self._trouble = ""
        self._stopped = threading.Event()
        #: Why the watch is down at this moment; "" when it is up or was not asked for.
        self.watch_trouble = ""
        threading.Thread(target=self._keep_time, name="store-timekeeper", daemon=True).start()

    def submit(self, call: StoreCall) -> None:
        """Answered by one StoreAnswered, at the latest `call.deadline` seconds from now. Does not block. After `stop`
        nothing is sent or answered any more."""
        with self._work:
            if self._stopped.is_set():
                return
            now = self._clock.now()
            refused = self._hung >= self._most
            if not refused:
                job = _Job(call, now + call.deadline)
                self._queue.append(job)
                heapq.heappush(self._due, (job.due, next(self._count), job))
                self._hire()
                self._work.notify()
                self._time.notify()
        if refused:
            reason = f"{self._hung} calls have not come back from {self._store.description}"
            self._deliver(StoreAnswered(call=call, sent=now, unavailable=reason))

    def start_watch(self, prefix: str, since: int = 0) -> None:
        """Deliver StoreChanged for changes below `prefix` newer than revision `since`, from a thread, until `stop`."""
        threading.Thread(target=self._watch, args=(prefix, since), name="store-watch", daemon=True).start()

    def stop(self) -> None:
        """End the threads, those in a call when it comes back. Does not block, may be repeated."""
        with self._work:
            self._stopped.set()
            self._queue.clear()
            self._work.notify_all()
            self._time.notify_all()

    # ---- workers ------------------------------------------------------------------------------------------------
    def _hire(self) -> None:
        """Start a thread when there is more to do than idle hands. Under the lock."""
        working = self._threads - self._hung
        if self._idle < len(self._queue) and working < WORKERS and self._threads < self._most:
            try:
                threading.Thread(target=self._serve, name="store-worker", daemon=True).start()
            except RuntimeError as error:  # no more threads: the others serve the queue, or the timekeeper answers
                self._trouble = f" ({error})"
            else:
                self._threads += 1
                self._trouble = ""

    def _serve(self) -> None:
        """One worker: calls from the queue, one at a time."""
        while (job := self._next_job()) is not None:
            answer = self._ask(job)
            with self._work:
                if job.hung:
                    self._hung -= 1
                drop = job.answered or self._stopped.is_set()
                job.answered = True
            if not drop:
                self._deliver(answer)

    def _next_job(self) -> _Job | None:
        """Blocks while there is nothing to do. None: this thread is not needed any more."""
        with self._work:
            while not self._queue:
                if self._stopped.is_set() or self._threads - self._hung > WORKERS:
                    self._threads -= 1
                    return None
                self._idle += 1
                self._work.wait()
                self._idle -= 1
            job = self._queue.popleft()
            job.sent = self._clock.now()
            return job

    def _ask(self, job: _Job) -> StoreAnswered:
        """The call itself; whatever the store raises means that nobody can tell."""
        call, store, sent = job.call, self._store, job.sent
        assert sent is not None  # set by _next_job
        left = job.due - sent
        try:
            if call.value is not None:
                answer = store.put(call.key, call.value, expected=call.expected, deadline=left)
                if isinstance(answer, Conflict):
                    return StoreAnswered(call=call, sent=sent, conflict=True)
                return StoreAnswered(call=call, sent=sent, revision=answer)
            if not call.key or call.key.endswith("/"):
                return StoreAnswered(call=call, sent=sent, records=tuple(store.list(call.key, deadline=left)))
            record = store.get(call.key, deadline=left)
            return StoreAnswered(call=call, sent=sent, records=() if record is None else (record,))
        except BaseException as error:  # noqa: BLE001 - stores are foreign code; a worker must outlive even SystemExit
            return StoreAnswered(call=call, sent=sent, unavailable=_words(error))

    # ---- time ---------------------------------------------------------------------------------------------------
    def _keep_time(self) -> None:
        """Answers for calls whose deadline has passed."""
        while not self._stopped.is_set():
            late: list[StoreAnswered] = []
            with self._time:
                now = self._clock.now()
                while self._due and (self._due[0][2].answered or self._due[0][0] <= now):
                    job = heapq.heappop(self._due)[2]
                    if not job.answered:
                        late.append(self._give_up(job, now))
                if not late and not self._stopped.is_set():
                    # At most a second: the clock goes on during suspend, this wait does not.
                    self._time.wait(min(1.0, self._due[0][0] - now) if self._due else None)
            for answer in late:
                self._deliver(answer)

    def _give_up(self, job: _Job, now: float) -> StoreAnswered:
        """Under the lock. What was not begun never will be; what was begun is hanging from now on."""
        job.answered = True
        limit = f"{job.call.deadline:g} s"
        if job.sent is None:
            self._queue.remove(job)
            reason = f"no thread was free within {limit} to ask {self._store.description}{self._trouble}"
            return StoreAnswered(call=job.call, sent=now, unavailable=reason)
        job.hung = True
        self._hung += 1
        self._hire()
        reason = f"no answer from {self._store.description} within {limit}"
        return StoreAnswered(call=job.call, sent=job.sent, unavailable=reason)

    # ---- watch --------------------------------------------------------------------------------------------------
    def _watch(self, prefix: str, since: int) -> None:
        """One watch after the other, each from the last revision seen."""
        pause = 0.1
        while not self._stopped.is_set():
            try:
                for records in self._store.watch(prefix, since):
                    if self._stopped.is_set():
                        return
                    pause, self.watch_trouble = 0.1, ""
                    if records:
                        since = max(since, *(record.revision for record in records))
                        self._deliver(StoreChanged(records=tuple(records)))
                self.watch_trouble = "the store ended the watch"
            except BaseException as error:  # noqa: BLE001 - foreign code, as above; tried again, and told to who asks
                self.watch_trouble = _words(error)
            self._stopped.wait(pause)
            pause = min(2.0, 2 * pause)


def _words(error: BaseException) -> str:
    """StoreUnavailable speaks for itself; of anything else the type is half the message."""
    text = str(error)
    return text if isinstance(error, StoreUnavailable) and text else f"{type(error).__name__}: {text}"
