"""Former holders that did not release: nothing is started before each of them is known to be down, or shut out."""

from __future__ import annotations

from collections.abc import Callable

from . import lease
from .claim import Claim
from .desk import Desk
from .lease import View
from .ports import Operation, OperationEnded
from .types import Incarnation, PackageSpec, Verb

REMEDY = (
    "it starts when that node reports it down, or runs btw after a reboot; or make sure yourself: btw unlock; "
    "`self_fence` in btw.toml has nodes see to it themselves"
)


class Debts:
    """`operation(verb, deadline, ...)` makes an operation of this package; `say(text)` writes a line of the journal."""

    def __init__(
        self,
        desk: Desk,
        spec: PackageSpec,
        me: Incarnation,
        claim: Claim,
        *,
        operation: Callable[..., Operation],
        say: Callable[[str], None],
    ) -> None:
        self.desk, self.spec, self.me, self.claim = desk, spec, me, claim
        self._operation, self._say = operation, say
        self._running = ""  # the fence that is under way

    def seen(self, view: View) -> None:
        """A reading of all records: whose computer was started anew?"""
        gone = [debt.nonce for debt in self.claim.debts if lease.rebooted(view, debt)]
        if gone:
            self.claim.settle(gone)

    def pay(self) -> None:
        """Settle what time has paid, and fence the first of the others. To be called again each pace."""
        trusted = [debt for debt in self.claim.debts if lease.fences_itself(debt, self.me)]
        if trusted:
            who = ", ".join(f"{debt.node} (self_fence {debt.self_fence})" for debt in trusted)
            self._say(f"former holder {who} has fenced itself: its lease is over")
            self.claim.settle(debt.nonce for debt in trusted)
        owing = [debt for debt in self.claim.debts if debt not in trusted]
        if not owing or self._running:
            return
        debt = owing[0]
        if debt.machine == self.me.machine or not self.spec.fences:
            self._fence(debt, ("",))
        elif self.spec.disk_pays:
            self._fence(debt, self.spec.fences)
        else:
            beyond = ", ".join(self.spec.beyond_the_disk)
            cause = f"and shutting it out on the disk would leave it with {beyond}; {REMEDY}"
            self._say(f"not started: former holder {debt.node} is not known to be down, {cause}")

    def cancel(self) -> None:
        """What it is for is over."""
        self.desk.forget(("fence", self.spec.name))
        if self._running:
            self.desk.ports.executor.kill(self._running)
            self._running = ""

    def _fence(self, debt: Incarnation, by: tuple[str, ...]) -> None:
        """`by` these resources, one after the other; "": by killing what is left of it on this computer."""
        limit = self.claim.may_begin()
        if limit is None:
            return  # the loss of the lock is on its way
        deadline = self.desk.now() + self.spec.timing.stop_timeout
        more = {"target": debt, "resource": by[0], "not_after": limit, "holders": self.claim.holders}
        fence = self._operation(Verb.FENCE, deadline, **more)
        self._running = fence.id
        self.desk.at(deadline, ("fence", self.spec.name), lambda: self._overdue(debt))
        self.desk.operate(fence, lambda report: self._fenced(debt, by, report))

    def _overdue(self, debt: Incarnation) -> None:
        self.cancel()
        limit = self.spec.timing.stop_timeout
        self._say(f"not started: fencing former holder {debt.node} took longer than stop_timeout {limit:g} s: killed")

    def _fenced(self, debt: Incarnation, by: tuple[str, ...], report: OperationEnded) -> None:
        if report.id != self._running:
            return  # cancelled meanwhile
        self._running = ""
        self.desk.forget(("fence", self.spec.name))
        if not report.ok:
            left = f" ({'; '.join(report.survivors)})" if report.survivors else ""
            self._say(f"not started: former holder {debt.node} is not known to be down: {report.error}{left}")
        elif by[1:]:
            self._fence(debt, by[1:])
        else:
            how = f"fenced on the disk by {', '.join(self.spec.fences)}" if by[0] else "down: its processes are gone"
            self._say(f"former holder {debt.node} is {how}")
            self.claim.settle([debt.nonce], self.pay)
