"""How long `placement` takes for 32 nodes and 300 packages: part of `nox -s bench`, or by itself in half a minute."""

from __future__ import annotations

import random
import statistics
import time

from btw_core.cluster import ClusterView
from btw_core.placement import placement
from btw_core.rehearsal import befall, rehearse
from btw_core.testing.clusters import random_view

NODES, PACKAGES = 32, 300
#: Milliseconds of processor time.
AIM = 100.0


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


if __name__ == "__main__":
    raise SystemExit(0 if placing() else 1)
