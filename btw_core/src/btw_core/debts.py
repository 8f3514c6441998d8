"""Former holders that did not release: nothing is started before each of them is known to be down."""

from __future__ import annotations

from collections.abc import Callable

from . import lease
from .claim import Claim
from .desk import Desk
from .lease import View
from .ports import Operation, OperationEnded
from .types import Incarnation, PackageSpec, Verb


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
        self._asking = False  # a fence is under way

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
        if owing and not self._asking:
            self._asking = True
            deadline = self.desk.now() + self.spec.timing.stop_timeout
            fence = self._operation(Verb.FENCE, deadline, target=owing[0])
            self.desk.operate(fence, lambda report: self._fenced(owing[0], report))

    def _fenced(self, debt: Incarnation, report: OperationEnded) -> None:
        self._asking = False
        if report.ok:
            self._say(f"former holder {debt.node} is down: {report.error or 'its processes are gone'}")
            self.claim.settle([debt.nonce], self.pay)
        else:
            left = f" ({'; '.join(report.survivors)})" if report.survivors else ""
            self._say(f"not started: former holder {debt.node} is not known to be down: {report.error}{left}")
