"""Three real nodes of btw beside a real etcd, one package, and the referee."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from btw_core.cli.events import Tail
from btw_core.clock import boottime
from btw_core.containment import find_cgroup_root, home_of
from btw_core.journal import human
from btw_core.pulse import KeeperHalf, ManagerHalf, Pulse, start_of
from btw_core.timing import Timing

from .etcd import Etcd
from .lab import LIMIT, Host, Lab, send, until
from .referee import SERVICE, Referee, Span

PACKAGE = "web"
#: Seconds that starting and being seen may take beyond the bounds of `timing`, on these busy computers.
MARGIN = 2.0
Event = dict[str, Any]


class Node:
    """A host with a btw.toml and a package."""

    def __init__(self, host: Host, cluster: Cluster) -> None:
        self.host = host
        self.name = host.name
        self.directory = host.directory / "btw"
        self._process: subprocess.Popen[bytes] | None = None
        self._tail = Tail(self.directory / "state")
        (self.directory / "packages").mkdir(parents=True)
        (self.directory / "btw.toml").write_text(
            f'cluster = "lab"\nnode = "{self.name}"\nlock = "{cluster.etcd.lock}"\nself_fence = "stop"\n'
        )
        t = cluster.timing
        words = ", ".join(f'"{word}"' for word in (*SERVICE, str(cluster.referee.path)))
        (self.directory / "packages" / f"{PACKAGE}.toml").write_text(
            f"[package]\npace = {t.pace:g}\ntimeout = {t.timeout:g}\n"
            f"start_timeout = {t.start_timeout:g}\nstop_timeout = {t.stop_timeout:g}\n"
            f"{cluster.resources}"
            f'[[resource]]\ntype = "service"\ncommand = [{words}]\n'
        )

    def run(self) -> None:
        """`btw run`, if neither keeper nor manager lives; returns at once."""
        if not self._lives and not self.keeper and not self.manager:
            self._process = self.host.start(*self._command("run", PACKAGE), log=self.host.directory / "output")

    def halt(self) -> None:
        """TERM, until all has ended: a planned stop."""
        send(self.keeper, signal.SIGTERM)
        until(lambda: not self.keeper and not self.manager and not self._lives, f"btw has ended on {self.name}")

    @property
    def _lives(self) -> bool:
        """What was begun last has not ended; its pulse may have."""
        return self._process is not None and self._process.poll() is None

    @property
    def keeper(self) -> int:
        """The pid of what looks after the manager; 0 when there is none."""
        return self._alive(Pulse.keeper)

    @property
    def manager(self) -> int:
        return self._alive(Pulse.manager)

    def _alive(self, half: Callable[[Pulse], KeeperHalf | ManagerHalf | None]) -> int:
        try:
            pulse = Pulse.open(self.directory / "run" / self.name / f"{PACKAGE}.pulse", self.host.boot)
        except (FileNotFoundError, ValueError):  # not yet, or not yet whole
            return 0
        try:
            said = half(pulse)
        finally:
            pulse.close()
        return said.pid if said is not None and said.pid and start_of(said.pid) == said.start else 0

    def btw(self, *words: str) -> str:
        """Any other command, to its end. Raises RuntimeError."""
        return self.host.run(*self._command(*words)).stdout

    def events(self) -> list[Event]:
        """What is new in its journal."""
        return self._tail.read()

    def output(self) -> str:
        try:
            return (self.host.directory / "output").read_text(errors="replace")[-4000:]
        except FileNotFoundError:  # it is not begun, or the laboratory has been cleared away
            return ""

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "btw_core.cli", *words, "--dir", str(self.directory)]


class Cluster:
    """n1, n2 and n3 (10.77.0.21 to 23), running, with the package active on one of them. `resources` (TOML) come before
    the service of the referee.

    At the end no two services were ever active at once, or leaving the context fails.
    """

    def __init__(self, *, timeout: float = 8.0, nodes: int = 3, resources: str = "") -> None:
        self.resources = resources
        self._numbers = range(1, nodes + 1)
        self.timing = Timing(pace=1.0, timeout=timeout, start_timeout=5.0, stop_timeout=2.0)
        self.events: list[Event] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Cluster:
        with contextlib.ExitStack() as stack:
            stack.callback(self._remove_cgroups)
            self.lab = stack.enter_context(Lab())
            self.referee = stack.enter_context(Referee(self.lab.directory / "referee"))
            self.etcd = Etcd(self.lab)
            self.nodes = [Node(self.lab.host(f"n{number}", 20 + number), self) for number in self._numbers]
            self.etcd.start()
            self.etcd.wait_healthy()
            self.nodes[0].btw("init")
            self.heal()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            violations = self.referee.violations
            assert violations == [], self.told()

    # ---- who has it
    def active(self) -> Span:
        """The service that is active, or the next one; everything has to be as it should be."""
        return self.referee.wait_active(PACKAGE, limit=self.bound + LIMIT)

    def node(self, span: Span) -> Node:
        """Where it is."""
        return next(node for node in self.nodes if node.name == span.node)

    def others(self, span: Span) -> list[Node]:
        return [node for node in self.nodes if node.name != span.node]

    @property
    def bound(self) -> float:
        """Seconds from the last committed renewal of a vanished node to the start elsewhere."""
        return self.timing.worst_failover() + MARGIN

    @property
    def calm(self) -> float:
        """Seconds that the whole store may be away without a stop: T - P - r."""
        t = self.timing
        return t.timeout - t.pace - t.renewal_deadline

    def wait_renewals(self, span: Span, count: int = 3) -> None:
        """So many times its node's session was renewed in the store meanwhile, by whatever manager."""
        key = f"btw/sessions/{span.node}/{PACKAGE}"
        seen = [self.etcd.value(key)]

        def enough() -> bool:
            record = self.etcd.value(key)
            if record != seen[-1]:
                seen.append(record)
            return len(seen) > count

        until(enough, f"{count} more renewals of {span.node}", pause=0.2)

    def stays(self, span: Span) -> None:
        """It was not touched: the very same process is active, and no other service has begun since."""
        spans = self.referee.spans(PACKAGE)
        assert spans[-1] is span and span.stop is None, "it moved: " + "; ".join(map(str, spans[-3:]))

    # ---- what happened
    def read(self) -> list[Event]:
        """All events of all nodes so far, in the order of time, each with `clock`: its instant on CLOCK_BOOTTIME."""
        offset = boottime() - time.time()
        for node in self.nodes:
            for event in node.events():
                event["clock"] = datetime.fromisoformat(event["at"]).timestamp() + offset
                self.events.append(event)
        self.events.sort(key=lambda event: float(event["clock"]))
        return self.events

    def told(self) -> str:
        """Everything."""
        lines = [*map(str, self.referee.spans(PACKAGE)), *self.referee.violations]
        lines += [f"{event['clock']:.3f} {human(event)}" for event in self.read()]
        lines += [f"---- {node.name} printed:\n{node.output()}" for node in self.nodes]
        return "\n".join(lines)

    # ---- mending
    def heal(self) -> Span:
        """`mend`, and wait until the package is active and all nodes know."""
        self.mend()
        until(lambda: all(self._follows(node) for node in self.nodes), "all nodes know the state of the package")
        return self.active()

    def mend(self) -> None:
        """Undo every fault and start whatever has ended. Waits for etcd only."""
        for host in self.lab.hosts.values():
            if host is not self.lab.hub:
                self.lab.join(host)
                self.lab.mend_all(host)
                host.resume()
        self.etcd.start()
        self.etcd.wait_healthy()
        for node in self.nodes:
            node.run()

    def _follows(self, node: Node) -> bool:
        said = node.host.run(*node._command("status", PACKAGE, "--json"), check=False)
        return '"running"' in said.stdout or '"stand-by"' in said.stdout

    def _remove_cgroups(self) -> None:
        for node in self.nodes:
            root = find_cgroup_root(home_of(node.name, node.directory / "state" / node.name))
            for directory, _, _ in os.walk(root, topdown=False) if root else ():
                with contextlib.suppress(OSError):  # not empty: something of it survives, and the lab says so
                    Path(directory).rmdir()
