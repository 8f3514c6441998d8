"""Operations of one package in their order: start in order, stop in reverse past failures, then the sweep.

One sequence at a time. A new one first kills what still runs of the old, and begins once that is gone or KILL_GRACE has
passed; what cannot be killed stays in `alive` and keeps the package from ever being verified down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from .desk import Desk
from .ports import Operation, OperationEnded
from .timing import KILL_GRACE
from .types import Incarnation, PackageSpec, Reason, ResourceSpec, Verb

#: How many parts of one stop are repeated when their processes are ended by something else.
TRIES = 3
#: Seconds after which the process of the next resource is forked, so that the fork is not in the way of the present
#: one, which may have done its work by then.
AFTERWARDS = 0.005
#: Paces at most between two stops that are killed because they take too long.
LONGEST_PATIENCE = 32


class Outcome(NamedTuple):
    """How a sequence ended."""

    verb: Verb
    ok: bool
    cause: str
    survivors: tuple[str, ...] = ()
    everywhere: bool = False  # a start that other nodes are not to try either


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a sequence is to do."""

    verb: Verb
    term: int
    deadline: float
    reason: Reason = Reason.NONE
    resources: tuple[ResourceSpec, ...] = ()


class Work:
    """`done(outcome)` ends a sequence that was not cancelled; `remember()` makes the intent durable, raises OSError;
    `may_begin()` gives the instant before which an effect must begin, or None when it must not begin any more;
    `holders()` and `handed_over()` what the Context says of that."""

    def __init__(
        self,
        desk: Desk,
        spec: PackageSpec,
        me: Incarnation,
        *,
        done: Callable[[Outcome], None],
        remember: Callable[[], None],
        may_begin: Callable[[], float | None],
        holders: Callable[[], dict[str, tuple[str, ...]]],
        handed_over: Callable[[], bool],
    ) -> None:
        self.desk = desk
        self.spec = spec
        self.me = me
        self.state: dict[str, dict[str, Any]] = {}
        self.alive: dict[str, Operation] = {}
        self.reach = 0  # resources[:reach] may be up by our doing
        self.pending: tuple[str, ...] = ()  # prefixes of operation ids: the sequence in progress, then unended ones
        self.at: str = ""  # resource that is being worked on
        self.said = ""  # the last line that the operation that runs has printed
        self.began = 0.0  # the sequence
        self._since = 0.0  # the operation that runs
        self._done, self._remember, self._may_begin = done, remember, may_begin
        self._holders, self._handed_over = holders, handed_over
        self._order: Order | None = None
        self._todo: list[ResourceSpec] = []
        self._failures: list[str] = []
        self._everywhere = False
        self._current: str | None = None
        self._sweeping = False
        self._tries = 0
        self._stops = 0  # since one was verified
        self.prompt = False  # a process is kept ready while nothing is to be done
        self._ready = ""  # the operation that a process is kept ready for; it has done nothing yet

    @property
    def busy(self) -> bool:
        return self._order is not None

    @property
    def patience(self) -> float:
        """Seconds before a stop is tried again by itself: none at first, then ever more; what hangs each time would
        only be killed each time."""
        return min(2 ** (self._stops - 2), LONGEST_PATIENCE) * self.spec.timing.pace if self._stops > 1 else 0.0

    # ---- a process kept ready, so that the next operation need not be forked when somebody waits for it
    def keep_ready(self, wanted: bool) -> None:
        """The package may have to act at any moment; or not, then nothing is kept."""
        if self.busy or not self.prompt:
            return
        if wanted and not self._ready:
            self._prepare(f"{self.me.nonce}.{self.desk.number()}")
        elif not wanted:
            self.unready()

    def aside(self) -> str:
        """The id of an operation outside of any order, which is to find nobody who was kept ready."""
        self.unready()
        return f"{self.me.nonce}.{self.desk.number()}.0"

    def unready(self) -> None:
        """What comes is no work of a resource, or the zygote is another one."""
        if self._ready:
            self._ready = ""
            self.desk.ports.executor.prepare(self.spec.name, "")

    def _prepare(self, sequence: str) -> None:
        self._ready = f"{sequence}.{self.desk.number()}"
        self.desk.ports.executor.prepare(self.spec.name, self._ready)

    def begin(self, order: Order) -> None:
        """Cancel what runs and carry out `order`."""
        self.cancel()
        self._order = order
        self._failures = []
        self._everywhere = self._sweeping = False
        self._tries = TRIES
        backwards = order.verb is Verb.STOP
        self._stops += backwards
        self._todo = list(reversed(order.resources)) if backwards else list(order.resources)
        self.began = self.desk.now()
        sequence = self._ready.rpartition(".")[0] or f"{self.me.nonce}.{self.desk.number()}"
        self.pending = (sequence, *self._unended())
        try:
            self._remember()
        except OSError as error:
            if not backwards:  # intent before effect: what cannot be remembered is not begun
                self._finish(False, f"cannot write the node's memory ({error}); nothing was begun")
                return
            self.desk.journal.write("memory_trouble", package=self.spec.name, cause=f"cannot write memory: {error}")
        if self.alive:
            self.desk.at(self.desk.now() + KILL_GRACE, ("grace", self.spec.name), self._next)
        else:
            self._next()

    def cancel(self) -> None:
        """Kill what runs; begin nothing more of the present order."""
        self._order = None
        self._todo = []
        self._current = None
        self.at = ""
        for key in ("grace", "operation", "ready"):
            self.desk.forget((key, self.spec.name))
        for operation in self.alive:
            self.desk.ports.executor.kill(operation)

    def hurry(self, deadline: float) -> None:
        """The present order has less time now."""
        if self._order is not None:
            self._order = msgspec.structs.replace(self._order, deadline=min(deadline, self._order.deadline))
            if self._current is not None:
                key = ("operation", self.spec.name)
                self.desk.at(min(self._order.deadline, self.alive[self._current].deadline), key, self._overdue)

    def describe(self) -> str:
        """ "start of web, 3.1 s" for messages."""
        if self._order is None:
            return ""
        what = f"{self._order.verb} of {self.at}" if self.at else str(self._order.verb)
        return f"{what}, {self.desk.now() - self.began:.1f} s{self._last()}"

    def heard(self, resource: str, line: str) -> None:
        """A line that was printed for this resource."""
        if self._current is not None and resource == self.at:
            self.said = line

    def _last(self) -> str:
        return f"; it said last: {self.said}" if self.said else ""

    # ---- one after the other
    def _next(self) -> None:
        order = self._order
        if order is None or self._current is not None:
            return
        self.desk.forget(("grace", self.spec.name))
        if order.verb is Verb.STOP:
            if self._todo:
                self._run_resource(order, self._todo.pop(0))
            elif self._failures:
                self._finish(False, "; ".join(self._failures))
            elif not self._sweeping:
                self._sweeping = True
                self._run(order, Verb.SWEEP, None, order.deadline)
            else:
                self._finish(True, "")
        elif self._failures:
            self._finish(False, self._failures[0])
        elif self._todo:
            self._run_resource(order, self._todo.pop(0))
        else:
            self._finish(True, "")

    def _run_resource(self, order: Order, resource: ResourceSpec) -> None:
        limit = resource.stop_timeout if order.verb is Verb.STOP else resource.start_timeout
        deadline = order.deadline if limit is None else min(order.deadline, self.desk.now() + limit)
        self._run(order, order.verb, resource, deadline)

    def _run(self, order: Order, verb: Verb, resource: ResourceSpec | None, deadline: float) -> None:
        not_after = 0.0
        if verb in (Verb.START, Verb.HEAL):
            limit = self._may_begin()
            if limit is None:
                self._failures.append("the lock had run out before it could begin")
                self._next()
                return
            not_after = limit
            assert resource is not None
            if verb is Verb.START:
                self.reach = max(self.reach, self.spec.resources.index(resource) + 1)
        name = resource.name if resource else ""
        if not name:
            self.unready()
        operation = Operation(
            id=self._ready or f"{self.pending[0]}.{self.desk.number()}",
            package=self.spec.name,
            verb=verb,
            resource=name,
            term=order.term,
            reason=order.reason,
            deadline=deadline,
            not_after=not_after,
            state=self.state.get(name, {}),
            holders=self._holders() if name else {},
            handed_over=verb is Verb.START and self._handed_over(),
            last=verb is Verb.STOP and not self._todo,
        )
        self.alive[operation.id] = operation
        self._current = operation.id
        self._since = self.desk.now()
        self.at, self.said, self._ready = name, "", ""
        self.desk.at(deadline, ("operation", self.spec.name), self._overdue)
        self.desk.operate(operation, self._ended)
        if self._todo:
            self.desk.at(self._since + AFTERWARDS, ("ready", self.spec.name), self._prepare_next)

    def _prepare_next(self) -> None:
        if self._current is not None and self._todo and not self._ready:
            self._prepare(self.pending[0])

    def _overdue(self) -> None:
        """The operation had its time: kill it. What comes next does not wait for more than KILL_GRACE."""
        if self._current is None:
            return
        operation = self.alive[self._current]
        self._failures.append(
            f"{operation.verb} of {operation.resource or 'left-over processes'} was killed: not done in time"
            f" ({self.desk.now() - self._since:.1f} s){self._last()}"
        )
        self._current = None
        self.desk.ports.executor.kill(operation.id)
        self.desk.at(self.desk.now() + KILL_GRACE, ("grace", self.spec.name), self._next)

    def _ended(self, report: OperationEnded) -> None:
        operation = self.alive.pop(report.id)
        if report.state is not None and operation.resource:
            self.state = {**self.state, operation.resource: report.state}
        if report.id == self._current:
            for key in ("operation", "ready"):
                self.desk.forget((key, self.spec.name))
            self._current = None
            if not report.answered and self._once_more(operation, report.error):
                return
            self._everywhere = self._everywhere or report.everywhere
            if operation.last and report.ok and report.swept:
                self._sweeping = True
            if not report.ok or report.survivors:
                left = f": {'; '.join(report.survivors)}" if report.survivors else ""
                self._failures.append(f"{operation}: {report.error}{left}")
            if report.survivors:
                self._finish(False, self._failures[-1], report.survivors)
            else:
                self._next()
        elif self._order is not None and self._current is None and not self.alive:
            self._next()

    def _once_more(self, operation: Operation, error: str) -> bool:
        """Something else (a person, the OOM killer) ended this part of a stop: that says nothing about the stop."""
        order = self._order
        if order is None or order.verb is not Verb.STOP or self._tries == 0 or self.desk.now() >= order.deadline:
            return False
        self._tries -= 1
        self.desk.journal.write("note", package=self.spec.name, cause=f"{operation}: {error}; once more")
        if operation.verb is Verb.SWEEP:
            self._sweeping = False
        else:
            self._todo.insert(0, next(r for r in order.resources if r.name == operation.resource))
        self._next()
        return True

    def _unended(self) -> tuple[str, ...]:
        return tuple(sorted({operation.rpartition(".")[0] for operation in self.alive}))

    def _finish(self, ok: bool, cause: str, survivors: Iterable[str] = ()) -> None:
        order = self._order
        assert order is not None
        self._order = None
        self._current = None
        self.at = ""
        self.pending = self._unended()
        if ok and order.verb is Verb.STOP:
            if self.alive:  # killed, but not gone: not down
                ok, cause = False, f"still alive: {', '.join(map(str, self.alive.values()))}"
            else:
                self.reach = self._stops = 0
                self.state = {}
        self._done(Outcome(order.verb, ok, cause, tuple(survivors), self._everywhere))
