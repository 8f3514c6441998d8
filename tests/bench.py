"""What btw costs, as ratios against a baseline measured in the same run: `nox -s bench`. Takes about six minutes.

Command line: time of `btw --help` and `btw status` against `python -c "import asyncio"`, and what `btw --help` imports.
Running: processor time and memory of one `btw run` with 1, 30 and 150 packages of six `flag` resources, against a POSIX
shell per package that makes the same six checks and sleeps for the pace, as back-to-work did.
On etcd: 150 packages with the lock on three members against the embedded lock, and how long the lock's requests take
against a bare write. Needs root and etcd; left out, with a word about it, where they are missing.
A cluster: placement of 300 packages on 32 nodes, `btw status` of 300 on 16 (bench_cluster.py); 150 under a daemon.
Exit code 1 when an aim is missed. docs/benchmarks.md has figures and says what they mean.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench_cluster import placing, wide
from bench_etcd import etcd_lab, table

from btw_core.store_guard import Guard, default_runtime

BTW = str(Path(sysconfig.get_path("scripts"), "btw"))
NODE = "bench"
RESOURCES = 6
#: The aims: times `import asyncio`, MB of proportional memory, modules that `btw --help` must not import.
HELP_AIM, MEMORY_AIM = 3.2, 70.0
NOT_FOR_HELP = ("stevedore", "msgspec", "sqlite3")
#: Of 150 packages under a daemon at pace 4 s: share of a core, MB.
SHARE_AIM, DAEMON_MEMORY_AIM = 0.05, 150.0
#: Seconds until all packages must run, and until a halted `btw run` must have ended.
STARTING, ENDING = 120.0, 60.0
MB = 1e6
#: Bytecode is written and used, as it is for everybody else.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("PYTHONDONTWRITEBYTECODE", "BTW_DIR")}


class Cost(NamedTuple):
    """Of a family of processes in steady state."""

    check: float  # seconds of processor time for one check of one package
    share: float  # of one core
    memory: float  # bytes, PSS


# ---- processes ------------------------------------------------------------------------------------------------------
def stat(pid: int) -> list[str] | None:
    """Fields 3 and following of /proc/PID/stat (proc_pid_stat(5)); None when it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def family(*roots: int) -> set[int]:
    """`roots` and all their descendants."""
    children: dict[int, list[int]] = {}
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        if (fields := stat(pid)) and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        found.add(pid)
        todo += children.get(pid, [])
    return found


def used(pids: set[int]) -> float:
    """Seconds of processor time of these processes and of their children that were waited for."""
    total = 0.0
    for pid in pids:
        # the clock that clock_getcpuclockid(3) gives: nanoseconds of all threads, where /proc/PID/stat has 10 ms
        total += time.clock_gettime(~pid << 3 | 2)
        fields = stat(pid)
        if fields is None:
            raise RuntimeError(f"pid {pid} ended while it was measured")
        total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return total


