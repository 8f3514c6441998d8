"""Before an upgrade in place: can the btw that is installed now run these packages at all? Standard library only."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence

from .clock import boottime

#: Seconds that loading the new code, configuration and plugins may take.
LONGEST = 30.0
_TRIES = """
import btw_core.cli.run, btw_core.keeper, btw_core.node, os, sys
if sys.argv[1:]:
    os.execv(sys.argv[1], sys.argv[1:])
"""


class Trial:
    """Imports the new code and runs its `btw check` of the manager's packages (a daemon's: all), in a process of its
    own."""

    def __init__(self, manager: Sequence[str]) -> None:
        """`manager` is the manager's command, `... run --kept PKG... OPTIONS` or `... daemon --kept OPTIONS`. Raises
        OSError."""
        check: list[str] = []
        if "--kept" in manager:
            at = manager.index("--kept")
            check = [*manager[: at - 1], "check", *manager[at + 1 :]]
        words = [sys.executable, "-P", "-c", _TRIES, *check]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(words, stdin=quiet, stdout=quiet, start_new_session=True)
        self._until = boottime() + LONGEST

    def outcome(self) -> str | None:
        """None: not yet. "": it can. Else why not. Does not block."""
        code = self._process.poll()
        if code is None:
            if boottime() >= self._until:
                self._process.kill()
            return None
        if code == -signal.SIGKILL:
            return f"`btw check` with the new code did not end within {LONGEST:g} s"
        return f"`btw check` with the new code ended with exit code {code}: run it to see why" if code else ""
