"""The target of a resource now: by its parameters, by what the state remembers of the start, and by what is there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from btw_core import Context
from btw_core.clock import boot_id

from . import devices
from .devices import Block
from .fs import Fs
from .mountinfo import Mount, Number, Table
from .target import Kind, Target, kind_of


def target_of(fs: Fs, ctx: Context, table: Table, block: Block | None = None) -> Target:
    """What start has written into the state of this boot counts, also when the device has gone; otherwise what is there
    now. May run blkid(8) for a UUID that was not started here. Raises as `devices.find`."""
    kind = kind_of(fs.device, fs.fstype, fs.options)
    known = remembered(ctx)
    numbers, sources, root = set[Number](), {fs.device.rstrip("/")}, ""
    if known:
        numbers |= {(known["device"][0], known["device"][1]), (known["number"][0], known["number"][1])}
        sources |= {known["source"]}
        root = known["root"]
    elif kind is Kind.BIND:
        numbers, root = _bound(fs.device, table)
    if kind is Kind.BLOCK and block is None and (not known or fs.device.tag is None):
        block = devices.find(fs.device, ctx)
    if block is not None:
        numbers.add(block.number)
        sources |= {block.path, *_members(block)}
    if kind is Kind.BLOCK and not root and (subvolume := fs.options.value("subvol")):
        root = "/" + subvolume.strip("/")
    return Target(kind, fs.directory, fs.fstype, frozenset(numbers), frozenset(sources), root)


def remembered(ctx: Context) -> dict[str, Any]:
    """What start has written, {} when that was in another boot."""
    return ctx.state if ctx.state.get("boot") == ctx.shared(boot_id) else {}


def remember(ctx: Context, mount: Mount, device: Number) -> None:
    """For stop and status: device numbers hold for as long as it is mounted, names may go."""
    ctx.state.update(
        boot=ctx.shared(boot_id), device=device, number=mount.number, source=mount.source, root=mount.root, id=mount.id
    )


def _bound(source: str, table: Table) -> tuple[set[Number], str]:
    """Number and root that a bind mount of this directory has."""
    source = os.path.realpath(source)
    mount = table.holding(source)
    if mount is None:
        return set(), "?"
    rest = os.path.relpath(source, mount.point)
    return {mount.number}, os.path.normpath(f"{mount.root}/{rest}").replace("//", "/")


def _members(block: Block) -> set[str]:
    """Paths of all devices of a btrfs: mountinfo names any one of them, and an anonymous number."""
    found = set()
    with contextlib.suppress(OSError):
        for each in Path("/sys/fs/btrfs").glob(f"*/devices/{block.name}"):
            found |= {f"/dev/{name}" for name in (other.name for other in each.parent.iterdir())}
    return found
