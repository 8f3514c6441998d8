"""The observer's eye on all mounts and block devices: one thread for every `fs` together.

It sleeps in poll(2) on mountinfo (POLLPRI) and on the events of udev and the kernel, and makes the watch descriptors of
those concerned readable. What others mount and unmount elsewhere wakes nobody but this thread, ten times a second at
most.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import NamedTuple

from btw_core.clock import boottime

from .devices import Events
from .kernel import Reader, sysfs
from .mountinfo import Number, Table

Key = tuple[str, str]  # package, resource
#: Seconds for which a reading serves others too, unless mounts change: the read-only mark changes without an event.
FRESH = 0.2
#: Seconds between two readings because of events.
REST = 0.1


class _Watch(NamedTuple):
    directory: str
    numbers: frozenset[Number]
    seen: object  # what was at the directory when the watch began
    descriptor: int  # the writing end of a pipe; the observer owns the reading end, and closes it


class Monitor:
    """One per process. Without watches (in operations, in the first look) there is no thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reader = Reader()
        self._table: Table | None = None
        self._read_at = 0.0
        self._watches: dict[Key, _Watch] = {}
        self._thread: threading.Thread | None = None
        self.reads = 0

    def table(self, *, fresh: bool = False) -> Table:
        """The mounts now; as they were FRESH ago, but for the read-only mark, unless `fresh`. Raises OSError."""
        with self._lock:
            now = boottime()
            if self._table is None or self._reader.changed() or fresh or now - self._read_at > FRESH:
                self._table = None  # should the reading fail: the change that it began with is known no more
                self._table, self._read_at = self._reader.read(), now
                self.reads += 1
            return self._table

    # ---- watches
    def watch(self, key: Key, directory: str, numbers: frozenset[Number]) -> int:
        """A descriptor, the caller's, that becomes readable when another mount is at the directory, or a device with
        one of these numbers has an event. Raises OSError."""
        seen = self.table(fresh=True).at(directory)
        with self._lock:
            before = self._watches.pop(key, None)
            if before is not None:
                os.close(before.descriptor)
            reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._watches[key] = _Watch(directory, numbers, seen, writing)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, daemon=True)
                self._thread.start()
        return reading

    def watched(self, key: Key) -> bool:
        """The observer watches this resource now: the manager counts its package as running."""
        with self._lock:
            watch = self._watches.get(key)
            return watch is not None and _open(watch.descriptor)

    def _serve(self) -> None:
        with contextlib.closing(Events()) as events, contextlib.closing(Reader()) as reader:
            while True:
                poll = select.poll()
                poll.register(reader.fileno(), select.POLLPRI)
                for descriptor in events.filenos():
                    poll.register(descriptor, select.POLLIN)
                poll.poll()
                with contextlib.suppress(OSError):  # never still: the next reading tells
                    self._compare(reader.read(), events.drain())
                time.sleep(REST)

    def _compare(self, table: Table, devices: set[Number]) -> None:
        with self._lock:
            for key, watch in list(self._watches.items()):
                if not _open(watch.descriptor):
                    os.close(watch.descriptor)
                    del self._watches[key]
                elif table.at(watch.directory) != watch.seen or devices & watch.numbers:
                    with contextlib.suppress(BrokenPipeError, BlockingIOError):
                        os.write(watch.descriptor, b".")


def present(number: Number) -> bool:
    """The block device is there; true for anonymous numbers."""
    return number[0] == 0 or sysfs(number).exists()


def _open(descriptor: int) -> bool:
    """The other end of the pipe is."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return not any(event & select.POLLERR for _, event in poll.poll(0))
