"""Not to be kept waiting by the memory or the processor of a busy computer. Standard library only."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # mlock(2), include/uapi/asm-generic/mman.h


def steady(priority: int = 0) -> str:
    """Keep this process's memory from being paged out, and give it the real-time `priority` (1 to 99; 0: none) that
    its children do not inherit. Returns what was not permitted, "" when all was: it is a help, not a promise.

    MCL_ONFAULT locks only what is used: without it the stacks of 150 threads alone would be 1.2 GB."""
    refused = []
    # where RLIMIT_MEMLOCK holds, a lock that fits today makes an allocation fail tomorrow
    free = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    libc = ctypes.CDLL(None, use_errno=True)
    if not free:
        refused.append("memory is not locked: RLIMIT_MEMLOCK is not unlimited")
    elif libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        refused.append(f"memory is not locked: mlockall: {os.strerror(ctypes.get_errno())}")
    if priority:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
        except OSError as error:
            refused.append(f"priority {priority}: sched_setscheduler: {error.strerror}")
    return "; ".join(refused)


def ordinary() -> None:
    """For what is to be neither spared by the OOM killer nor anything else that btw itself is: the first of a family of
    processes calls it (proc_pid_oom_score_adj(5): everybody may raise his own)."""
    file = Path("/proc/self/oom_score_adj")
    if int(file.read_text()) < 0:
        file.write_text("0")
