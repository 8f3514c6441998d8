"""The journal: one JSON line for each event of a node, and the same for people.

All managers of a node append to one file, each line by a single write(2) with O_APPEND. What goes to a terminal or a
pipe goes through a thread of its own: a terminal that was stopped with Ctrl-S must not stop the manager.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

#: Bytes of journal.jsonl after which it becomes journal.jsonl.1.
LARGEST = 10 * 1024 * 1024
#: Lines that are kept while they cannot be written.
KEPT = 1000
#: Seconds that `close` waits for the terminal.
PATIENCE = 1.0

Event = dict[str, Any]


class FileJournal:
    """`ports.Journal` in `path`. `listeners` get each event as well, in the writer's thread; they must not raise."""

    def __init__(self, path: Path, node: str, *, screen: TextIO | None = None, largest: int = LARGEST) -> None:
        self.node = node
        self.listeners: list[Callable[[Event], None]] = []
        self._file = _LineFile(path, largest)
        self._screen = None if screen is None else _Screen(screen)

    def write(
        self, event: str, *, package: str = "", cause: str = "", state: str = "", term: int = 0, **data: Any
    ) -> None:
        """See `ports.Journal`."""
        line: Event = {"at": datetime.now().astimezone().isoformat(timespec="milliseconds"), "node": self.node}
        line |= {"package": package, "event": event, "before": str(data.pop("before", "")), "state": str(state)}
        line |= {"term": term, "cause": cause, "data": data}
        line = {key: value for key, value in line.items() if value not in ("", 0, {})}
        lost = self._file.append(_encode(line))
        if lost:
            self._file.append(_encode(line | {"event": "journal_lost", "cause": f"{lost} lines: the disk was full"}))
        if self._screen is not None:
            self._screen.show(human(line))
        for listener in self.listeners:
            listener(line)

    @property
    def trouble(self) -> str:
        """Why lines cannot be written at the moment."""
        return self._file.trouble

    def close(self) -> None:
        """Blocks at most PATIENCE seconds, for what has not yet been shown."""
        self._file.close()
        if self._screen is not None:
            self._screen.close()


def human(event: Event) -> str:
    """ "12:00:01.123 n1 web stand-by -> unknown: lock acquired: released by n2, term 3"."""
    clock = str(event.get("at", ""))[11:23]
    return f"{clock} {words(event)}"


def words(event: Event) -> str:
    """The same without the time. Control characters of foreign output are made visible."""
    kind, before, state = (str(event.get(key, "")) for key in ("event", "before", "state"))
    data = event.get("data") or {}
    if kind == "transition":
        what = f"{before} -> {state}:" if before != state else f"{state}:"
    elif kind == "output":
        what = f"| {data['resource']}:" if data.get("resource") else "|"
    else:
        what = f"{kind.replace('_', ' ')}:" if event.get("cause") else kind.replace("_", " ")
    parts = (event.get("node"), event.get("package"), what, event.get("cause"))
    return visible(" ".join(str(part) for part in parts if part))


def visible(text: str) -> str:
    """One line that no terminal takes for a command."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def parse(line: bytes) -> Event | None:
    """An event from its line; None for what a full disk or a crash left of one."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _encode(event: Event) -> bytes:
    return (json.dumps(event, default=str, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


class _LineFile:
    """Appends whole lines to a file that others append to and rotate as well."""

    def __init__(self, path: Path, largest: int) -> None:
        self.trouble = ""
        self._path, self._largest = path, largest
        self._descriptor = -1
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._torn = False  # the last line of the file is incomplete: ours, or what a power cut left of a former life

    def append(self, line: bytes) -> int:
        """Write it, or keep it for later. Returns how many lines were lost before, once that can be said."""
        self._waiting.append(line)
        if len(self._waiting) > KEPT:
            self._waiting.popleft()
            self._lost += 1
        try:
            self._renew()
            while self._waiting:
                self._put(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            self.trouble = f"journal {self._path}: {error.strerror}; {len(self._waiting)} lines are kept in memory"
            return 0
        self.trouble = ""
        lost, self._lost = self._lost, 0
        return lost

    def _put(self, line: bytes) -> None:
        data = b"\n" + line if self._torn else line
        written = os.write(self._descriptor, data)
        self._torn = written < len(data) and (self._torn or written > 0)
        if written < len(data):
            raise OSError(errno.ENOSPC, "the disk is full")

    def _renew(self) -> None:
        """Open the file that has the name now; give a large one another name."""
        if self._descriptor >= 0 and not self._same():
            self.close()
        if self._descriptor < 0:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._path, flags, 0o600)
            size = os.fstat(self._descriptor).st_size
            self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
        if os.fstat(self._descriptor).st_size >= self._largest:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another manager is doing it
                return
            if self._same():
                self._path.rename(f"{self._path}.1")
            self.close()
            self._renew()

    def _same(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._torn = -1, False


class _Screen:
    """Shows lines from a thread; drops them, counted, while the other side does not read."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(KEPT)
        self._dropped = 0
        self._thread = threading.Thread(target=self._work, name="screen", daemon=True)
        self._thread.start()

    def show(self, line: str) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(PATIENCE)

    def _work(self) -> None:
        while (line := self._lines.get()) is not None:
            dropped, self._dropped = self._dropped, 0
            text = f"({dropped} lines were not shown)\n{line}" if dropped else line
            try:
                print(text, file=self._stream, flush=True)
            except (OSError, ValueError):  # the terminal is gone; the file has everything
                return
