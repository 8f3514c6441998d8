"""Probes of `check = "read"` and `"write"`: one process for each look, which may hang without hanging anything else."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

from btw_core import CannotTell, Context
from btw_core.clock import boottime
from btw_core.explain import processes

from . import probe
from .fs import Fs
from .mountinfo import Mount
from .target import Kind, Target

Key = tuple[str, str]  # package, resource
#: Seconds that a look waits for its probe; later it is said that it hangs. A part of half a pace (btw_core.observer).
PATIENCE = 0.4


class _Probe:
    def __init__(self, words: list[str]) -> None:
        self.began = boottime()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", probe.__file__, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )

    def ended(self, seconds: float) -> bool:
        descriptor = os.pidfd_open(self.process.pid)
        try:
            return bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)

    def result(self) -> str:
        """After its end: what went wrong, "" for nothing."""
        assert self.process.stdout is not None
        code, said = self.process.wait(), self.process.stdout.read(1000).decode(errors="replace").strip()
        self.process.stdout.close()
        return "" if code == 0 else said.splitlines()[-1] if said else f"the probe ended with {code}"


class Probes:
    """All of a process: one under way for each resource, never a second one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Key, _Probe] = {}

    def ask(self, fs: Fs, ctx: Context, target: Target, mount: Mount) -> str:
        """What the probe says, "" when all is well. Blocks PATIENCE at most; then, and as long as that probe has not
        ended, raises CannotTell with what it waits for."""
        key = (ctx.package, ctx.resource)
        with self._lock:
            running = self._running.get(key)
            if running is None:
                running = self._running[key] = _Probe(_words(fs, ctx, target, mount))
        if not running.ended(PATIENCE):
            seen = "; ".join(processes([running.process.pid]))
            since = boottime() - running.began
            raise CannotTell(f"{fs.directory}: a {fs.look} hangs for {since:.1f} s: {seen or 'it has just ended'}")
        with self._lock:
            self._running.pop(key, None)
        late = boottime() - running.began > 2 * PATIENCE
        with contextlib.suppress(ValueError):  # another look has read it
            said = running.result()
            return f"{said} (after {boottime() - running.began:.1f} s)" if said and late else said
        return ""


def _words(fs: Fs, ctx: Context, target: Target, mount: Mount) -> list[str]:
    if fs.look == "write":
        return ["write", fs.directory, f".btw-{ctx.package}.{ctx.resource}"]
    device = mount.source if target.kind is Kind.BLOCK and Path(mount.source).is_block_device() else ""
    return ["read", fs.directory, *([device] if device else [])]
