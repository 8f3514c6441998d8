"""Many seeds on several processors; what failed is printed with its trace and the command that replays it."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

from .adversary import Storm
from .council import setting
from .world import Setting, Verdict, World

#: Lines of the trace that are shown of a failure.
SHOWN = 80
#: Seeds after each of which a line says how far it has come.
PROGRESS = 1000


def run_seed(
    seed: int, *, minutes: float = 10.0, nodes: int = 3, daemons: bool = False, keep_trace: bool = False
) -> Verdict:
    """One storm; `daemons`: over a cluster of daemons (council.py), as large as the seed says. Never raises. Blocks for
    some hundredths of a second, or some seconds."""
    if daemons:
        return World(seed, setting(seed), keep_trace=keep_trace).run()
    return World(seed, Setting(minutes=minutes, nodes=nodes, adversary=Storm), keep_trace=keep_trace).run()


def run_seeds(
    seeds: Sequence[int], *, minutes: float = 10.0, nodes: int = 3, daemons: bool = False, jobs: int = 1
) -> Iterator[Verdict]:
    """Their verdicts, in order."""
    one = partial(run_seed, minutes=minutes, nodes=nodes, daemons=daemons)
    if jobs <= 1:
        yield from map(one, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(one, seeds, chunksize=10)


def explain(verdict: Verdict, *, minutes: float = 10.0, nodes: int = 3, daemons: bool = False) -> str:
    """The end of the failing run's trace, what was broken, and the command that shows all of it."""
    again = run_seed(verdict.seed, minutes=minutes, nodes=nodes, daemons=daemons, keep_trace=True)
    what = "--daemons" if daemons else f"--minutes {minutes:g} --nodes {nodes}"
    command = f"python -m btw_core.testing.sim --seed {verdict.seed} {what} --trace"
    lines = [*again.trace[-SHOWN:], f"seed {verdict.seed}: {verdict.problem}", f"replay: {command}"]
    if again.digest != verdict.digest:
        lines.append("NOT THE SAME when run again: something does not come from the seed")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every promise was kept; 1: the first failure is printed."""
    parser = argparse.ArgumentParser(prog="python -m btw_core.testing.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, help="how many, from --seed on (default 100; 1 when only --seed is given)")
    parser.add_argument("--seed", type=int, help="the first; alone: only this one")
    parser.add_argument("--trace", action="store_true", help="print the trace of --seed")
    parser.add_argument("--minutes", type=float, default=10.0, help="simulated minutes of each seed, at most")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--daemons", action="store_true", help="clusters of daemons, with rules and people")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    given = parser.parse_args(arguments)
    what = {"minutes": given.minutes, "nodes": given.nodes, "daemons": given.daemons}
    if given.trace and given.seed is not None:
        verdict = run_seed(given.seed, **what, keep_trace=True)
        print("\n".join(verdict.trace))
        print(f"trace {verdict.digest}")
        return int(bool(verdict.problem))
    first = given.seed or 0
    began, totals = time.monotonic(), dict.fromkeys(("starts", "stops", "takeovers", "adoptions"), 0)
    many = given.seeds or (100 if given.seed is None else 1)
    seeds = range(first, first + many)
    verdicts = run_seeds(seeds, **what, jobs=given.jobs)
    for done, verdict in enumerate(verdicts, 1):
        if verdict.problem:
            print(explain(verdict, **what))
            return 1
        for key in totals:
            totals[key] += getattr(verdict, key)
        if done % PROGRESS == 0:
            text = f"{done} seeds, the last {verdict.seed}, {time.monotonic() - began:.0f} s"
            print(text, file=sys.stderr, flush=True)
    counted = ", ".join(f"{number} {key}" for key, number in totals.items())
    print(f"{len(seeds)} seeds kept every promise: {counted}; {time.monotonic() - began:.1f} s")
    return 0
