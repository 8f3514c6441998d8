"""Costs of `fs` against mount(8), umount(8), findmnt(8) and the OCF agent Filesystem (Debian: resource-agents) in the
same run: `python plugins/btw_fs/tests/bench_fs.py`. Needs root; all of it in mount and pid namespaces of its own.

Medians, in milliseconds. btw's operations run in forks of a process that is prepared as the zygote is.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fs_place import Host, disk, inside, mount

from btw_core.testing import FakeContext
from btw_fs import doing, looking, stopping  # noqa: F401 - as in the zygote
from btw_fs.monitor import FRESH

ROUNDS, DISKS, MOUNTS = 5, 10, 30
AGENT = Path("/usr/lib/ocf/resource.d/heartbeat/Filesystem")


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begun)


def command(*words: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise RuntimeError(f"{words}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def forked(operation: Callable[[], object]) -> int:
    """Its pid, when it has ended well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            operation()
            code = 0
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError("it failed")
    return pid


def agent(action: str, device: str, directory: Path, fstype: str) -> str:
    own = {"device": device, "directory": str(directory), "fstype": fstype}
    environment = {f"OCF_RESKEY_{name}": value for name, value in own.items()}
    environment |= {"OCF_ROOT": "/usr/lib/ocf", "OCF_RESOURCE_INSTANCE": "bench"}
    environment["OCF_RESKEY_CRM_meta_timeout"] = "60000"
    return command(AGENT, action, env=os.environ | environment)


def operations(place: Path, devices: list[str]) -> None:
    """Ten idle ext4, one after the other."""
    directories = [place / f"disk {number}" for number in range(DISKS)]
    for directory in directories:
        directory.mkdir()
    pairs = list(zip(devices, directories, strict=True))
    hosts = [Host(device, directory) for device, directory in pairs]
    checked = [Host(device, directory, fsck="never") for device, directory in pairs]
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "mount(8), umount(8)": (
            lambda: [command("mount", *pair) for pair in pairs],
            lambda: [command("umount", directory) for directory in directories],
        ),
        "btw-fs": (
            lambda: [forked(host.start) for host in hosts],
            lambda: [forked(host.stop) for host in hosts],
        ),
        'btw-fs, fsck = "never"': (
            lambda: [forked(host.start) for host in checked],
            lambda: [forked(host.stop) for host in checked],
        ),
    }
    if AGENT.exists():
        ways["OCF Filesystem"] = (
            lambda: [agent("start", device, directory, "ext4") for device, directory in pairs],
            lambda: [agent("stop", device, directory, "ext4") for device, directory in pairs],
        )
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    for _ in range(ROUNDS):
        for name, (start, stop) in ways.items():
            found[name][0].append(timed(start))
            found[name][1].append(timed(stop))
    report(f"{DISKS} file systems", ("start", "stop"), found)


def status(place: Path) -> None:
    """Thirty mounts. btw's observer keeps one reading of the list; `read again` is with one for each round."""
    hosts = []
    for number in range(MOUNTS):
        directory = place / f"mount {number}"
        directory.mkdir()
        mount(f"m{number}".encode(), directory, b"tmpfs")
        hosts.append(Host(f"m{number}", directory, fstype="tmpfs"))
    contexts: list[Any] = [FakeContext(None) for _ in hosts]

    def look() -> None:
        for host, context in zip(hosts, contexts, strict=True):
            host.fs.status(context)

    def agents() -> None:
        for host in hosts:
            agent("monitor", host.fs.device, Path(host.fs.directory), "tmpfs")

    ways: dict[str, Callable[[], object]] = {
        "mount(8), one list": lambda: command("mount"),
        "findmnt(8), one each": lambda: [command("findmnt", "--mountpoint", host.fs.directory) for host in hosts],
        "btw-fs": look,
    }
    if AGENT.exists():
        ways["OCF Filesystem"] = agents
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            time.sleep(FRESH)
            found[name][0].append(timed(way))
            found[name][1].append(timed(way))
    report(f"status of {MOUNTS} mounts", ("read again", "at once"), found)


def report(what: str, columns: tuple[str, str], found: dict[str, tuple[list[float], list[float]]]) -> None:
    print(f"\n{what:32} {columns[0]:>12} {columns[1]:>12}   ratio")
    base = next(iter(found.values()))
    for name, values in found.items():
        first, second = map(statistics.median, values)
        ratios = f"{first / statistics.median(base[0]):.2f}, {second / statistics.median(base[1]):.2f}"
        print(f"{name:32} {first:12.2f} {second:12.2f}   {ratios}", flush=True)


def main() -> None:
    place = Path(tempfile.mkdtemp(prefix="btw-fs-bench-"))
    with contextlib.ExitStack() as stack:
        devices = [stack.enter_context(disk(place, "ext4")) for _ in range(DISKS)]
        inside(lambda: operations(place, devices))
        inside(lambda: status(place))
    print(f"\nload: {os.getloadavg()[0]:.1f}; {AGENT}: {'there' if AGENT.exists() else 'not installed'}")
    for each in place.iterdir():
        each.rmdir()
    place.rmdir()


if __name__ == "__main__":
    main()
