"""Resource types that break the rules, each in its own way. Their one effect is a file `up-NODE` in `dir`; whoever
finds another node's there when his own appears writes that down in the file `two`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from pathlib import Path
from typing import Annotated, NoReturn

from msgspec import Meta

from btw_core import Context, Resource, Status, hookimpl

_ROOM: list[bytearray] = []
_LONG = 3600


class Honest(Resource, frozen=True, kw_only=True):
    """What all have in common, without a fault."""

    dir: Annotated[str, Meta(description="where its effect is", min_length=2)]

    def status(self, ctx: Context) -> Status:
        return Status.UP if self._file(ctx).exists() else Status.DOWN

    def start(self, ctx: Context) -> None:
        self._file(ctx).touch()
        others = sorted(path.name for path in Path(self.dir).glob("up-*") if path != self._file(ctx))
        if others:
            with Path(self.dir, "two").open("a") as file:
                file.write(f"{self._file(ctx).name} beside {', '.join(others)}\n")

    def stop(self, ctx: Context) -> None:
        self._file(ctx).unlink(missing_ok=True)

    def _file(self, ctx: Context) -> Path:
        return Path(self.dir, f"up-{ctx.node}")


class StartsInStatus(Honest, frozen=True, kw_only=True, tag="starts_in_status"):
    """Its status starts what is not there."""

    def status(self, ctx: Context) -> Status:
        self.start(ctx)
        return Status.UP


class Deaf(Honest, frozen=True, kw_only=True, tag="deaf"):
    """Its start does not look at its deadline, and swallows whatever would end it."""

    def start(self, ctx: Context) -> NoReturn:
        super().start(ctx)
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(_LONG)


class HoldsGil(Honest, frozen=True, kw_only=True, tag="holds_gil"):
    """Its start calls into C and does not give the interpreter's lock back."""

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        ctypes.PyDLL(None).sleep(_LONG)


class HoldsGilInStatus(Honest, frozen=True, kw_only=True, tag="holds_gil_in_status"):
    """Its status does so, once it is up."""

    def status(self, ctx: Context) -> Status:
        if self._file(ctx).exists():
            ctypes.PyDLL(None).sleep(_LONG)
        return super().status(ctx)


class Segfaults(Honest, frozen=True, kw_only=True, tag="segfaults"):
    """Its start is killed by SIGSEGV when it has had its effect."""

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        ctypes.string_at(0)


class Exits(Honest, frozen=True, kw_only=True, tag="exits"):
    """Its start ends the process as if all were well."""

    def start(self, ctx: Context) -> NoReturn:
        super().start(ctx)
        os._exit(0)


class Leaks(Honest, frozen=True, kw_only=True, tag="leaks"):
    """Each status keeps a mebibyte."""

    def status(self, ctx: Context) -> Status:
        _ROOM.append(bytearray(os.urandom(1024)) * 1024)
        return super().status(ctx)


class Hangs(Honest, frozen=True, kw_only=True, tag="hangs"):
    """Its start reads a file of a mount that never answers, in state D."""

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        Path(self.dir, "hanging/file").read_text()


class StopLies(Honest, frozen=True, kw_only=True, tag="stop_lies"):
    """Its stop does nothing and says it has; its status is honest."""

    def stop(self, ctx: Context) -> None: ...


class AllLies(Honest, frozen=True, kw_only=True, tag="all_lies"):
    """Its stop does nothing, and its status says down after it."""

    def status(self, ctx: Context) -> Status:
        return Status.DOWN if Path(self.dir, f"said-{ctx.node}").exists() else super().status(ctx)

    def start(self, ctx: Context) -> None:
        Path(self.dir, f"said-{ctx.node}").unlink(missing_ok=True)
        super().start(ctx)

    def stop(self, ctx: Context) -> None:
        Path(self.dir, f"said-{ctx.node}").touch()


class LyingDaemon(AllLies, frozen=True, kw_only=True, tag="lying_daemon"):
    """And its effect goes on: a program that its start has hidden from btw, in another cgroup and without btw's
    environment, but for the term. Its pid is in the file `pid`."""

    command: Annotated[tuple[str, ...], Meta(description="the program")]

    def start(self, ctx: Context) -> None:
        super().start(ctx)
        hide = f'echo $$ > /sys/fs/cgroup/cgroup.procs; echo $$ > {self.dir}/pid; exec "$@" > /dev/null 2>&1'
        environment = {"PATH": os.defpath, "BTW_TERM": str(ctx.term)}
        subprocess.Popen(["sh", "-c", hide, "sh", *self.command], env=environment, start_new_session=True)


@hookimpl
def btw_resource_types() -> list[type[Resource]]:
    types: list[type[Resource]] = [StartsInStatus, Deaf, HoldsGil, HoldsGilInStatus, Segfaults, Exits, Leaks, Hangs]
    return [*types, StopLies, AllLies, LyingDaemon]
