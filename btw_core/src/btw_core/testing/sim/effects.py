"""What truly happens on a node: operations as processes, the services they leave, and what status says of them.

A service is the process that a finished start left behind; a remnant is one that no status sees. Both die of SIGKILL
unless they are stiff (in D state), as do operations.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, NamedTuple

from ...ports import Look, Looked, Operation, OperationEnded, ResourceHealth
from ...types import PackageSpec, Status, Verb
from .fencing import OVER

if TYPE_CHECKING:
    from .node import Life, Node

CHANGING = (Verb.START, Verb.HEAL, Verb.STOP)
BEGINNING = (Verb.START, Verb.HEAL)


class Part:
    """One resource on one node, as it truly is."""

    __slots__ = ("mood", "remnants", "stiff_until", "up")

    def __init__(self) -> None:
        self.up = ""  # id of the operation whose process serves it; "" = none does
        self.remnants: dict[str, float] = {}  # operation id -> true instant before which it cannot be killed
        self.stiff_until = 0.0  # of the service
        self.mood: Status | str = Status.UP  # what status says while it is up; "" = cannot tell


class Plan(NamedTuple):
    """How an operation is going to go."""

    seconds: float
    outcome: str = "ok"  # ok, fail, half (fail, leaving a remnant), hang, late (hang, but the effect lands)
    stiff: float = 0.0  # seconds from its beginning on that it cannot be killed


class Running:
    """An operation that is alive."""

    __slots__ = ("begun", "life", "operation", "place", "seen_from", "stiff_until")

    def __init__(self, operation: Operation, life: Life, at: float) -> None:
        self.operation, self.life = operation, life
        self.begun = False  # its effect is possible from here on
        self.stiff_until = 0.0
        self.seen_from = at


class SimExecutor:
    """`ports.Executor` of one life; the truth it works on belongs to the node."""

    def __init__(self, life: Life, random: Random) -> None:
        self._life, self._random = life, random
        self.node: Node = life.node
        self.world = life.world
        self.watched: set[str] = set()

    # ---- the port
    def operate(self, operation: Operation) -> None:
        run = Running(operation, self._life, self.world.scheduler.now)
        self.world.judge.asked(self._life, operation)
        self.node.running[operation.id] = run
        if operation.verb not in (Verb.SURVEY, Verb.SWEEP):
            what = f"{operation.verb} {operation.resource}".strip()
            self.world.note(f"{self.node.name}: {operation.package}: {what} begins ({operation.id})")
        begin = self._begin if operation.verb in CHANGING else self._tidy
        scheduler, share = self.world.scheduler, self._random.random()
        scheduler.after(0.001, lambda: scheduler.after(0.001 + (0.01 + self.node.sluggish) * share, lambda: begin(run)))
        self._life.passed_port(operation.verb)

    def kill(self, operation: str) -> None:
        run = self.node.running.get(operation)
        if run is not None:
            self.node.kill(run)
        self._life.passed_port()

    def prepare(self, package: str, operation: str) -> None:
        self._life.passed_port()

    def look(self, look: Look) -> None:
        trouble = self.node.observer
        if trouble != "silent":
            delay = 0.01 + 0.05 * self._random.random()
            delay += 4 * self._random.random() if trouble == "slow" else 0.0
            self.world.scheduler.after(delay, lambda: self._answer(look))
        self._life.passed_port()

    def watch(self, package: str, term: int, state: dict[str, dict[str, object]]) -> None:
        self.watched.add(package)
        self._life.passed_port()

    def unwatch(self, package: str) -> None:
        self.watched.discard(package)
        self._life.passed_port()

    # ---- status
    def _answer(self, look: Look) -> None:
        spec = self.world.spec(look.package)
        wanted = [r.name for r in spec.resources if not look.resources or r.name in look.resources]
        self._life.deliver(Looked(id=look.id, package=spec.name, results=self._healths(spec, wanted)))

    def vanished(self, package: str, resource: str) -> None:
        """A watch descriptor fires."""
        if package in self.watched and self.node.observer != "silent":
            spec = self.world.spec(package)
            report = Looked(id=0, package=package, results=self._healths(spec, [resource]))
            self.world.scheduler.after(0.005, lambda: self._life.deliver(report))

    def _healths(self, spec: PackageSpec, resources: list[str]) -> tuple[ResourceHealth, ...]:
        return tuple(self._health(spec.name, name) for name in resources)

    def _health(self, package: str, resource: str) -> ResourceHealth:
        part = self.node.part(package, resource)
        if part.mood == "":
            return ResourceHealth(resource=resource, status=None)
        if part.up and self.world.disks.preempted(self.node.name, package, resource):
            return ResourceHealth(resource=resource, status=Status.CRITICAL)
        return ResourceHealth(resource=resource, status=Status(part.mood) if part.up else Status.DOWN)

    # ---- start, heal, stop
    def _begin(self, run: Running) -> None:
        operation, node, world = run.operation, self.node, self.world
        if node.running.get(operation.id) is not run:
            return
        if operation.verb in BEGINNING and self._lost(operation):
            self._end(run, OVER)
            return
        plan = world.adversary.plan(node, operation)
        run.stiff_until = world.scheduler.now + plan.stiff
        if operation.verb in BEGINNING:
            world.judge.begins(self._life, operation)
            run.begun = True
            world.judge.possible(node, operation.package, operation.resource)
        if plan.outcome != "hang":
            world.scheduler.after(plan.seconds, lambda: self._land(run, plan))

    def _land(self, run: Running, plan: Plan) -> None:
        operation, node, now = run.operation, self.node, self.world.scheduler.now
        if node.running.get(operation.id) is not run:
            return
        part = node.part(operation.package, operation.resource)
        if operation.verb is Verb.STOP:
            if plan.outcome != "ok" or part.stiff_until > now:
                if plan.outcome == "fail":
                    self._end(run, "stop returned, but status says up")
                return  # otherwise it waits for its service, until it is killed
            part.up = ""
            self._end(run, "")
            return
        if self.world.disks.fences(operation.package, operation.resource) and (error := self._seize(operation)):
            self._end(run, error)
            return
        if plan.outcome in ("ok", "late") and not part.up:
            part.up = operation.id
        elif plan.outcome == "half":
            stiff = self._random.random() * 20 if self._random.random() < 0.2 else 0.0
            # as in disasters.breaking: where a node is trusted to kill, no process is in D state
            part.remnants[operation.id] = now + (0.0 if self.world.self_fence == "stop" else stiff)
        if plan.outcome != "late":
            self._end(run, "" if plan.outcome == "ok" else "did not start")

    def _lost(self, operation: Operation) -> bool:
        """As `Hold` finds it."""
        now = self._life.clock.now()
        if operation.package not in self.node.locks:
            return bool(operation.not_after) and now >= operation.not_after
        lock = self.node.locks[operation.package]
        return lock is None or lock[0] != operation.term or now >= lock[1]

    def _seize(self, operation: Operation) -> str:
        """What start, heal and fence of a resource that fences do to the disk, right after they have asked for the
        lock; why not."""
        if self._lost(operation):
            return OVER
        self.world.judge.seizes(self._life, operation)
        package, heals = operation.package, operation.verb is Verb.HEAL
        error = self.world.disks.seize(package, self.node.name, operation.term, heals=heals)
        for resource in self.world.spec(package).resources if not error else ():
            if self.node.active(package, resource.name):  # the disk takes its writes again
                self.world.judge.possible(self.node, package, resource.name)
        return error

    def _end(self, run: Running, error: str, survivors: tuple[str, ...] = ()) -> None:
        del self.node.running[run.operation.id]
        operation = run.operation
        swept = operation.last and self._random.random() < 0.5 and not self.node.alive(operation.package)
        ended = OperationEnded(id=operation.id, ok=not error, error=error, survivors=survivors, swept=swept)
        run.life.deliver(ended)

    # ---- sweep, survey, fence
    def _tidy(self, run: Running) -> None:
        operation, node, world = run.operation, self.node, self.world
        if node.running.get(operation.id) is not run:
            return
        if operation.verb is Verb.SURVEY:
            self._end(run, "", node.alive(operation.package, but=run))
            return
        if operation.verb is Verb.FENCE and operation.resource:
            seconds = 0.02 + 0.5 * self._random.random()
            world.scheduler.after(seconds, lambda: self._shut_out(run))
            return
        where, only, error = node, operation.only, ""
        if operation.verb is Verb.FENCE:
            assert operation.target is not None
            where = world.nodes[operation.target.node]
            if operation.target.machine != node.computer.machine:
                error = "lives on another machine"
            elif operation.target.boot != node.computer.boot:
                self._end(run, "")
                return
            else:
                world.lives[operation.target.nonce].die("fenced")
        if error:
            self._end(run, error)
            return
        where.kill_all(operation.package, only, but=run)
        self._wait_for(run, where, only)

    def _shut_out(self, run: Running) -> None:
        if self.node.running.get(run.operation.id) is run:
            self._end(run, self._seize(run.operation))

    def _wait_for(self, run: Running, where: Node, only: tuple[str, ...]) -> None:
        """Until all is gone or nearly no time is left."""
        if self.node.running.get(run.operation.id) is not run:
            return
        left = where.alive(run.operation.package, only, but=run)
        if not left:
            self._end(run, "")
        elif self._life.clock.now() >= run.operation.deadline - 0.1:
            self._end(run, f"{len(left)} left-over processes survive SIGKILL", left)
        else:
            where.kill_all(run.operation.package, only, but=run)
            self.world.scheduler.after(0.1, lambda: self._wait_for(run, where, only))
