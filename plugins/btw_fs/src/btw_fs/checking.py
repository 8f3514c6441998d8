"""`btw check` of an `fs`. Changes nothing; mounts nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from btw_core import Problem
from btw_core.resource import CheckContext, Resource

from . import devices, disks, fsck
from .boot import at_boot
from .devices import Block
from .fs import Fs
from .mountinfo import within
from .target import Kind, kind_of

#: Seconds for blkid and modprobe.
LIMIT = 10.0


def problems(fs: Fs, ctx: CheckContext) -> list[Problem]:
    """What is wrong with it on this node."""
    kind = kind_of(fs.device, fs.fstype, fs.options)
    found = [*_pointless(fs, kind), *_directory(fs), *_type(fs, kind), *_namespace()]
    block, problem = _block(fs) if kind is Kind.BLOCK else (None, None)
    if problem is not None:
        found.append(problem)
    found += _boot(fs, kind, block)
    found += _others(fs, ctx, block)
    if block is not None:
        found += _shared(fs, ctx, block)
    return found


def _warning(key: str, text: str, remedy: str) -> Problem:
    return Problem(key=key, text=text, remedy=remedy, severity="warning")


def _pointless(fs: Fs, kind: Kind) -> Iterator[Problem]:
    """Parameters that cannot work, or have no effect."""
    if kind is Kind.VIRTUAL and not fs.fstype:
        text = f"{fs.device} is neither a device (/dev/..., UUID=...) nor HOST:/PATH"
        yield Problem(key="device", text=text, remedy='write its type as well, such as fstype = "tmpfs", or correct it')
    if fs.look == "write" and fs.options.readonly:
        yield Problem(key="check", text='check = "write" on a read-only mount', remedy='check = "read", or options')
    if kind is not Kind.BLOCK and fs.fsck == "always":
        yield _warning("fsck", f"a {kind.value} is not checked by fsck", "remove it")
    if kind is Kind.BLOCK and not fs.device.tag and fs.device.startswith("/dev/sd"):
        text = f"{fs.device} may be another disk after the next boot"
        yield _warning("device", text, f"name it by /dev/disk/by-id or UUID= (blkid {fs.device})")


def _directory(fs: Fs) -> Iterator[Problem]:
    try:
        real = os.path.realpath(fs.directory, strict=True)
    except OSError as error:
        if not fs.create_directory:
            remedy = f"mkdir -p {fs.directory}, or create_directory = true"
            yield Problem(key="directory", text=f"{fs.directory}: {error.strerror}", remedy=remedy)
        return
    if real != fs.directory:
        yield Problem(key="directory", text=f"{fs.directory} leads to {real}", remedy=f'write directory = "{real}"')
    elif not Path(real).is_dir():
        yield Problem(key="directory", text=f"{fs.directory} is no directory", remedy="name one")


def _type(fs: Fs, kind: Kind) -> Iterator[Problem]:
    """The kernel knows it, or has a module or a helper program for it."""
    name = fs.fstype
    if kind is Kind.BIND or not name:
        return
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    helper = shutil.which(f"mount.{name}", path="/sbin:/usr/sbin:/usr/local/sbin")
    plain = name.partition(".")[0]
    if plain not in known and not helper and _run(["modprobe", "-n", "-q", f"fs-{plain}"], 1) != "":
        text = f"fstype = {name}: this kernel has no such file system, and there is no mount.{name}"
        remedy = "correct it, or install what provides it (`cat /proc/filesystems`)"
        yield Problem(key="fstype", text=text, remedy=remedy)
    words = fsck.command(fs.fsck, name, "")
    if words and shutil.which(words[0], path="/sbin:/usr/sbin:/bin:/usr/bin") is None:
        text = f"{words[0]}, which checks {name} before it is mounted, is not installed"
        yield Problem(key="fsck", text=text, remedy='install it (e2fsprogs, dosfstools, ...), or fsck = "never"')


def _namespace() -> Iterator[Problem]:
    try:
        own, first = (Path(f"/proc/{each}/ns/mnt").readlink() for each in ("self", "1"))
    except OSError:  # only root may ask
        yield _warning("", "only root may mount", "run btw as root")
        return
    if own != first:
        text = "btw runs in a mount namespace of its own: nobody else sees what it mounts"
        yield _warning("", text, "remove PrivateMounts=, PrivateTmp=, ProtectSystem= and the like from its unit")


def _block(fs: Fs) -> tuple[Block | None, Problem | None]:
    """It may come later, with the first resource of the package, so that it is missing is no error."""
    path = str(fs.device)
    if fs.device.tag:
        path = _run(["blkid", "-l", "-o", "device", "-t", "=".join(fs.device.tag)]).strip()
    if not path or not Path(path).exists():
        text = f"{fs.device} is not there now"
        return None, _warning("device", text, "connect its storage, or correct it (`lsblk -o NAME,UUID,LABEL`)")
    if not Path(path).is_block_device():
        remedy = f"a file needs a loop device first: losetup --find --show {path}"
        return None, Problem(key="device", text=f"{path} is no block device", remedy=remedy)
    number = disks.number_of(path)
    if number is None:
        return None, None
    block = Block(os.path.realpath(path), number)
    if above := devices.above(number):
        text = f"{', '.join(above)} is made of {fs.device} (multipath, LVM, md)"
        return block, Problem(key="device", text=text, remedy="name that device")
    return block, None


def _boot(fs: Fs, kind: Kind, block: Block | None) -> Iterator[Problem]:
    """Mounted at boot it would be up on every node at once."""
    for each in at_boot():
        same = block is not None and _number(each.source) == block.number
        if same or os.path.normpath(each.directory or "/") == fs.directory or each.source == fs.device:
            text = f"{each.where} mounts {each.source} on {each.directory} at boot, on this node"
            severity = "error" if kind is Kind.BLOCK else "warning"
            yield Problem(key="device", text=text, remedy=each.remedy, severity=severity)


def _number(source: str) -> tuple[int, int] | None:
    kind, equals, value = source.partition("=")
    return disks.number_of(f"/dev/disk/by-{kind.lower()}/{value.strip(chr(34))}" if equals else source)


def _others(fs: Fs, ctx: CheckContext, block: Block | None) -> Iterator[Problem]:
    """One device, or one directory in another's, in two packages or in the wrong order."""
    before = True
    for sibling in ctx.everything:
        other = sibling.resource
        if other is fs:
            before = False
        if not isinstance(other, Fs) or other is fs:
            continue
        same = other.device == fs.device or (
            block is not None and not other.device.tag and disks.number_of(other.device) == block.number
        )
        where = f"`{other.name}` of package {sibling.package}"
        if same and kind_of(fs.device, fs.fstype, fs.options) is Kind.BLOCK and sibling.package != ctx.package:
            yield Problem(key="device", text=f"{fs.device} is also that of {where}", remedy="give each its own")
        if other.directory != fs.directory and within(other.directory, fs.directory):
            if sibling.package != ctx.package:
                text = f"{where} is mounted below {fs.directory}, and would be unmounted with it"
                yield Problem(key="directory", text=text, remedy="put both into one package, the outer one first")
            elif before:
                text = f"{where} comes first and would be hidden: it is mounted on {other.directory}, below this one"
                yield Problem(key="directory", text=text, remedy=f"move it below `{fs.name}`")


