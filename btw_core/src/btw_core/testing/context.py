"""A Context for the tests of resource types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..clock import boottime
from ..context import RealContext
from ..types import Reason, Verb


class FakeContext(RealContext):
    """Runs real commands as the real one does; collects the journal's lines in `lines`.

    `verb=None` is what `status` and `watch` see. `seconds` are left until the deadline; None: no deadline. `state` may
    be handed from one context to the next, as the core does from one operation to the next. `rechecks` counts how often
    the lock was asked for; `lose_lock` takes it away.
    """

    def __init__(
        self,
        verb: Verb | None = Verb.START,
        *,
        seconds: float | None = 30.0,
        state: dict[str, Any] | None = None,
        package: str = "test",
        resource: str = "resource",
        reason: Reason = Reason.NONE,
        term: int = 1,
        operation: str = "",
        service_log: str = "",
        holders: Mapping[str, Sequence[str]] | None = None,
        handed_over: bool = False,
        env: Mapping[str, str] | None = None,
        script_log: str = "",
    ) -> None:
        self.lines: list[str] = []
        self.rechecks = 0
        self._loses_at: int | None = None
        super().__init__(
            cluster="test",
            node="node1",
            package=package,
            resource=resource,
            term=term,
            verb=verb,
            reason=reason,
            state={} if state is None else state,
            deadline=None,
            operation=operation,
            log=self.lines.append,
            service_log=service_log,
            holders=holders,
            handed_over=handed_over,
            lost=self._asked,
            env=env,
            script_log=script_log,
        )
        self.set_remaining(seconds)

    def lose_lock(self, after: int = 0) -> None:
        """From now on `recheck` refuses, after so many times that it does not."""
        self._loses_at = self.rechecks + after

    def _asked(self) -> str:
        self.rechecks += 1
        lost = self._loses_at is not None and self.rechecks > self._loses_at
        return "the lock has run out: taken away by the test" if lost else ""

    def set_remaining(self, seconds: float | None) -> None:
        """Move the deadline to so many seconds from now."""
        self._deadline = None if seconds is None else boottime() + seconds
