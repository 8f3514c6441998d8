"""A cluster whose package has virtual addresses, a client of them, and the lookout on the bridge."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from btw_core.clock import boottime

from . import caller, lookout
from .cluster import Cluster
from .lab import BRIDGE, ETHERNET, LIMIT, Host, Lab, until
from .referee import Span

V4, V6 = "10.77.0.100", "fd77::100"
VIPS = (V4, V6)
PORT = 7777
RESOURCES = "".join(
    f'[[resource]]\ntype = "vip"\nname = "{name}"\naddress = "{address}"\ninterface = "{ETHERNET}"\n'
    for name, address in (("four", f"{V4}/24"), ("six", f"{V6}/64"))
)


class Held(NamedTuple):
    """From this instant on, until the next of the same address, these hosts answer for it."""

    since: float
    hosts: frozenset[str]


class Lines:
    """A program on a host, and what it has printed so far."""

    def __init__(self, host: Host, program: str, *words: str) -> None:
        self.host = host
        self._file = host.directory / f"{Path(program).stem}.lines"
        self.process = host.start(sys.executable, "-IS", program, *words, log=self._file)

    def read(self) -> list[list[str]]:
        """Whole lines, as words."""
        return [line.split() for line in self._file.read_text().split("\n")[:-1]]

    def end(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT)


class Sight:
    """What the lookout on the bridge and a client have seen of the addresses since the context was entered."""

    def __init__(self, lab: Lab, ips: Sequence[str] = VIPS) -> None:
        self.lab, self.ips = lab, ips
        self._echo: dict[str, Lines] = {}

    def __enter__(self) -> Self:
        self.client = self.lab.host("client", 50)
        self._macs = {self.mac(host): host.name for host in self.lab.hosts.values() if host is not self.lab.hub}
        self._lookout = Lines(self.lab.hub, lookout.__file__, BRIDGE, *self.ips)
        self._caller = Lines(self.client, caller.__file__, str(PORT), *self.ips)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._lookout, self._caller, *self._echo.values()):
            each.end()

    def serve(self, *hosts: Host) -> None:
        """The echo servers of the client's connections, those that have ended with their computers as well."""
        for host in hosts:
            echo = self._echo.get(host.name)
            if echo is None or echo.process.poll() is not None:
                self._echo[host.name] = Lines(host, caller.__file__, str(PORT))

    # ---- who answers
    def history(self, ip: str) -> list[Held]:
        """Up to this moment."""
        now = boottime()
        until(lambda: self._horizon() > now, "the lookout has seen it all")
        found = [words for words in self._lookout.read() if words[:2] == ["holds", ip]]
        return [Held(float(at), frozenset(self._macs[mac] for mac in macs)) for _, _, at, *macs in found]

    def _horizon(self) -> float:
        return max((float(words[1]) for words in self._lookout.read() if words[0] == "until"), default=0.0)

    def answering(self, ip: str) -> frozenset[str]:
        return ([Held(0.0, frozenset()), *self.history(ip)])[-1].hosts

    def two(self, ip: str, since: float = 0.0) -> float:
        """Seconds for which more than one host has answered."""
        times = [*self.history(ip), Held(self._horizon(), frozenset())]
        return sum(
            later.since - max(since, held.since)
            for held, later in pairwise(times)
            if len(held.hosts) > 1 and later.since > since
        )

    def alone(self, name: str) -> None:
        """Wait until this host, and nobody else, answers for all of them, and the client sees it."""
        until(lambda: all(self.answering(ip) == {name} for ip in self.ips), f"{name} has the addresses")
        self.reached(boottime())

    # ---- the client
    def reached(self, since: float) -> None:
        """Wait until it has got answers later than this instant, also from the echo servers if there are any."""
        words = ("alive", "talks") if self._echo else ("alive",)
        until(
            lambda: all(self._heard(word, ip) > since for word in words for ip in self.ips),
            "the client reaches the addresses",
        )

    def _heard(self, word: str, ip: str) -> float:
        return max((float(words[2]) for words in self._caller.read() if words[:2] == [word, ip]), default=0.0)

    def outage(self, ip: str, since: float) -> float:
        """Seconds of its longest gap between two answers since then; up to 0.005 counts as none."""
        gaps = [(float(w[2]), float(w[3])) for w in self._caller.read() if w[:2] == ["gap", ip]]
        return max((end - begin for begin, end in gaps if end > since), default=0.0)

    def ended(self, ip: str, since: float) -> list[str]:
        """Connections that ended since then: their errors."""
        return [" ".join(w[3:]) for w in self._caller.read() if w[:2] == ["ended", ip] and float(w[2]) > since]

    # ---- faults
    def blackout(self, host: Host) -> None:
        """It has lost its power: nothing of it answers, and in another boot nothing is left."""
        self.lab.cut(host)
        host.crash()
        for ip in self.ips:
            host.run("ip", "address", "flush", "to", ip, check=False)

    def replug(self, host: Host, *, missing: bool) -> None:
        """Its interface is up again, another one where the former is `missing`."""
        if missing:
            self.lab.plug(host)
            self._macs[self.mac(host)] = host.name
        else:
            host.run("ip", "link", "set", ETHERNET, "up")
            host.run("ip", "address", "replace", f"{host.v6}/64", "dev", ETHERNET, "nodad")  # it went with the link

    @staticmethod
    def mac(host: Host) -> str:
        return host.run("cat", f"/sys/class/net/{ETHERNET}/address").stdout.strip()

    def told(self) -> str:
        seen = [f"{ip}: {since:.3f} {sorted(hosts)}" for ip in self.ips for since, hosts in self.history(ip)]
        said = [" ".join(words) for words in self._caller.read() if words[0] in ("gap", "ended")]
        return "\n".join((*seen[-60:], *said[-60:]))


class Field(Sight):
    """A cluster that is running, and what is seen of its addresses."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.lab)
        self.cluster = cluster

    def heal(self) -> Span:
        """All is well again."""
        span = self.cluster.heal()
        self.serve(*(node.host for node in self.cluster.nodes))
        self.alone(span.node)
        return span

    def told(self) -> str:
        return "\n".join((self.cluster.told(), super().told()))


@contextlib.contextmanager
def field() -> Iterator[Field]:
    """Two nodes, with one address of each kind. A killed manager has `timeout` to be followed by another, which takes
    many seconds on a busy computer."""
    with Cluster(timeout=20, nodes=2, resources=RESOURCES) as cluster, Field(cluster) as made:
        made.heal()
        yield made
