"""Leaving a herald behind, and ending it; see `herald` for what it does."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from btw_core import Context, Failed
from btw_core.clock import boottime
from btw_core.command import alive, proc_stat
from btw_core.containment import kill_process, own_cgroup
from btw_core.resource import Process

from . import herald

#: Seconds for a herald to be gone after SIGKILL.
KILL = 2.0
#: Seconds for a herald to fork, and how many are asked before another program is begun.
FORK, ASKED = 0.2, 2


def leave(ctx: Context, interface: str) -> None:
    """Unless the one that we left runs, and speaks there."""
    process = _known(ctx)
    if process is not None and alive(process) and ctx.state.get("interface") == interface:
        return
    end(ctx)
    ctx.state["herald"] = _twin(ctx, interface) or _spawned(ctx, interface)


def end(ctx: Context) -> None:
    """One that is not known any more is the core's sweep's business; nobody tells it to speak. Raises Failed."""
    process = _known(ctx)
    if process is not None and alive(process):
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(process.pid)
            try:
                kill_process(process)
                if not select.select([descriptor], [], [], min(KILL, ctx.remaining()))[0]:
                    raise Failed(f"the herald (pid {process.pid}) survives SIGKILL")
            finally:
                os.close(descriptor)
    ctx.state.pop("herald", None)


def _known(ctx: Context) -> Process | None:
    known = ctx.state.get("herald")
    return Process(pid=known["pid"], start_time=known["start_time"]) if known else None


def _spawned(ctx: Context, interface: str) -> dict[str, Any]:
    name = _prefix() + secrets.token_hex(8)
    process = ctx.spawn([sys.executable, "-I", "-S", herald.__file__, name, interface])
    return {"name": name, "pid": process.pid, "start_time": process.start_time}


def _twin(ctx: Context, interface: str) -> dict[str, Any] | None:
    """A fork of a herald that runs already. It is what a spawned one is, in the same place, but shares its memory. None
    where there is no cgroup for it, or nobody answers."""
    place, environment = own_cgroup(), ctx.environment()
    if place is None or place.parts[-2:] != (environment["BTW_PACKAGE"], environment["BTW_OPERATION"]):
        return None
    for mother in list(there())[:ASKED]:
        name = _prefix() + secrets.token_hex(8)
        # OSError: it has ended meanwhile, or does not answer
        with contextlib.suppress(OSError), contextlib.closing(herald.ears("")) as mine:
            mine.settimeout(FORK)
            asked = boottime() - herald.STALE + FORK  # not to be done later
            mine.sendto(herald.request(asked, name, interface, str(place)), f"\0{mother}")
            _, pid, uid, _ = herald.heard(mine)
            stat = proc_stat(pid)
            if uid == os.geteuid() and stat is not None:
                return {"name": name, "pid": pid, "start_time": stat.start_time}
    return None


def there() -> Iterator[str]:
    """The names of heralds in this network namespace, of this very release."""
    sign = f"@{_prefix()}"
    for line in Path("/proc/self/net/unix").read_text(errors="replace").splitlines():
        name = line.rpartition(" ")[2]
        if name.startswith(sign):
            yield name[1:]


def _prefix() -> str:
    return f"btw-vip-{zlib.crc32(Path(herald.__file__).read_bytes()):08x}-"