def memory(pid: int) -> int:
    """Bytes of PSS: pages that several processes share count in equal parts."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # a `sleep` of a shell has ended
    match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def title(pid: int) -> str:
    """What it is in a family of btw."""
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    keeps = b"btw_core.keeper" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return name if name.startswith("btw-") else "keeper" if keeps else "manager"


def end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Halt it; kill it with its descendants when that takes too long."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        print(f"pid {process.pid} did not end within {patience:g} s and is killed", file=sys.stderr)
        for pid in family(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


# ---- btw ------------------------------------------------------------------------------------------------------------
class Run(NamedTuple):
    """A `btw run` whose packages are all running."""

    process: subprocess.Popen[bytes]
    directory: Path
    seconds: float  # that starting took

    @property
    def journal(self) -> Path:
        return self.directory / "state" / NODE / "journal.jsonl"


def flags(directory: Path, package: str) -> list[Path]:
    return [directory / "flags" / f"{package}-{number}" for number in range(RESOURCES)]


def as_it_is(*words: str) -> list[str]:
    return [*words]


@contextmanager
def running(
    directory: Path,
    packages: int,
    pace: float,
    resources: int = RESOURCES,
    lock: str = "",
    where: Callable[..., list[str]] = as_it_is,
    daemon: bool = False,
) -> Iterator[Run]:
    """`btw run`, or a `btw daemon`, of that many packages, in steady state. `where` makes a command line run on another
    host. Raises RuntimeError with what it said."""
    names = [f"p{number:03}" for number in range(packages)]
    for name in ("packages", "flags"):
        (directory / name).mkdir()
    for name in names:
        tables = [f"[package]\npace = {pace:g}\n"]
        tables += [f'[[resource]]\ntype = "flag"\nname = "f{number}"\npath = "{path}"\n'
                   for number, path in enumerate(flags(directory, name)[:resources])]
        (directory / "packages" / f"{name}.toml").write_text("\n".join(tables))
    output = directory / "output"
    options = ["--dir", str(directory), "--node", NODE]
    if lock:
        options += ["--lock", lock]
        subprocess.run(where(BTW, "init", *options), env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    begin = time.monotonic()
    with output.open("wb") as file:
        process = subprocess.Popen(
            where(BTW, *(["daemon"] if daemon else ["run", *names]), *options),
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=ENVIRONMENT,
        )
    try:
        run = Run(process, directory, 0.0)
        while not all_running(run.journal, names):
            if process.poll() is not None or time.monotonic() > begin + STARTING:
                said = output.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"btw run: {packages} packages not running after {STARTING:g} s:\n{said}")
            time.sleep(0.1)
        yield run._replace(seconds=time.monotonic() - begin)
    finally:
        end(process, ENDING)
        # what outlives a manager on purpose: the guard of its lock file, which goes here with the file
        Guard(default_runtime(), (directory / "state" / "local.db").resolve()).file.unlink(missing_ok=True)


def all_running(journal: Path, names: Sequence[str]) -> bool:
    states: dict[str, str] = {}
    if journal.exists():
        for line in journal.read_bytes().split(b"\n")[:-1]:
            event = json.loads(line)
            if "package" in event and "state" in event:
                states[event["package"]] = event["state"]
    return all(states.get(name) == "running" for name in names)


def cost_of_btw(run: Run, packages: int, pace: float, seconds: float) -> Cost:
    time.sleep(min(pace, 2.0))  # what starting has left to do
    pids, before = family(run.process.pid), run.journal.stat().st_size
    first, begin = used(pids), time.monotonic()
    time.sleep(seconds)
    took, spent = time.monotonic() - begin, used(pids) - first
    if run.journal.stat().st_size != before:
        said = run.journal.read_bytes()[before:].decode(errors="replace")
        raise RuntimeError(f"this was no steady state; the journal says\n{said}")
    if family(run.process.pid) != pids:
        raise RuntimeError("this was no steady state: processes came or went")
    return Cost(spent * pace / took / packages, spent / took, sum(map(memory, pids)))


# ---- the shell ------------------------------------------------------------------------------------------------------
def loop(directory: Path, name: str, pace: float) -> str:
    checks = "; ".join(f"[ -f '{path}' ] || exit 1" for path in flags(directory, name))
    return f"while :; do {checks}; sleep {pace:g}; done"


def processor_time(process: subprocess.Popen[bytes]) -> float:
    """Wait for its end. Seconds of it and of the children that it has waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def cost_of_shell(directory: Path, packages: int, pace: float, seconds: float) -> Cost:
    """Each shell makes whole rounds; the time that any shell needs to begin and end is taken off. The last `sleep`,
    which it does not live to wait for, is not counted as a round."""
    (directory / "flags").mkdir()
    names = [f"p{number:03}" for number in range(packages)]
    for name in names:
        for path in flags(directory, name):
            path.touch()
    empty = statistics.median(processor_time(subprocess.Popen(["/bin/sh", "-c", ":"])) for _ in range(9))
    rounds = round(seconds / pace)
    shells = []
    try:
        begin = time.monotonic()
        for name in names:
            shells.append(subprocess.Popen(["/bin/sh", "-c", loop(directory, name, pace)], start_new_session=True))
        time.sleep(begin + (rounds + 0.5) * pace - time.monotonic())
        resident = sum(map(memory, family(*(shell.pid for shell in shells))))
    finally:
        for shell in shells:
            os.killpg(shell.pid, signal.SIGTERM)  # with its `sleep`; not yet waited for, so the number is still its own
        spent = sum(processor_time(shell) for shell in shells)
    if any(shell.returncode != -signal.SIGTERM for shell in shells):
        raise RuntimeError("a shell has ended by itself: a flag was not there")
    check = (spent - packages * empty) / packages / rounds
    return Cost(check, check * packages / pace, resident)


