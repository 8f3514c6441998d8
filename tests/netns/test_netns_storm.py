"""Random faults of everything at once: never two, and it runs again when all is mended. `--storm 600 --seed 7`."""

from __future__ import annotations

import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from btw_core.clock import boottime

from .cluster import PACKAGE, Cluster, Node
from .conftest import Measured
from .etcd import Member
from .lab import LIMIT, send

#: Seconds: timeout; between two faults; how long one lasts, beyond T + S + g now and then.
TIMEOUT, PAUSE, LENGTH = 5.0, (0.2, 3.5), (0.3, 11.0)
#: A frozen node does not stop anything, so with self_fence = "stop" it must wake within stop_timeout (docs/safety.md,
#: "node frozen, then resumed"); this leaves some of it for the stop.
FREEZE = (0.1, 1.0)
#: Seconds until the keeper (or the manager) has started another manager (keeper): both gone at once are too much for
#: self_fence = "stop", as docs/safety.md says.
RECOVERY = (6.0, 9.0)
#: Faults of a node's processes: one at a time on each node.
PROCESSES = {
    "crash node": LENGTH,
    "halt node": LENGTH,
    "freeze node": FREEZE,
    "freeze manager": RECOVERY,
    "freeze keeper": RECOVERY,
    "kill manager": RECOVERY,
    "kill keeper": RECOVERY,
}


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    with Cluster(timeout=TIMEOUT) as cluster:
        yield cluster


class Storm:
    """Faults by name; each keeps how it is mended until then, and no target has one fault twice."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self.cluster, self.chance = cluster, chance
        self.count: Counter[str] = Counter()
        self._mends: dict[str, tuple[float, Callable[[], None]]] = {}

    def blow(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            name, target = self._fault()
            key = f"{'processes' if name in PROCESSES else name} {target}"
            if key not in self._mends:
                self.count[name] += 1
                length = self.chance.uniform(*PROCESSES.get(name, LENGTH))
                self._mends[key] = (time.monotonic() + length, getattr(self, name.replace(" ", "_"))(target))
            self._wait(time.monotonic() + self.chance.uniform(*PAUSE))

    def _fault(self) -> tuple[str, int]:
        """A kind, and the number of its target: every other time the active node, or the leader."""
        members = self.chance.choice([True, False])
        if members:
            kind = self.chance.choice(["kill member", "freeze member", "cut member"])
        else:
            kind = self.chance.choice(["part", "cut node", *PROCESSES])
        if kind == "part":
            return kind, self.chance.randrange(9)
        if self.chance.choice([True, False]):
            worthy = self._leader() if members else self._active()
            if worthy is not None:
                return kind, worthy
        return kind, self.chance.randrange(3)

    def _leader(self) -> int | None:
        leader = self.cluster.etcd.leading()
        return self.cluster.etcd.members.index(leader) if leader else None

    def _active(self) -> int | None:
        spans = self.cluster.referee.active(PACKAGE)
        return self.cluster.nodes.index(self.cluster.node(spans[-1])) if spans else None

    def _wait(self, until: float) -> None:
        """Mends what is due meanwhile."""
        while self._mends and (due := min(at for at, _ in self._mends.values())) <= until:
            time.sleep(max(0.0, due - time.monotonic()))
            for key in [key for key, (at, _) in self._mends.items() if at <= due]:
                self._mends.pop(key)[1]()
        time.sleep(max(0.0, until - time.monotonic()))

    def _member(self, number: int) -> Member:
        return self.cluster.etcd.members[number]

    def _node(self, number: int) -> Node:
        return self.cluster.nodes[number]

    # ---- the faults: each begins it and returns what mends it
    def kill_member(self, number: int) -> Callable[[], None]:
        self._member(number).kill()
        return self.cluster.etcd.start

    def freeze_member(self, number: int) -> Callable[[], None]:
        self._member(number).freeze()
        return self._member(number).resume

    def cut_member(self, number: int) -> Callable[[], None]:
        self.cluster.lab.cut(self._member(number).host)
        return lambda: self.cluster.lab.join(self._member(number).host)

    def part(self, number: int) -> Callable[[], None]:
        member, node = self._member(number % 3).host, self._node(number // 3).host
        self.cluster.lab.part(member, node)
        return lambda: self.cluster.lab.mend(member, node)

    def cut_node(self, number: int) -> Callable[[], None]:
        self.cluster.lab.cut(self._node(number).host)
        return lambda: self.cluster.lab.join(self._node(number).host)

    def crash_node(self, number: int) -> Callable[[], None]:
        """As a whole; it comes back in another boot."""
        self._node(number).host.crash()
        return self._node(number).run

    def halt_node(self, number: int) -> Callable[[], None]:
        send(self._node(number).keeper, signal.SIGTERM)
        return self._node(number).run

    def freeze_node(self, number: int) -> Callable[[], None]:
        """All its processes, also the service."""
        self._node(number).host.freeze()
        return self._node(number).host.resume

    def freeze_manager(self, number: int) -> Callable[[], None]:
        """The service goes on."""
        return self._freeze(self._node(number).manager)

    def freeze_keeper(self, number: int) -> Callable[[], None]:
        return self._freeze(self._node(number).keeper)

    @staticmethod
    def _freeze(pid: int) -> Callable[[], None]:
        """Only it: the keeper is the manager's parent, or the other way round."""
        send(pid, signal.SIGSTOP)
        return lambda: send(pid, signal.SIGCONT)

    def kill_manager(self, number: int) -> Callable[[], None]:
        send(self._node(number).manager, signal.SIGKILL)
        return self._node(number).run

    def kill_keeper(self, number: int) -> Callable[[], None]:
        send(self._node(number).keeper, signal.SIGKILL)
        return self._node(number).run


@pytest.mark.timeout(1200)
def test_a_storm_of_faults_never_makes_two(cluster: Cluster, pytestconfig: pytest.Config, measured: Measured) -> None:
    """Kills, freezes and cuts of members and nodes, several at a time. Afterwards it is active within the bound."""
    seed = pytestconfig.getoption("--seed")
    seed = secrets.randbelow(2**32) if seed is None else seed
    seconds = pytestconfig.getoption("--storm")
    storm = Storm(cluster, random.Random(seed))
    begin = boottime()
    try:
        storm.blow(seconds)
    finally:
        spans = cluster.referee.spans(PACKAGE)
        now = boottime()
        up = sum((span.stop or now) - max(span.start, begin) for span in spans if (span.stop or now) > begin)
        faults = ", ".join(f"{count} {name}" for name, count in sorted(storm.count.items()))
        measured(f"seed {seed}: {sum(storm.count.values())} faults in {now - begin:.0f} s ({faults});")
        share = up / (now - begin)
        measured(f"{len(spans)} starts, up {share:.0%} of the time, {len(cluster.referee.violations)} violations")
    cluster.mend()
    mended = boottime()
    again = cluster.referee.wait_active(PACKAGE, limit=cluster.bound + LIMIT)
    measured(f"active {max(0.0, again.start - mended):.1f} s after all was mended (bound {cluster.bound:.1f})")
    assert again.start - mended < cluster.bound
    assert cluster.referee.violations == []
    cluster.wait_renewals(again)
    cluster.stays(again)
