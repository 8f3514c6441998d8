"""The Context of plugins: running commands, starting services, the environment, bounded lines for the journal."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from .clock import boottime
from .command import Command, Stat, argv_of, cannot_execute, child_setup, ending, execute, last_said, proc_stat, shown
from .explain import newest
from .resource import CannotTell, Completed, Failed, Process
from .script_log import ScriptLog, open_log
from .types import Reason, Verb

T = TypeVar("T")

#: Lines and characters per line that one Context passes on to the journal.
LINES, LINE = 200, 500
#: Seconds for a command when neither an operation's deadline nor the caller sets a limit.
DEFAULT_LIMIT = 30.0


class _Lines:
    """Cuts output into lines and passes on the first ones, so that no script can flood the journal."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log, self._left, self._hidden, self._told, self._partial = log, LINES, 0, 0, b""

    def line(self, text: str) -> None:
        text = text.rstrip()
        if not text:
            return
        if self._left == 0:
            self._hidden += 1
            return
        self._left -= 1
        self._log(text if len(text) <= LINE else text[: LINE - 1] + "…")

    def feed(self, data: bytes) -> None:
        *whole, partial = (self._partial + data).split(b"\n")
        for line in whole:
            self.line(line.decode(errors="replace"))
        self._partial = partial[: 4 * LINE + 4]  # enough to see that the line is too long

    def end(self) -> None:
        """A command has ended. The notice comes once per doubling: a thousand commands make ten of them."""
        self.line(self._partial.decode(errors="replace"))
        self._partial = b""
        if self._hidden > 2 * self._told:
            self._told = self._hidden
            self._log(f"... {self._hidden} more lines not shown")


# ---- the context --------------------------------------------------------------------------------------------------
class _Shared:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: list[Any] = []


_shared: dict[Callable[[], Any], _Shared] = {}
_shared_lock = threading.Lock()


class RealContext:
    """`resource.Context` on this computer.

    `deadline` is an instant of CLOCK_BOOTTIME (None: none, then commands get DEFAULT_LIMIT); `log` takes one line;
    services print to the file `service_log` (appended; "" = /dev/null); `lost()` says why no effect may begin any more;
    `env` and `script_log` are what the package's file says: variables for every command, and a file for their output.
    """

    def __init__(
        self,
        *,
        cluster: str,
        node: str,
        package: str,
        resource: str,
        term: int,
        verb: Verb | None,
        reason: Reason,
        state: dict[str, Any],
        deadline: float | None,
        operation: str,
        log: Callable[[str], None],
        service_log: str = "",
        holders: Mapping[str, Sequence[str]] | None = None,
        handed_over: bool = False,
        lost: Callable[[], str] = str,
        env: Mapping[str, str] | None = None,
        script_log: str = "",
    ) -> None:
        self.cluster, self.node, self.package, self.resource = cluster, node, package, resource
        self.term, self.verb, self.reason, self.state = term, verb, reason, state
        self.holders: Mapping[str, Sequence[str]] = holders or {}
        self.handed_over = handed_over
        self._deadline, self._operation, self._lines = deadline, operation, _Lines(log)
        self._service_log, self._script_log, self._lost = service_log, script_log, lost
        self._env = dict(env or {})
        self._services: list[subprocess.Popen[bytes]] = []  # kept: a Popen object that is dropped warns

    def remaining(self) -> float:
        """Seconds until the operation is killed, at least 0; infinite without a deadline."""
        return math.inf if self._deadline is None else max(0.0, self._deadline - boottime())

    def recheck(self) -> None:
        """See `resource.Context.recheck`."""
        if self.verb not in (None, Verb.STOP) and (lost := self._lost()):
            raise Failed(lost)

    def log(self, text: str) -> None:
        """Lines for the journal: the first LINES of this context, each cut at LINE characters."""
        for line in text.splitlines():
            self._lines.line(line)
        self._lines.end()

    def run(
        self,
        command: Command,
        *,
        ok: Sequence[int] = (0,),
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
    ) -> Completed:
        """See `resource.Context.run`. In status every refusal is CannotTell, also of a program that is not there."""
        limit = min(self.remaining(), math.inf if timeout is None else timeout)
        operating = self.verb is not None
        copy = ScriptLog(self._script_log, f"{self.node} {self.verb} {self.resource}", self.log) if operating else None

        def feed(data: bytes) -> None:
            self._lines.feed(data)
            if copy is not None:
                copy.feed(data)

        try:
            done = execute(
                command,
                limit=limit if limit < math.inf else DEFAULT_LIMIT,
                env={**self.environment(), **(env or {})},
                cwd=cwd,
                input=input,
                feed=feed if operating else None,
                tied=operating,
                explain=newest if operating else None,
            )
            if ok and done.code not in ok:
                allowed = ", ".join(map(str, ok))
                raise Failed(f"`{shown(command)}`: {ending(done.code)}, allowed: {allowed}{last_said(done.output)}")
        except Failed as error:
            if operating:
                raise
            raise CannotTell(str(error)) from None
        finally:
            self._lines.end()
            if copy is not None:
                copy.end()
        return done

    def spawn(self, command: Command, *, env: Mapping[str, str] | None = None, cwd: str | None = None) -> Process:
        """See `resource.Context.spawn`. Does not block beyond exec. The service is a child of this process until that
        ends."""
        if self.verb is None:
            raise Failed("spawn is for operations (start, stop, heal): status and watch change nothing")
        argv = argv_of(command)
        with contextlib.ExitStack() as stack:
            output = self._log_file(stack)
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=cwd,
                    env={**self.environment(), **(env or {})},
                    start_new_session=True,
                    preexec_fn=child_setup(None),
                )
            except (OSError, ValueError) as error:
                raise cannot_execute(argv, cwd, error) from None
        self._services.append(process)
        # not reaped, so it is there, be it as a zombie
        return Process(pid=process.pid, start_time=cast(Stat, proc_stat(process.pid)).start_time)

    def _log_file(self, stack: contextlib.ExitStack) -> int:
        if self._script_log:
            try:
                descriptor = open_log(self._script_log)
            except OSError as error:
                self.log(f"log {self._script_log}: {error.strerror}; it prints to {self._service_log or os.devnull}")
            else:
                stack.callback(os.close, descriptor)
                os.set_blocking(descriptor, True)  # the service shares it, and may not expect otherwise
                return descriptor
        path = self._service_log or os.devnull
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise Failed(f"{path}: {error.strerror}; a service needs it to be writable") from None
        stack.callback(os.close, descriptor)
        return descriptor

    def environment(self) -> dict[str, str]:
        """This process's environment and the package's, its BTW_* variables replaced by those of the contract."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BTW_")}
        return {
            **inherited,
            **self._env,
            "BTW_CLUSTER": self.cluster,
            "BTW_NODE": self.node,
            **{name: value for name, value in os.environ.items() if name == "BTW_HOME"},  # what containment looks for
            "BTW_PACKAGE": self.package,
            "BTW_TERM": str(self.term),
            "BTW_RESOURCE": self.resource,
            "BTW_VERB": self.verb or "",
            "BTW_REASON": self.reason,
            "BTW_OPERATION": self._operation,
        }

    def shared(self, factory: Callable[[], T]) -> T:
        """See `resource.Context.shared`. `factory` is the key: a function or class of a module, not a lambda. Blocks
        while another thread makes it; when it raises nothing is kept."""
        with _shared_lock:
            slot = _shared.setdefault(factory, _Shared())
        with slot.lock:
            if not slot.made:
                slot.made.append(factory())
            return cast(T, slot.made[0])
