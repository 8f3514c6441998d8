"""Holds the namespaces of one host of the lab, and ends everything in them when its standard input ends.

Run by file as `unshare --net --mount python -IS holder.py`. Standard input is a pipe from the tests: it ends when the
host is given up, and also when the tests were killed, so nothing of the lab outlives them. Exit code 0: all is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

#: Seconds that what was killed may take to vanish.
PATIENCE = 20.0


def network(pid: int | str) -> int | None:
    """Names the network namespace of a process (namespaces(7)); None when it is gone, a zombie included, and when root
    may not look at it: then it has more privileges than the lab, and is none of its processes."""
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def members(namespace: int) -> list[int]:
    """Every live process in that network namespace."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if network(pid) == namespace]


def end_all(namespace: int, *, but: int = 0) -> list[int]:
    """SIGKILL to all in the namespace, again until none is left; blocks at most PATIENCE. Returns who is left."""
    end = time.monotonic() + PATIENCE
    while left := [pid for pid in members(namespace) if pid != but]:
        if time.monotonic() > end:
            return left
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.005)
    return []


def main() -> int:
    namespace = network("self")
    assert namespace is not None
    if namespace == network(os.getppid()):
        print("this is the network namespace of the tests: everything in it would be killed", file=sys.stderr)
        return 1
    print("ready", flush=True)
    while sys.stdin.buffer.read(4096):
        pass
    left = end_all(namespace, but=os.getpid())
    if left:
        print(f"survive SIGKILL: {left}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
