"""Ending all processes of a session. A service is started as the leader of one (setsid(2)), so its children are in it
unless they made a session of their own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

from btw_core.clock import boottime
from btw_core.command import describe, proc_stat
from btw_core.resource import Process
from btw_core.timing import KILL_GRACE

#: Seconds between two rounds of SIGKILL: a process may fork while it is being killed.
_ROUND = 0.1


def end_session(leader: Process, *, patience: float, log: Callable[[str], None]) -> list[str]:
    """TERM to every process of the leader's session, after `patience` seconds KILL to those that are left. Returns
    descriptions of what survives that. Blocks at most `patience` and KILL_GRACE seconds; may be repeated.

    Without the leader (not even as a zombie) nothing is done: its number may be another session's by now.
    """
    with contextlib.ExitStack() as stack:
        members = _open(leader, {}, stack)
        for descriptor in members.values():
            _send(descriptor, signal.SIGTERM)
            _send(descriptor, signal.SIGCONT)  # a stopped process does not see the TERM
        left = _wait(members, patience)
        if left:
            log(f"SIGKILL after {patience:.3g} s to {'; '.join(describe(pid) for pid in left)}")
        end = boottime() + KILL_GRACE
        while left and boottime() < end:
            left = _open(leader, left, stack)
            for descriptor in left.values():
                _send(descriptor, signal.SIGKILL)
            left = _wait(left, _ROUND)
        return [describe(pid) for pid in left]


def ended_within(process: Process, seconds: float) -> int | None:
    """The exit code (negative: signal) of a child of this process that ends within so many seconds, else None. Leaves
    it unreaped."""
    with contextlib.ExitStack() as stack:
        descriptor = os.pidfd_open(process.pid)
        stack.callback(os.close, descriptor)
        if _wait({process.pid: descriptor}, seconds):
            return None
    result = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def _open(leader: Process, known: dict[int, int], stack: contextlib.ExitStack) -> dict[int, int]:
    """`known` and every further living process of the session, as pid -> pidfd."""
    found = dict(known)
    stat = proc_stat(leader.pid)
    if stat is None or stat.start_time != leader.start_time:
        return found
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) in found:
            continue
        pid = int(entry.name)
        stat = proc_stat(pid)
        if stat is None or stat.session != leader.pid or stat.state in "ZX":
            continue
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        stack.callback(os.close, descriptor)
        again = proc_stat(pid)  # the pidfd is of what was seen, not of a later owner of the number
        if again is not None and again.start_time == stat.start_time:
            found[pid] = descriptor
    return found


def _send(descriptor: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile, which is what is wanted
        signal.pidfd_send_signal(descriptor, number)


def _wait(members: dict[int, int], seconds: float) -> dict[int, int]:
    """Those that have not ended after at most so many seconds."""
    left, end = dict(members), boottime() + seconds
    while left:
        poll = select.poll()
        for descriptor in left.values():
            poll.register(descriptor, select.POLLIN)
        ended = {descriptor for descriptor, _ in poll.poll(max(0.0, end - boottime()) * 1000)}
        left = {pid: descriptor for pid, descriptor in left.items() if descriptor not in ended}
        if not ended:
            break
    return left