# ---- the command line -----------------------------------------------------------------------------------------------
def timed(command: Sequence[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=ENVIRONMENT, check=True)
    return time.perf_counter() - begin


def medians(commands: Sequence[Sequence[str]], runs: int) -> list[float]:
    """Seconds of each; they take turns, so that whatever else the computer does hits all of them."""
    for command in commands:
        timed(command)  # writes bytecode, fills caches
    rounds = [[timed(command) for command in commands] for _ in range(runs)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def imports(command: Sequence[str]) -> set[str]:
    """Modules that it imports, as `python -X importtime` reports them."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    return set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", done.stderr, re.MULTILINE))


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def command_line(run: Run, runs: int) -> bool:
    base = [sys.executable, "-c", "import asyncio"]
    status = [BTW, "status", "--dir", str(run.directory)]
    bare, helping, asking = medians([base, [BTW, "--help"], status], runs)
    loaded = imports([BTW, "--help"])
    bad = [name for name in NOT_FOR_HELP if name in loaded]
    ratio = helping / bare
    print(f"\nCommand line, median of {runs} interleaved runs")
    print(f'  python -c "import asyncio"   {bare * 1000:6.1f} ms')
    print(f"  btw --help                   {helping * 1000:6.1f} ms   {ratio:.2f} times"
          f"   (aim: below {HELP_AIM:g}: {verdict(ratio < HELP_AIM)})")
    print(f"  btw status                   {asking * 1000:6.1f} ms   {asking / bare:.2f} times   (one package running)")
    print(f"  btw --help imports {len(loaded)} modules, of {', '.join(NOT_FOR_HELP)}: {', '.join(bad) or 'none'}"
          f"   (aim: none: {verdict(not bad)})", flush=True)
    return ratio < HELP_AIM and not bad


def one_flag(run: Run) -> bool:
    sizes = {pid: memory(pid) for pid in sorted(family(run.process.pid))}
    total = sum(sizes.values())
    print("\nProportional memory (PSS) of one package with one flag")
    for pid, size in sizes.items():
        print(f"  {title(pid):12} {size / MB:6.1f} MB")
    print(f"  {'together':12} {total / MB:6.1f} MB   (aim: {MEMORY_AIM:g} MB: {verdict(total <= MEMORY_AIM * MB)})",
          flush=True)
    return total <= MEMORY_AIM * MB


HEAD = f"""
Steady state, packages of {RESOURCES} flags. CPU: of one core. A check: one package once, {RESOURCES} flags. PSS: MB
                  |         btw run              |     one sh per package       |  btw : sh
 packages   pace  |   CPU %  ms/check       PSS  |   CPU %  ms/check       PSS  |  CPU    PSS  | all running after"""


def row(packages: int, pace: float, ours: Cost, theirs: Cost, seconds: float) -> str:
    sides = [f"{c.share * 100:8.2f}{c.check * 1000:10.2f}{c.memory / MB:10.1f}" for c in (ours, theirs)]
    ratios = f"{ours.check / theirs.check:6.2f}{ours.memory / theirs.memory:7.2f}"
    return f"{packages:9}{pace:5g} s  |{sides[0]}  |{sides[1]}  |{ratios}  |{seconds:7.1f} s"


def steady(packages: int, pace: float, seconds: float) -> str:
    with tempfile.TemporaryDirectory(prefix="btw-bench-") as place:
        theirs = cost_of_shell(Path(place), packages, pace, seconds)
    with tempfile.TemporaryDirectory(prefix="btw-bench-") as place, running(Path(place), packages, pace) as run:
        return row(packages, pace, cost_of_btw(run, packages, pace, seconds), theirs, run.seconds)


def many_with_rules(packages: int, pace: float, seconds: float) -> bool:
    """A daemon beside a `btw run` of the same packages."""
    costs = []
    for daemon in (False, True):
        with tempfile.TemporaryDirectory(prefix="btw-bench-") as place, running(
            Path(place), packages, pace, daemon=daemon
        ) as run:
            costs.append(cost_of_btw(run, packages, pace, seconds))
    met = costs[1].share <= SHARE_AIM and costs[1].memory <= DAEMON_MEMORY_AIM * MB
    print(f"\n{packages} packages of {RESOURCES} flags at pace {pace:g} s")
    for words, cost in zip(("btw run", "btw daemon"), costs, strict=True):
        print(f"  {words:12} {cost.share * 100:5.2f} % of a core   {cost.memory / MB:6.1f} MB PSS")
    aims = f"{SHARE_AIM:.0%} of a core, {DAEMON_MEMORY_AIM:g} MB"
    print(f"  (aim for the daemon: {aims}: {verdict(met)})", flush=True)
    return met


# ---- the lock on etcd -----------------------------------------------------------------------------------------------
def on_etcd(packages: int, pace: float, seconds: float, requests: int) -> None:
    with tempfile.TemporaryDirectory(prefix="btw-bench-") as place, running(Path(place), packages, pace) as run:
        embedded = shares(run, packages, pace, seconds)
    with etcd_lab() as (lock, members, where):
        words = where(sys.executable, str(Path(__file__).with_name("bench_etcd.py")), lock, str(requests))
        done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}:\n{done.stderr}")
        print(f"\nThe lock's requests on three members of etcd on this computer, {requests} of each")
        print(table(json.loads(done.stdout)), flush=True)
        with (
            tempfile.TemporaryDirectory(prefix="btw-bench-") as place,
            running(Path(place), packages, pace, lock=lock, where=where) as run,
        ):
            before = used(set(members))
            begin = time.monotonic()
            distributed = shares(run, packages, pace, seconds)
            serving = (used(set(members)) - before) / (time.monotonic() - begin)
    print(f"\nSteady state, {packages} packages of {RESOURCES} flags, pace {pace:g} s: CPU in % of one core")
    print("              embedded lock       etcd   ratio")
    for name in ("manager", "all of btw"):
        one, other = embedded[name], distributed[name]
        print(f"  {name:12}{one * 100:12.2f} %{other * 100:10.2f} %{other / one:8.2f}")
    print(f"  the three members of etcd{serving * 100:9.2f} %", flush=True)


def shares(run: Run, packages: int, pace: float, seconds: float) -> dict[str, float]:
    """Processor time of the manager alone, and of all its processes, as shares of one core."""
    manager = {pid for pid in family(run.process.pid) if title(pid) == "manager"}
    first, begin = used(manager), time.monotonic()
    cost = cost_of_btw(run, packages, pace, seconds)
    return {"manager": (used(manager) - first) / (time.monotonic() - begin), "all of btw": cost.share}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=21, help="of each command (21)")
    parser.add_argument("--seconds", type=float, default=24.0, help="of each steady state (24)")
    parser.add_argument("--packages", type=int, nargs="*", default=[1, 30, 150], help="(1 30 150)")
    parser.add_argument("--paces", type=float, nargs="*", default=[1.0, 4.0], help="seconds (1 4)")
    parser.add_argument("--etcd", type=int, nargs=2, default=[150, 1000], help="packages, requests (150 1000)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is ended
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, Linux {os.uname().release}, load of others:",
          f"{os.getloadavg()[0]:.2f}, sh: {os.path.realpath('/bin/sh')}")
    with tempfile.TemporaryDirectory(prefix="btw-bench-") as place, running(Path(place), 1, 4.0, 1) as run:
        time.sleep(2.0)
        met = [one_flag(run), command_line(run, given.runs)]
    met += [placing(), wide(given.runs), many_with_rules(150, 4.0, given.seconds)]
    print(HEAD)
    for packages in given.packages:
        for pace in given.paces:
            print(steady(packages, pace, given.seconds), flush=True)
    if os.geteuid() == 0 and shutil.which("etcd") and shutil.which("etcdctl"):
        on_etcd(given.etcd[0], 4.0, given.seconds, given.etcd[1])
    else:
        print("\nThe lock on etcd was not measured: needs root, and etcd-server and etcd-client of Debian")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
