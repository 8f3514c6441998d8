"""What the keeper may not wait for itself is done by children that it forks: writing the journal, ending processes.

Standard library only. A child that hangs on a disk costs its errand, and no more.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .clock import boottime
from .journal import FileJournal, human

#: Seconds that an errand may take; whoever hangs must not keep the next from being done.
LONGEST = 10
#: Lines that wait to be written again at most.
MOST = 100
#: Exit code of a child that has shown its lines, and could not write them.
ONLY_SHOWN = 2
#: Seconds until lines that could not be written are tried again.
PAUSE = 1.0
_Line = Callable[[FileJournal], None]


class Errands:
    """`release` is called in each child: it lets go of what another keeper might need while the child hangs."""

    def __init__(self, journal: Path, node: str, release: Callable[[], None]) -> None:
        self._journal, self._node, self._release = journal, node, release
        self._lines: list[_Line] = []
        self._writing = False
        self._under_way = 0  # how many of the lines
        self._shown = 0  # how many of them the screen has, and only the journal has not
        self._pause = 0.0  # nothing is written before
        self._children: dict[int, Callable[[int], None]] = {}

    def say(self, event: str, cause: str) -> None:
        """A line for the journal and the screen, written after all that were said before."""
        self._lines.append(partial(FileJournal.write, event=event, cause=cause, pid=os.getpid()))

    def fork(self, work: Callable[[], int], then: Callable[[int], None]) -> bool:
        """`work` in a child; `then(its exit code)` from `tend`. False: there can be no child now, and `then` comes at
        once."""
        try:
            pid = os.fork()
        except OSError:  # no process or memory to be had now: the errand has failed, and the keeper goes on
            then(1)
            return False
        if pid:
            self._children[pid] = then
            return True
        code = 1
        try:
            self._release()
            signal.set_wakeup_fd(-1)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                if callable(signal.getsignal(number)):  # the keeper's: they are not for a child
                    signal.signal(number, signal.SIG_DFL)
            signal.alarm(LONGEST)
            code = work()
        finally:
            os._exit(code)

    def tend(self) -> None:
        """Does not block."""
        for pid, then in list(self._children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._children[pid]
                then(os.waitstatus_to_exitcode(status))
        if self._lines and not self._writing and boottime() >= self._pause:
            self._writing, self._under_way = True, len(self._lines)
            self.fork(partial(self._write, list(self._lines)), self._written)

    def settle(self, patience: float) -> None:
        """Blocks until all is done, for at most `patience` seconds."""
        end = boottime() + patience
        while (self._children or self._lines) and boottime() < end:
            self.tend()
            time.sleep(0.01)

    def _written(self, code: int) -> None:
        self._writing = False
        if code == 0 or len(self._lines) > MOST:  # a journal that cannot be written to for long
            del self._lines[: self._under_way]
            self._shown = 0
        else:
            self._shown = self._under_way if code == ONLY_SHOWN else self._shown
            self._pause = boottime() + PAUSE

    def _write(self, lines: list[_Line]) -> int:
        journal = FileJournal(self._journal, self._node)
        shown: list[str] = []
        journal.listeners.append(lambda line: shown.append(human(line)))
        for line in lines:
            line(journal)
        if shown := shown[self._shown :]:
            print(*shown, sep="\n", flush=True)  # last, for a terminal may have been stopped
        return ONLY_SHOWN if journal.trouble else 0
