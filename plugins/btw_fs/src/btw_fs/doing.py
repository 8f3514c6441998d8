"""Start of an `fs`: wait for the device, refuse what is in use, flush, check, mount, verify."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from btw_core import Context, Failed
from btw_core.clock import boottime
from btw_core.command import last_said

from . import devices, fsck, kernel
from .devices import Block
from .fs import Fs
from .mountinfo import Mount, Table, within
from .placing import remember, target_of
from .target import Kind, Target, kind_of

#: Seconds for somebody who has a device open for a moment (udev, a probe) to let it go.
BRIEF = 1.0
_DMESG = "dmesg(1) may have more information after failed mount system call."


def start(fs: Fs, ctx: Context) -> None:
    """See `Fs.start`. Blocks for the device, the check and the mount, `ctx.remaining()` at most. Raises Failed."""
    kind = kind_of(fs.device, fs.fstype, fs.options)
    block = devices.appear(fs.device, ctx) if kind is Kind.BLOCK else None
    table = kernel.table()
    _directory(fs, ctx, table)
    target = target_of(fs, ctx, table, block)
    if (there := table.at(fs.directory)) is not None and target.is_(there):
        _good(fs, there)
        remember(ctx, there, block.number if block else there.number)
        return
    _free(fs, target, table)
    fstype = fs.fstype
    if block is not None:
        _unheld(fs, block)
        ctx.recheck()
        kernel.flush(block.path)
        fstype = fstype or _type(block, ctx)
        _check(fs, ctx, fstype, block)
    _mount(fs, ctx, kind, fstype, block)
    table = kernel.table()
    mounted = table.at(fs.directory)
    ours = mounted is not None and target_of(fs, ctx, table, block).is_(mounted)
    if mounted is None or not ours or (kind is not Kind.NETWORK and kernel.where(fs.directory).mount != mounted.id):
        seen = f"{mounted.source} is" if mounted else "nothing is"
        raise Failed(f"{fs.directory}: mount said that it was done, but {seen} mounted there; see `findmnt`")
    remember(ctx, mounted, block.number if block else mounted.number)
    _good(fs, mounted)


def _good(fs: Fs, mount: Mount) -> None:
    if mount.readonly and not fs.options.readonly:
        raise Failed(
            f"{fs.directory}: {mount.source} is mounted read-only, which options do not ask for: its device is "
            "write-protected, or the kernel found errors (see dmesg)"
        )


# ---- refusals
def _directory(fs: Fs, ctx: Context, table: Table) -> None:
    """It is there, is one, is meant literally, and holds nothing that would be hidden."""
    path = fs.directory
    if table.at(path) is not None:
        return  # what is there is looked at as a mount
    if fs.create_directory:
        ctx.recheck()
        try:
            Path(path).mkdir(0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise Failed(f"{path}: cannot be created: {error.strerror}") from None
    try:
        found = os.lstat(path)
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}; mkdir -p {path}, or create_directory = true") from None
    real = os.path.realpath(path)
    if not stat.S_ISDIR(found.st_mode) or real != path:
        what = f"leads to {real} by a symbolic link: write that" if Path(path).is_dir() else "is none"
        raise Failed(f"{path}: a directory is wanted, and this {what}")
    inner = [mount.point for mount in table if mount.point != path and within(mount.point, path)]
    if inner:
        raise Failed(f"{path}: {', '.join(inner)} is mounted below it and would be hidden; unmount it first")
    if not fs.allow_nonempty and any(os.scandir(path)):
        raise Failed(
            f"{path}: is not empty, and what is in it would be hidden: move it away (services may have written there "
            "while nothing was mounted), or allow_nonempty = true"
        )


def _free(fs: Fs, target: Target, table: Table) -> None:
    """Nothing else is there, and the source is nowhere else."""
    there = table.at(fs.directory)
    if there is not None:
        raise Failed(
            f"{fs.directory}: {there.source} ({there.fstype}) is mounted there, not {fs.device}; if it is not wanted: "
            f"umount {fs.directory}"
        )
    if target.kind is not Kind.BLOCK:
        return
    for mount in table:
        if target.is_(mount):
            raise Failed(
                f"{fs.device}: is mounted on {mount.point}, not by this package; unmount it there (umount "
                f"{mount.point}), and see that /etc/fstab does not mount it"
            )


def _unheld(fs: Fs, block: Block) -> None:
    end = boottime() + BRIEF
    while kernel.held(block.path):
        if boottime() >= end:
            raise Failed(f"{fs.device}: {block.path} is in use on this node: {devices.owner(block)}")
        time.sleep(0.02)


# ---- check and mount
def _type(block: Block, ctx: Context) -> str:
    """What the device holds (blkid(8), low-level probe)."""
    done = ctx.run(["blkid", "-p", "-o", "value", "-s", "TYPE", "--", block.path], ok=(0, 2, 8))
    found = done.output.strip()
    if done.code == 8:
        raise Failed(f"{block.path}: blkid finds more than one type on it; give fstype, or wipefs {block.path}")
    if not found:
        raise Failed(f"{block.path}: no file system is found on it; wrong device? See `blkid -p {block.path}`")
    return found


def _check(fs: Fs, ctx: Context, fstype: str, block: Block) -> None:
    words = fsck.command(fs.fsck, fstype, block.path)
    if not words:
        return
    said = kernel.listen()
    ctx.recheck()
    done = ctx.run(words, ok=(), env={"LC_ALL": "C"})
    kernel_said = said(block.name, fstype)
    verdict = fsck.verdict(words, done.code)
    if not verdict.ok:
        raise Failed(f"{verdict.text}{_multimount(done.output)}{_kernel(kernel_said, block.path)}")
    if verdict.text:
        ctx.log(verdict.text)


def _multimount(said: str) -> str:
    if "MMP" in said or "multi-mount" in said.lower():
        return "; multi-mount protection (mmp): another node has it mounted or checks it: see that it is down there"
    return last_said(said)


def _kernel(said: str, path: str) -> str:
    """Its words behind an error. A write that a reservation refuses looks like a broken disk to who writes."""
    text = f"; the kernel says: {said}" if said else ""
    if "nexus error" in said or "reservation conflict" in said:  # BLK_STS_RESV_CONFLICT, by its old and new name
        text += f"; a reservation on the disk refuses this node, see `btw scsi-pr show {path}`: it is not broken, the "
        text += "package wants a resource of type scsi_pr before this one"
    return text


def _mount(fs: Fs, ctx: Context, kind: Kind, fstype: str, block: Block | None) -> None:
    """mount(8): it knows every option and every helper. Its errors get the kernel's words."""
    options = list(fs.options.words)
    if kind is Kind.BIND and not {"bind", "rbind"} & set(options):
        options.insert(0, fstype or "bind")
    words = ["mount"]
    if kind is not Kind.BIND and fstype:
        words += ["-t", fstype]
    if options:
        words += ["-o", ",".join(options)]
    words += ["--", block.path if block else fs.device, fs.directory]
    end = boottime() + BRIEF
    while True:
        said = kernel.listen()
        ctx.recheck()
        done = ctx.run(words, ok=(), env={"LC_ALL": "C"})
        kernel_said = said(block.name if block else "", fstype)
        if done.code == 0:
            return
        busy = "already mounted or mount point busy" in done.output or "Device is already active" in kernel_said
        if not busy or "MMP" in kernel_said or "multi_mount" in kernel_said or boottime() >= end:
            break
        time.sleep(0.05)
    text = " ".join(line.strip() for line in done.output.replace(_DMESG, "").splitlines() if line.strip())
    text = f"{text or f'mount: exit code {done.code}'}{_kernel(kernel_said, block.path if block else '')}"
    if "MMP" in kernel_said or "multi_mount" in kernel_said:
        text += "; multi-mount protection: another node has it mounted; see that it is down there"
    raise Failed(f"{fs.directory}: {text}")