def _shared(fs: Fs, ctx: CheckContext, block: Block) -> Iterator[Problem]:
    """Another computer can write to the disk, and nothing on the disk keeps one that lost its lock from it."""
    bottom = disks.disks(block.number)
    ways = {way for disk in bottom if (way := disks.reached_by_others(disk))}
    if not ways or any(_fences(each.resource, bottom) for each in ctx.everything if each.package == ctx.package):
        return
    way = ", ".join(sorted(ways))
    text = f"other computers can reach {fs.device} ({way}), and no scsi_pr of this package guards it"
    remedy = "put a resource of type scsi_pr with this disk before it; a node that hangs could else write later"
    if fs.fstype in ("", "ext4"):
        remedy += "; at the least: tune2fs -O mmp (a start after a crash then takes some 10 s longer)"
    yield _warning("device", text, remedy)


def _fences(resource: Resource, bottom: set[Path]) -> bool:
    """A resource of the layer "fencing" whose `devices` (or `device`) are the disks below ours."""
    if resource.layer != "fencing":
        return False
    named = getattr(resource, "devices", None) or getattr(resource, "device", None) or ()
    paths: Iterable[object] = (named,) if isinstance(named, str | os.PathLike) else named
    numbers = [number for path in paths if (number := disks.number_of(str(path))) is not None]
    return any(bottom & disks.disks(number) for number in numbers)


def _run(words: list[str], code: int | None = None) -> str:
    """Its output; with `code`: something when it ended with that, "" otherwise."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if code is not None:
        return "yes" if done.returncode == code else ""
    return done.stdout
