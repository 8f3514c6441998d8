"""A system call that may hang for ever, in a process of its own, so that this one can still say what it waits for."""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable

from btw_core import Failed
from btw_core.explain import processes

#: Seconds for a killed child to be gone.
GRACE = 0.3
_UNKNOWN = 255


class Hung(Failed):
    """It has not come back, and perhaps never will."""


def call(what: str, function: Callable[[], None], seconds: float) -> None:
    """Run `function` in a fork of this process, which must have one thread. Blocks at most `seconds` and GRACE. Raises
    the OSError that it raised, without its file names; Hung with state and wchan when it did not end in time. It is
    killed then; one in state D stays, and keeps the package from ever being verified down (docs/design.md)."""
    pid = os.fork()
    if pid == 0:
        _run(function)
    descriptor = os.pidfd_open(pid)
    try:
        if not select.select([descriptor], [], [], max(0.0, seconds))[0]:
            seen = "; ".join(processes([pid]))
            os.kill(pid, signal.SIGKILL)
            gone = bool(select.select([descriptor], [], [], GRACE)[0])
            if gone:
                os.waitpid(pid, 0)
            fate = "killed" if gone else "it survives SIGKILL"
            raise Hung(f"{what} has not ended within {seconds:.3g} s: {seen}; {fate}")
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(descriptor)
    if code:
        number = code if 0 < code < _UNKNOWN else errno.EIO
        raise OSError(number, os.strerror(number) if code != _UNKNOWN else "it failed in an unforeseen way", what)


def _run(function: Callable[[], None]) -> None:
    code = _UNKNOWN
    try:
        os.closerange(3, 1 << 16)  # the manager's end of file must not wait for us
        function()
        code = 0
    except OSError as error:
        code = error.errno or errno.EIO
    finally:
        os._exit(code)
