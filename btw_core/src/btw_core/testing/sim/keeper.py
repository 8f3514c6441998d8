"""Who watches over the managers of a node: the pulse, the keeper's rules at its ticks, and the watchdog device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...keeper_rules import Seen, decide
from ...ports import Lock
from ...pulse import STALE

if TYPE_CHECKING:
    from .node import Life, Node

#: Seconds between two looks of a keeper.
TICK = 0.25
#: Seconds without a beat after which a manager counts as stalled.
STALL = 2.0


class SimPulse:
    """`ports.Keeper` of one life: what it says is known to the node until it reboots, not to its successor's disk."""

    def __init__(self, life: Life) -> None:
        self._life, self._node = life, life.node
        self.window = life.world.window
        self._former = dict(life.node.leases)
        life.node.locks = dict.fromkeys(life.node.locks)
        self._untold: dict[str, tuple[tuple[float, float] | None, Lock | None]] = {}

    def attached(self) -> bool:
        keeper = self._node.keeper
        return keeper is None or self._life.world.scheduler.now - keeper.beat <= STALE

    def former(self, package: str) -> tuple[float, float] | None:
        if self._node.keeper is None:
            return float("inf"), float("inf")
        return self._former.get(package)

    def lease(self, package: str, lost_at: float, hard: float, lock: Lock | None = None) -> None:
        self._untold[package] = (lost_at, hard), lock

    def down(self, package: str, lock: Lock | None = None) -> None:
        self._untold[package] = None, lock

    def tell(self) -> None:
        for package, (limits, lock) in self._untold.items():
            self._node.leases.pop(package, None)
            if limits is not None:
                self._node.leases[package] = limits
            self._node.locks[package] = lock
        self._untold.clear()


class SimKeeper:
    """One node's keeper and, in a world with a watchdog, its device. Lives from boot to boot."""

    def __init__(self, node: Node) -> None:
        self.node, self.world = node, node.world
        self.alive = True
        self.frozen = False
        self.beat = 0.0  # true instant
        self.fed = 0.0  # true instant; the device is armed from the first feeding on
        self.fenced: set[tuple[str, float]] = set()  # packages that were cut off, each once for each H
        # the watchdog's clock is its own
        self.rate = 1 + 0.01 * (2 * self.world.random.random() - 1)
        self.world.scheduler.after(self.world.random.random() * TICK, self._tick)

    def booted(self) -> None:
        """The computer starts over: nothing is up, the device is new, the service manager starts a keeper."""
        self.alive, self.frozen = True, False
        self.beat = self.fed = self.world.scheduler.now
        self.fenced.clear()

    def killed(self) -> None:
        """Another one attaches after a while: its manager starts it, or the service manager does."""
        if self.alive:
            self.alive = False
            self.world.scheduler.after(0.3 + 3 * self.world.random.random(), self._again)

    def _again(self) -> None:
        self.alive, self.frozen = True, False

    def _tick(self) -> None:
        self.world.scheduler.after(TICK, self._tick)
        now, computer = self.world.scheduler.now, self.node.computer
        if self.world.window and now - self.fed >= self.world.window * self.rate:
            self.world.note(f"{self.node.name}: the watchdog fires")
            computer.reboot()
            return
        if not self.alive or self.frozen:
            return
        self.beat = now
        life = self.node.life
        clock = computer.clock
        living = life is not None and life.alive
        seen = Seen(
            now=clock.now(),
            started=life.began if living and life is not None else clock.now(),
            beat=(life.froze_at if life.frozen else clock.now()) if living and life is not None else None,
            stall=STALL,
            leases=self.node.leases,
            missing=False,
            window=self.world.window,
        )
        decision = decide(seen)
        if decision.feed:
            self.fed = now
        if decision.kill and life is not None and living:
            self.world.note(f"{self.node.name}: keeper: {decision.kill}")
            life.die("killed by its keeper", restart=0.1 + 0.5 * self.world.random.random())
        if decision.fence:
            self._fence(decision.fence, clock.now())

    def _fence(self, why: str, now: float) -> None:
        if self.world.self_fence in ("reboot", "watchdog"):
            self.world.note(f"{self.node.name}: keeper: {why}")
            self.node.computer.reboot()
            return
        for package, (_, hard) in list(self.node.leases.items()):
            if hard <= now and (package, hard) not in self.fenced:
                self.fenced.add((package, hard))
                self.world.note(f"{self.node.name}: keeper: {why}")
                self.node.kill_all(package, (), but=None)
