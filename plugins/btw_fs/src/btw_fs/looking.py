"""Status and watch of an `fs`."""

from __future__ import annotations

from btw_core import CannotTell, Context, Status

from . import kernel
from .devices import above
from .fs import Fs
from .monitor import Monitor, present
from .mountinfo import Mount, Table
from .placing import remembered, target_of
from .probing import Probes
from .target import Kind, Target


def status(fs: Fs, ctx: Context) -> Status:
    """DOWN: it is mounted nowhere on this node, and its block device serves no file system in another namespace.

    There is one exception: what is broken while the resource is watched (another mount over it, turned read-only, its
    device gone) is DOWN as well, for then the manager can do nothing with DOWN but stop. A stop is verified by this
    very answer, without a watch. Asks no file system and no server. Raises CannotTell."""
    try:
        monitor = ctx.shared(Monitor)
        table = monitor.table()
        target = target_of(fs, ctx, table)
        here = target.here(table)
        if here is None:  # never from memory
            table = monitor.table(fresh=True)
            here = target.here(table)
        if here is None:
            return _absent(fs, ctx, target, table)
        trouble = _trouble(fs, ctx, table, here)
        if trouble:
            ctx.log(f"{fs.directory}: {trouble}")
            return Status.DOWN if monitor.watched((ctx.package, ctx.resource)) else Status.DEGRADED
    except OSError as error:
        raise CannotTell(f"{fs.directory}: the kernel says: {error.strerror or error}") from error
    if fs.look != "mounted" and (said := ctx.shared(Probes).ask(fs, ctx, target, here)):
        ctx.log(f"{fs.directory}: {said}")
        return Status.DEGRADED
    return Status.UP


def watch(fs: Fs, ctx: Context) -> list[int]:
    """One pipe; see `Monitor.watch`."""
    monitor = ctx.shared(Monitor)
    return [monitor.watch((ctx.package, ctx.resource), fs.directory, target_of(fs, ctx, monitor.table()).numbers)]


def _absent(fs: Fs, ctx: Context, target: Target, table: Table) -> Status:
    """It is not on its directory: is it anywhere?"""
    elsewhere = [mount.point for mount in target.everywhere(table) if target.is_(mount)]
    if elsewhere:
        ctx.log(f"{fs.device}: is mounted on {', '.join(elsewhere)}, not on {fs.directory}")
        return Status.DEGRADED
    if target.kind is Kind.BLOCK:
        for number in target.numbers:
            if number[0] and present(number) and not above(number):
                path = kernel.node(number)
                if path not in kernel.swaps() and kernel.held(path):
                    ctx.log(f"{path}: is not mounted here, but in use: mounted in another mount namespace, or checked")
                    return Status.DEGRADED
    return Status.DOWN


def _trouble(fs: Fs, ctx: Context, table: Table, here: Mount) -> str:
    """What is wrong with a mount that is here, "" for nothing."""
    cover = table.cover(here)
    if cover is not None:
        return f"{cover.source} ({cover.fstype}) is mounted over it on {cover.point}: umount {cover.point}"
    if here.readonly and not fs.options.readonly:
        return "it is read-only: the kernel found errors (see dmesg), or somebody remounted it"
    if {"shutdown", "emergency_ro"} & here.super_options:
        return "the kernel has shut it down because of errors: see dmesg"
    known = remembered(ctx)
    if not present((known["device"][0], known["device"][1]) if known else here.number):
        return f"its device {here.source} has gone"
    return ""
