"""Records on a file system, each acknowledged to a client outside once it is on the disk.

    records.py write FILE ADDRESS PORT [GO]   in a machine: appends records for as long as it runs, flushes each
                                              (fsync), then says to the client that it is written; waits for a file GO
    records.py read FILE                      prints what is there

The client runs on the host. A record has the life of its writer, its number (1, 2... in each life) and a checksum.
Standard library only: it runs in machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

PORT = 7001
SIZE = 96
#: Seconds between two records.
EVERY = 0.01
_SUM = 8


def record(life: str, number: int) -> bytes:
    text = f"{life} {number}".ljust(SIZE - 2 * _SUM - 2)
    return f"{text} {blake2b(text.encode(), digest_size=_SUM).hexdigest()}\n".encode()


def whole(data: bytes) -> tuple[str, int] | None:
    """Life and number of a record, None for anything else."""
    with contextlib.suppress(ValueError):  # no number, or no text
        life, number, _ = data.decode().split()
        if data == record(life, int(number)):
            return life, int(number)
    return None


def described(data: bytes) -> dict[str, object]:
    """The records by their lives, as [first, last] of what is without a gap, and the places that hold none."""
    lives: dict[str, list[list[int]]] = {}
    broken = []
    for place in range(len(data) // SIZE):
        found = whole(data[place * SIZE : (place + 1) * SIZE])
        if found is None:
            broken.append(place)
            continue
        spans = lives.setdefault(found[0], [])
        if spans and spans[-1][1] + 1 == found[1]:
            spans[-1][1] += 1
        else:
            spans.append([found[1], found[1]])
    return {"lives": lives, "broken": broken}


def write(file: Path, address: str, port: int, go: Path | None = None) -> None:
    """Goes on behind the last whole record: one that a crash has cut short was never acknowledged."""
    while go is not None and not go.exists():
        time.sleep(EVERY)
    life = f"{socket.gethostname()}/{os.environ['BTW_TERM']}/{os.urandom(3).hex()}"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    end = os.fstat(descriptor).st_size // SIZE
    while end and whole(os.pread(descriptor, SIZE, (end - 1) * SIZE)) is None:
        end -= 1
    os.ftruncate(descriptor, end * SIZE)
    os.lseek(descriptor, 0, os.SEEK_END)
    directory = os.open(file.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        number = 0
        while True:
            number += 1
            os.write(descriptor, record(life, number))
            os.fsync(descriptor)
            with contextlib.suppress(OSError):  # nobody listens: then it is not acknowledged
                client.send(f"{life} {number}".encode())
            time.sleep(EVERY)


@dataclass
class Acknowledged:
    """Of one life of a writer. Instants by the host's CLOCK_BOOTTIME, when it was heard."""

    first: float
    last: float = 0.0
    numbers: set[int] = field(default_factory=set)


class Client:
    """Listens on a UDP socket, which it closes in the end. A thread; all methods may be called from any."""

    def __init__(self, listening: socket.socket) -> None:
        self._socket = listening
        self._socket.settimeout(0.5)
        self._lives: dict[str, Acknowledged] = {}
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._listen, daemon=True, name="client")
        self._thread.start()

    def acknowledged(self) -> dict[str, set[int]]:
        """Numbers by life, so far."""
        with self._news:
            return {life: set(heard.numbers) for life, heard in self._lives.items()}

    def last(self, node: str) -> float:
        """When a record of that node was acknowledged last."""
        with self._news:
            return max(heard.last for life, heard in self._lives.items() if life.startswith(f"{node}/"))

    def wait(self, node: str, *, new: Iterable[str] = (), count: int = 1, timeout: float = 60) -> tuple[str, float]:
        """A life at that node, none of those, that has acknowledged `count` records, and when it began to. TimeoutError
        when there is none."""
        known = set(new)
        found: list[tuple[str, float]] = []

        def look() -> bool:
            found[:] = [
                (life, heard.first)
                for life, heard in self._lives.items()
                if life not in known and life.startswith(f"{node}/") and len(heard.numbers) >= count
            ]
            return bool(found)

        with self._news:
            if not self._news.wait_for(look, timeout):
                raise TimeoutError(f"{node} has not acknowledged {count} new records within {timeout:g} s")
        return found[-1]

    def forget(self) -> None:
        """The disk is made anew."""
        with self._news:
            self._lives.clear()

    def close(self) -> None:
        self._ended = True
        self._thread.join(10)
        self._socket.close()

    def _listen(self) -> None:
        while not self._ended:
            try:
                life, number = self._socket.recv(1024).decode().split()
            except TimeoutError:
                continue
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            with self._news:
                heard = self._lives.setdefault(life, Acknowledged(now))
                heard.last = now
                heard.numbers.add(int(number))
                self._news.notify_all()


def missing(acknowledged: dict[str, set[int]], lives: dict[str, list[list[int]]]) -> dict[str, list[int]]:
    """What was acknowledged and is not there, by life; empty when all is."""
    lost = {}
    for life, numbers in acknowledged.items():
        there = {number for first, last in lives.get(life, []) for number in range(first, last + 1)}
        if gone := sorted(numbers - there):
            lost[life] = gone
    return lost


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *map(Path, sys.argv[5:]))
    else:
        print(json.dumps(described(Path(sys.argv[2]).read_bytes())))
