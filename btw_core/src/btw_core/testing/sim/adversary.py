"""What goes wrong, drawn from the seed: each seed takes some kinds of faults and mixes them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from ...fsm import HOLD_OFF_CEILING
from ...ports import EnableAsked, HaltAsked, Operation
from ...types import State, Status, Verb
from . import disasters
from .effects import Plan

if TYPE_CHECKING:
    from .node import Node
    from .world import World


class Adversary:
    """No faults at all: operations work, after a while; what ended is begun again."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random: Random = world.random
        self._open = 0

    def plan(self, node: Node, operation: Operation) -> Plan:
        """How an operation will go."""
        return Plan(0.05 + 0.5 * self.random.random())

    def begin(self) -> None:
        """Arrange what is to go wrong."""

    def rest(self) -> float:
        """Seconds after which an ended manager is begun again."""
        return self.random.uniform(0.1, 3)

    # ---- a fault is at an instant, or lasts
    def fault(self, text: str) -> None:
        self.world.note(f"FAULT {text}")
        if not self._open:
            self.world.calm_since = self.world.scheduler.now

    def lasting(self, text: str, seconds: float, over: Callable[[], None]) -> None:
        """A fault from now on; `over` mends it."""
        self.world.note(f"FAULT {text} for {seconds:.2f} s")
        self._open += 1
        self.world.calm_since = float("inf")

        def close() -> None:
            over()
            self.world.note(f"over: {text}")
            self._open -= 1
            if not self._open:
                self.world.calm_since = self.world.scheduler.now

        self.world.scheduler.after(seconds, close)


class Storm(Adversary):
    """Faults until `quiet`, then everything is mended and a person tends to what only a person can."""

    #: Seconds a person leaves something stuck before asking for another stop.
    PATIENCE = 40.0
    #: Seconds between its rounds.
    TENDS = 5.0
    #: Seconds after which nothing that was sent while there was trouble can still arrive.
    LATEST = 60.0

    def __init__(self, world: World) -> None:
        super().__init__(world)
        seconds = 60 * world.setting.minutes
        self.quiet = 0.5 * seconds
        self.calm = False
        self.gap = self.random.uniform(3, 25)
        broken = disasters.breaking(world.self_fence, kept=world.kept)
        self.mortal = "crash" not in broken  # a manager may end while something of it is up
        kinds = [kind for kind in disasters.KINDS if kind not in broken]
        self.kinds = self.random.sample(kinds, self.random.randint(2, 9))
        self.bad = {verb: self.random.choice([0.0, 0.0, 0.1, 0.4]) for verb in (Verb.START, Verb.STOP, Verb.HEAL)}
        self.stiff = 0.0 if "stiffen" in broken else self.random.choice([0.0, 0.0, 0.05, 0.3])
        self.forgets_again = 0.0
        self._stuck: dict[tuple[str, str], float] = {}
        self._steady_since = self.quiet

    def begin(self) -> None:
        bad = {str(verb): share for verb, share in self.bad.items()}
        self.world.note(f"faults: {', '.join(self.kinds)}; bad {bad}, stiff {self.stiff}, gap {self.gap:.1f} s")
        self._next()
        self.world.scheduler.at(self.quiet, self._calm_down)

    def rest(self) -> float:
        if self.calm or self.random.random() < 0.5:
            return super().rest()
        return self.random.uniform(0.05, 60)

    def plan(self, node: Node, operation: Operation) -> Plan:
        random = self.random
        spec = self.world.spec(operation.package)
        limit = spec.timing.stop_timeout if operation.verb is Verb.STOP else spec.timing.start_timeout
        seconds = random.uniform(0.02, 0.1) if random.random() < 0.5 else random.uniform(0.02, 0.25) * limit
        if self.calm:
            return Plan(seconds / len(spec.resources))
        outcome = "ok"
        if random.random() < self.bad[operation.verb]:
            outcome = random.choice(["fail", "half", "hang", "late"])
        stiff = random.uniform(0.1, 3 * limit) if random.random() < self.stiff else 0.0
        if outcome != "ok" or stiff:
            seconds = random.uniform(0.02, 2.0) * limit
            self.fault(f"{operation.verb} of {operation.package}.{operation.resource} on {node.name}: {outcome}"
                       f" after {seconds:.2f} s" + (f", cannot be killed for {stiff:.2f} s" if stiff else ""))
        return Plan(seconds, outcome, stiff)

    def _next(self) -> None:
        self.world.scheduler.after(self.random.expovariate(1 / self.gap), self._strike)

    def _strike(self) -> None:
        if self.calm:
            return
        disasters.KINDS[self.random.choice(self.kinds)](self)
        self._next()

    def window(self) -> float:
        """How long a lasting fault lasts: often about as long as the limits that it tries."""
        spec = self.random.choice(self.world.specs)
        t = spec.timing
        around = self.random.choice([0.3, t.pace, t.timeout - t.pace, t.timeout, t.timeout + t.stop_timeout, t.lease])
        seconds = around * self.random.uniform(0.3, 1.3)
        return min(seconds, max(0.01, self.quiet - self.world.scheduler.now))

    # ---- mending
    def _calm_down(self) -> None:
        self.calm = True
        self.fault("the last one is over")
        now = self.world.scheduler.now
        for node in self.world.nodes.values():
            node.sluggish = 0.0
            if node.life is not None:
                node.life.ambush = None
            if node.keeper is not None:
                node.keeper.alive, node.keeper.frozen = True, False
            for run in node.running.values():
                run.stiff_until = min(run.stiff_until, now)
            for part in node.parts.values():
                part.mood, part.stiff_until = Status.UP, 0.0
                part.remnants = dict.fromkeys(part.remnants, 0.0)
        self._tend()
        self.world.scheduler.after(self.bound(), self.world.judge.always_one)
        self._rest_if_steady()

    def _rest_if_steady(self) -> None:
        """Once every package has run for two leases and nothing late can still come, no more will happen."""
        world, now = self.world, self.world.scheduler.now
        if not world.judge.steady():
            self._steady_since = now
        if now > max(self._steady_since + 2 * max(spec.timing.lease for spec in world.specs), self.quiet + self.LATEST):
            world.note("every package has run for two leases")
            world.scheduler.stop()
        else:
            world.scheduler.after(1.0, self._rest_if_steady)

    def bound(self) -> float:
        """Seconds after the last fault in which everything runs again: whoever failed often holds off, whoever is stuck
        is left alone for PATIENCE, a manager is begun again; then two fail-overs in a row, one of them fenced."""
        bounds = []
        for spec in self.world.specs:
            t = spec.timing
            held_off = HOLD_OFF_CEILING * t.pace + self.PATIENCE + 2 * self.TENDS + 3
            bounds.append(held_off + 2 * (t.worst_failover() + t.pace + t.stop_timeout) + t.start_timeout)
        return 1.02 * max(bounds) + 5

    def _tend(self) -> None:
        """What a person does once each few seconds: enable, ask again, start again."""
        now = self.world.scheduler.now
        for node in self.world.nodes.values():
            life = node.life
            if life is None or not life.alive:
                continue
            if any(c.left for c in life.manager.controllers.values()):
                if self.mortal:
                    life.die("begun again by a person, with all its packages")
                else:
                    life.deliver(HaltAsked(cause="a person begins it again"))
                continue
            for name, controller in life.manager.controllers.items():
                state = controller.situation.state
                if state is State.OFF:
                    life.deliver(EnableAsked(package=name))
                since = self._stuck.setdefault((life.nonce, name), now)
                if state is not State.STUCK:
                    self._stuck[life.nonce, name] = now
                elif now - since > self.PATIENCE:
                    self._stuck[life.nonce, name] = now
                    self.fault(f"a person asks {life.nonce} to stop {name} again")
                    life.deliver(HaltAsked(package=name, cause="tried again"))
        disasters.unlock(self, hopeless=True)
        self.world.scheduler.after(self.TENDS, self._tend)


