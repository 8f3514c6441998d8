"""What size costs: `placement` for 32 nodes and 300 packages, `btw status` for 16 nodes and 300 packages, of which one
node is a real daemon and the others are in the store as daemons would write themselves. Part of `nox -s bench`, or by
itself in a minute."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

from btw_core import lease
from btw_core.cluster import ClusterView, Phase
from btw_core.placement import placement
from btw_core.records import NODES as NODE_RECORDS
from btw_core.records import SLOT, NodeRecord
from btw_core.rehearsal import befall, rehearse
from btw_core.store_guard import Guard, default_runtime
from btw_core.store_local import LocalStore
from btw_core.testing.clusters import random_view
from btw_core.timing import Timing
from btw_core.types import Incarnation

BTW = str(Path(sysconfig.get_path("scripts"), "btw"))
NODES, PACKAGES = 32, 300
#: Milliseconds of processor time.
AIM = 100.0
#: Nodes of the cluster whose status is asked for, and seconds for that.
WIDE, STATUS_AIM = 16, 0.5


def taken(view: ClusterView, runs: int) -> float:
    """Median milliseconds of processor time."""
    times = []
    for _ in range(runs):
        begin = time.process_time()
        placement(view)
        times.append((time.process_time() - begin) * 1000)
    return statistics.median(times)


def placing(runs: int = 11) -> bool:
    """Prints the figures; False when the aim is missed."""
    idle = random_view(random.Random(1), NODES, PACKAGES)
    steady = rehearse(idle).view
    lost = befall(steady, "node n1 lost")
    figures = {"nothing runs yet": idle, "everything runs": steady, "a node is lost": lost}
    found = {words: taken(view, runs) for words, view in figures.items()}
    print(f"\nPlacement of {PACKAGES} packages on {NODES} nodes, median of {runs}, processor time")
    for words, each in found.items():
        print(f"  {words:18} {each:6.1f} ms   (aim: {AIM:g} ms: {'met' if each <= AIM else 'MISSED'})", flush=True)
    return max(found.values()) <= AIM


def wide(runs: int = 11) -> bool:
    """`btw status` and `btw why` on n1. Prints the figures; False when the aim is missed."""
    with tempfile.TemporaryDirectory(prefix="btw-wide-") as place:
        directory = Path(place)
        _packages(directory)
        keeper = subprocess.Popen(
            [BTW, "daemon", "--dir", place, "--node", "n1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _others(directory)
            time.sleep(10.0)  # everything of n1 runs
            status = _median([BTW, "status", "--dir", place, "--node", "n1"], runs)
            why = _median([BTW, "why", "p000", "--dir", place, "--node", "n1"], runs)
            rows = subprocess.run([BTW, "status", "--dir", place], capture_output=True, text=True, check=True).stdout
        finally:
            keeper.send_signal(signal.SIGTERM)
            keeper.send_signal(signal.SIGTERM)
            keeper.wait(60)
            Guard(default_runtime(), (directory / "state" / "local.db").resolve()).file.unlink(missing_ok=True)
    held = len({line.split()[0] for line in rows.splitlines() if " active " in line})
    met = status <= STATUS_AIM and held == PACKAGES
    print(f"\n{PACKAGES} packages on {WIDE} nodes, {held} of them up, median of {runs}")
    print(f"  btw status   {status * 1000:6.0f} ms   (aim: {STATUS_AIM * 1000:g} ms: {'met' if met else 'MISSED'})")
    print(f"  btw why      {why * 1000:6.0f} ms", flush=True)
    return met


def _packages(directory: Path) -> None:
    """Each has a first node of its own."""
    (directory / "packages").mkdir()
    for number in range(PACKAGES):
        name, first = f"p{number:03}", number % WIDE + 1
        nodes = ", ".join(f'"n{(first + k - 1) % WIDE + 1}"' for k in range(3))
        text = f'[package]\nnodes = [{nodes}]\n[[resource]]\ntype = "flag"\npath = "{directory}/{name}.up"\n'
        (directory / "packages" / f"{name}.toml").write_text(text)


def _others(directory: Path) -> None:
    """The other nodes hold what is theirs."""
    path = directory / "state" / "local.db"
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    store = LocalStore(str(path))
    try:
        for node in range(2, WIDE + 1):
            me = Incarnation(node=f"n{node}", machine=f"m{node}", boot="b", nonce=f"x{node}", slot=SLOT)
            session = lease.SessionRecord(incarnation=me, seq=1)
            store.put(lease.session_key(me), lease.encode(session), expected=None, deadline=5.0)
            names = [f"p{number:03}" for number in range(PACKAGES) if number % WIDE + 1 == node]
            record = NodeRecord(
                boot="b", nonce=me.nonce, phases=dict.fromkeys(names, Phase.UP), digests={n: {} for n in names}
            )
            store.put(f"{NODE_RECORDS}n{node}", lease.encode(record), expected=None, deadline=5.0)
            for name in names:
                found = store.get(lease.PACKAGES + name, deadline=5.0)
                held = lease.PackageRecord(term=1, lease=Timing().lease, holder=me)
                expected = found.revision if found else None
                store.put(lease.PACKAGES + name, lease.encode(held), expected=expected, deadline=5.0)
    finally:
        store.close()


def _median(command: list[str], runs: int) -> float:
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=dict(os.environ))
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    raise SystemExit(0 if all([placing(), wide()]) else 1)
