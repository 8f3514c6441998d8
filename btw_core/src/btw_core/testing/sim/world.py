"""One simulated cluster, from one seed, and its run to a verdict."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable
from random import Random

import msgspec

from ... import lease
from ...cluster import Kind, Rules
from ...lease import ClusterRecord, encode
from ...timing import Timing
from ...types import PackageSpec, ResourceSpec
from .adversary import Adversary
from .clock import LocalClock, Scheduler
from .fencing import Disks
from .judge import Judge, Violation
from .keeper import SimKeeper
from .node import Computer, Life, Node
from .store import SimStore

#: W at least: a keeper has to come round several times in it.
SHORTEST = 1.5


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What is simulated. Everything else comes from the seed."""

    nodes: int = 3
    minutes: float = 10.0
    computers: int = 0  # 0: the seed decides between one for all and one each
    specs: tuple[PackageSpec, ...] = ()  # empty: from the seed
    self_fence: str = ""  # "": from the seed
    kept: bool | None = None  # managers have keepers; None: from the seed
    adversary: Callable[[World], Adversary] = Adversary
    exact_clocks: bool = False
    rules: dict[str, Rules] = {}  # of a cluster of daemons, for each of `specs`; empty: every node has a `btw run`


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `problem` "" = every promise was kept."""

    seed: int
    problem: str
    digest: str  # of the whole trace
    events: int
    starts: int
    stops: int
    takeovers: int
    adoptions: int
    trace: tuple[str, ...] = ()


class World:
    """All that there is; `run` plays it."""

    def __init__(self, seed: int, setting: Setting, *, keep_trace: bool = False) -> None:
        self.seed, self.setting = seed, setting
        self.random = Random(seed)
        self.scheduler = Scheduler()
        self.trace: list[str] = []
        self._keep = keep_trace
        self._hash = hashlib.blake2b(digest_size=16)
        self.notes = 0
        self.calm_since = 0.0  # the last fault ended then; infinite while one lasts
        self.lives: dict[str, Life] = {}
        self.specs = setting.specs or _packages(self.random)
        level = Random(f"{seed} self_fence")  # of its own, so that what the other seeds do stays as it was
        kept = level.random() < 0.6
        self.kept = kept if setting.kept is None else setting.kept
        levels = ("none", "stop", "reboot", "watchdog", "watchdog") if self.kept else ("none", "none", "stop")
        self.self_fence = setting.self_fence or level.choice(levels)
        self.window = 0.0
        timings = [spec.timing for spec in self.specs]
        widest = min(t.timeout + t.stop_timeout - t.pace - t.renewal_deadline for t in timings) / 2
        if self.self_fence == "watchdog" and widest < SHORTEST:
            self.self_fence = "reboot"
        if self.self_fence == "watchdog":
            self.window = round(level.uniform(SHORTEST, widest), 2)
            self.specs = tuple(_with_watchdog(spec, self.window) for spec in self.specs)
        if self.self_fence in ("reboot", "watchdog") and level.random() < 0.4:
            self.specs = tuple(msgspec.structs.replace(spec, on_stop_failure="fence") for spec in self.specs)
        if not setting.specs:
            shared = Random(f"{seed} disk")
            self.specs = tuple(_on_a_disk(spec, shared) for spec in self.specs)
        self._specs = {spec.name: spec for spec in self.specs}
        #: Packages that are up on several nodes, and meant to be.
        self.several = {name for name, rule in setting.rules.items() if rule.type is Kind.MULTI_NODE}
        self.disks = Disks(self._specs)
        self.judge = Judge(self)
        self.store = SimStore(self.judge.committed)
        self.nodes: dict[str, Node] = {}
        self.computers: list[Computer] = []
        count = setting.computers or self.random.choice([1, setting.nodes])
        for n in range(count):
            rate = 1.0 if setting.exact_clocks else 1 + self.random.uniform(-0.01, 0.01)
            clock = LocalClock(self.scheduler, rate, 0.0 if setting.exact_clocks else self.random.uniform(0, 1e5))
            self.computers.append(Computer(self, f"machine{n + 1}", clock))
        for n in range(setting.nodes):
            name = f"node{n + 1}"
            self.nodes[name] = Node(self, name, self.computers[n % count])
            if self.kept:
                self.nodes[name].keeper = SimKeeper(self.nodes[name])
        self.creates = count == 1
        self.adversary = setting.adversary(self)

    def spec(self, package: str) -> PackageSpec:
        return self._specs[package]

    def note(self, text: str) -> None:
        """One line of the trace."""
        line = f"{self.scheduler.now:10.4f}  {text}"
        self.notes += 1
        self._hash.update(line.encode())
        if self._keep:
            self.trace.append(line)

    def run(self) -> Verdict:
        """Never raises: a promise broken, or any exception of the manager, is the problem."""
        problem = ""
        try:
            self._begin()
            self.scheduler.run(60 * self.setting.minutes)
            self.judge.always_one()
        except Violation as violation:
            problem = f"at {self.scheduler.now:.3f} s: {violation}"
        except Exception:  # noqa: BLE001 - whatever the manager raises is a finding
            problem = f"at {self.scheduler.now:.3f} s: {traceback.format_exc()}"
        if problem:
            self.note(problem)
        return Verdict(
            seed=self.seed,
            problem=problem,
            digest=self._hash.hexdigest(),
            events=self.notes,
            starts=self.judge.starts,
            stops=self.judge.stops,
            takeovers=self.judge.takeovers,
            adoptions=self.judge.adoptions,
            trace=tuple(self.trace),
        )

    def _begin(self) -> None:
        for spec in self.specs:
            self.note(f"{spec.name}: {len(spec.resources)} resources, {spec.timing}")
        if not self.creates:
            self.store.put(lease.CLUSTER_KEY, encode(ClusterRecord(id="sim", name="sim")), None)
            for spec in (each for each in self.specs if each.name not in self.several):
                self.store.put(lease.PACKAGES + spec.name, encode(lease.first(spec.timing.lease, "init")), None)
        for node in self.nodes.values():
            self.scheduler.after(3 * self.random.random(), node.begin)
        self.adversary.begin()


def _packages(random: Random) -> tuple[PackageSpec, ...]:
    return tuple(_package(random, f"p{n + 1}") for n in range(random.randint(1, 2)))


def _package(random: Random, name: str) -> PackageSpec:
    pace = random.uniform(1, 4)
    timing = Timing(
        pace=round(pace, 2),
        timeout=round(pace * random.uniform(1.5, 5), 2),
        start_timeout=round(random.uniform(2, 12), 2),
        stop_timeout=round(random.uniform(1, 12), 2),
    )
    resources = tuple(
        ResourceSpec(
            name=f"r{n + 1}",
            type="sim",
            heals=random.random() < 0.3,
            stop_timeout=round(random.uniform(1, 6), 2) if random.random() < 0.3 else None,
        )
        for n in range(random.randint(1, 3))
    )
    return PackageSpec(name=name, timing=timing, resources=resources)


def _on_a_disk(spec: PackageSpec, random: Random) -> PackageSpec:
    """Some packages are on a disk whose reservation is their first resource; some of these have an address as well."""
    if len(spec.resources) == 1 or random.random() < 0.6:
        return spec
    layers = ["fencing", *["storage"] * (len(spec.resources) - 1)]
    if random.random() < 0.4:
        layers[-1] = "network"
    replace = msgspec.structs.replace
    resources = tuple(
        replace(resource, layer=layer, shared=True, fences=layer == "fencing")
        for resource, layer in zip(spec.resources, layers, strict=True)
    )
    return replace(spec, resources=resources)


def _with_watchdog(spec: PackageSpec, window: float) -> PackageSpec:
    return msgspec.structs.replace(spec, timing=msgspec.structs.replace(spec.timing, watchdog=window))