class Drizzle(Adversary):
    """Only outages of the store that are shorter than T - P - 2 r, each after the last is forgotten."""

    def begin(self) -> None:
        self.world.scheduler.after(60, self._rain)

    def _rain(self) -> None:
        self.world.judge.gentle = True
        timings = [spec.timing for spec in self.world.specs]
        longest = min(t.timeout - t.pace - 2 * t.renewal_deadline for t in timings)
        lines = [node.line for node in self.world.nodes.values() if self.random.random() < 0.7]
        for line in lines:
            line.cut = True

        def over() -> None:
            for line in lines:
                line.cut = False

        self.lasting("store unreachable", longest * self.random.uniform(0.5, 0.99), over)
        self.world.scheduler.after(longest + max(t.timeout for t in timings) * self.random.uniform(1, 3), self._rain)


class Reaper(Adversary):
    """Only kills of managers, one life after another at any call to a port, and answers that get lost: for a fraction
    of T, then nothing for a while. Needs keepers, and a T of some restarts."""

    def begin(self) -> None:
        self.world.scheduler.after(60, self._reap)

    def _reap(self) -> None:
        self.world.judge.gentle = True
        random, pause = self.random, min(spec.timing.timeout for spec in self.world.specs)
        node = random.choice(list(self.world.nodes.values()))
        for holder in self.world.nodes.values():
            if random.random() < 0.7 and holder.life and any(holder.active(p, r) for p, r in holder.parts):
                node = holder
        node.line.loses_answer = random.choice([0.0, 0.0, 0.4])
        node.line.loses_request, node.line.commits_late, node.line.late = node.line.loses_answer / 2, 0.5, pause
        node.doomed = [random.randint(1, 15) for _ in range(random.randint(0, 3))]

        def over() -> None:
            node.doomed, node.line.loses_answer, node.line.loses_request = [], 0.0, 0.0
            if node.life is not None:
                node.life.dies_at_call = 0

        self.lasting(f"managers of {node.name} killed at their calls {node.doomed}", 0.4 * pause, over)
        if node.life is not None:
            node.life.die("kill -9")
        if self.world.scheduler.now + 4 * pause < 60 * self.world.setting.minutes:
            self.world.scheduler.after(pause * random.uniform(1, 2), self._reap)


class Script(Adversary):
    """Given faults at given instants, for scenarios: `at(seconds, do)` with do(world)."""

    def __init__(self, world: World, acts: tuple[tuple[float, Callable[[World], None]], ...]) -> None:
        super().__init__(world)
        self._acts = acts
        self.pause = 1.0

    def rest(self) -> float:
        return self.pause

    def begin(self) -> None:
        for when, act in self._acts:
            self.world.scheduler.at(when, lambda act=act: act(self.world))  # type: ignore[misc]
