"""The part of bench.py about the lock on etcd: three members and btw on hosts of the lab (see netns/lab.py).

As a program (`bench_etcd.py LOCK COUNT`, run on such a host) it times the lock's own requests, and prints what it
measured as JSON.
"""

from __future__ import annotations

import http.client
import json
import queue
import statistics
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from btw_core.identity import incarnation
from btw_core.lease import PackageRecord, SessionRecord, encode
from btw_core.store import Conflict, Record, Store
from btw_core.timing import Timing

#: Seconds for one request.
DEADLINE = 5.0
Figures = dict[str, list[float]]  # name: p50 and p99 in seconds, processor seconds of the client for each


# ---- on a host ------------------------------------------------------------------------------------------------------
def committed(store: Store, key: str, value: bytes, expected: int | None) -> int:
    revision = store.put(key, value, expected=expected, deadline=DEADLINE)
    assert not isinstance(revision, Conflict), f"{key}: nobody else writes here"
    return revision


def figures(count: int, once: Callable[[int], float | None]) -> list[float]:
    """`once` returns how long it took where that is not all of its time."""
    once(0)  # connects
    spent, took = time.process_time(), []
    for number in range(1, count + 1):
        begin = time.perf_counter()
        seconds = once(number)
        took.append(time.perf_counter() - begin if seconds is None else seconds)
    spent = time.process_time() - spent
    cuts = statistics.quantiles(took, n=100)
    return [statistics.median(took), cuts[98], spent / count]


def bare(place: str, count: int) -> list[float]:
    """The baseline: one write through etcd's JSON gateway on a connection that stays open, and nothing else."""
    connection = http.client.HTTPConnection(place, timeout=DEADLINE)
    body = json.dumps({"key": b64encode(b"bench").decode(), "value": b64encode(b"x" * 300).decode()})

    def once(_number: int) -> None:
        connection.request("POST", "/v3/kv/put", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        response.read()

    return figures(count, once)


def handed_over(one: Store, other: Store, key: str, count: int, free: bytes, held: bytes) -> Figures:
    """Release by one, seen by the other's watch, acquired by the other."""
    seen: queue.Queue[Record] = queue.Queue()
    revision = committed(one, key, held, None)
    ended = threading.Event()

    def watch() -> None:
        for records in other.watch("packages/", revision):
            for record in records:
                seen.put(record)
            if ended.is_set():
                return

    thread = threading.Thread(target=watch)
    thread.start()
    parts: dict[str, list[float]] = {"release": [], "acquire": []}

    def once(_number: int) -> None:
        nonlocal revision
        begin = time.perf_counter()
        released = committed(one, key, free, revision)
        parts["release"].append(time.perf_counter() - begin)
        while seen.get(timeout=DEADLINE).revision < released:
            pass
        begin = time.perf_counter()
        revision = committed(other, key, held, released)
        parts["acquire"].append(time.perf_counter() - begin)

    try:
        found = {"release to acquired": figures(count, once)}
    finally:
        ended.set()
        thread.join()
    for name, took in parts.items():
        found[name] = [statistics.median(took), statistics.quantiles(took, n=100)[98], 0.0]
    return found


def measure(lock: str, count: int) -> Figures:
    from btw_lock_etcd.opening import open_store

    rest = lock.removeprefix("etcd:")
    me = incarnation("bench", "bench", Path("/nonexistent"))
    record = PackageRecord(term=1, lease=Timing().lease, holder=me, cause="measured")
    held, free = encode(record), encode(PackageRecord(term=1, lease=Timing().lease, holder=me, released=True))
    found = {"bare write": bare(rest.removeprefix("//").split(",")[0], count)}
    one, other = open_store(rest, {}), open_store(rest, {})
    try:
        revision = committed(one, "sessions/bench/bench", encode(SessionRecord(incarnation=me, seq=0)), None)

        def renewal(number: int) -> None:
            nonlocal revision
            record = SessionRecord(incarnation=me, seq=number)
            revision = committed(one, "sessions/bench/bench", encode(record), revision)

        found["renewal"] = figures(count, renewal)
        found |= handed_over(one, other, "packages/bench", count, free, held)
    finally:
        one.close()
        other.close()
    return found


# ---- for bench.py ---------------------------------------------------------------------------------------------------
@contextmanager
def etcd_lab() -> Iterator[tuple[str, list[int], Callable[..., list[str]]]]:
    """Its lock, the pids of its members, and what makes a command line run where it is. Needs root."""
    from netns.etcd import Etcd
    from netns.lab import Lab

    with Lab() as lab:
        etcd = Etcd(lab)
        etcd.start()
        etcd.wait_healthy()
        host = lab.host("bench", 21)
        yield etcd.lock, [pid for member in etcd.members for pid in member.host.processes()], host.command


def table(found: Figures) -> str:
    base = found["bare write"][0]
    lines = ["                           p50        p99    p50 : bare   CPU of the client"]
    for name, (middle, worst, spent) in found.items():
        cpu = f"{spent * 1000:10.2f} ms" if spent else ""
        lines.append(f"  {name:20}{middle * 1000:7.1f} ms {worst * 1000:7.1f} ms {middle / base:9.2f}   {cpu}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
