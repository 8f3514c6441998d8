"""What is to be mounted where: values of parameters, kinds of sources, and which mount is which. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from enum import Enum
from typing import NamedTuple

from .mountinfo import Mount, Number, Table, within

_TAG = re.compile(r"(UUID|LABEL|PARTUUID|PARTLABEL)=(.+)", re.DOTALL)
_SERVER = re.compile(r"(?!/)(\[[0-9a-fA-F:.%]+\]|[^/:\s]+):(/.*)?|//[^/]+/.+", re.DOTALL)
NETWORK_TYPES = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "fuse.glusterfs", "9p", "afs", "fuse.sshfs", "davfs")
)


class Kind(Enum):
    """What a source is."""

    BLOCK = "block device"
    NETWORK = "network file system"
    BIND = "bind mount"
    VIRTUAL = "file system without a device"


class Device(str):
    """A source as mount(8) takes it. Raises ValueError."""

    def __new__(cls, text: str) -> Device:
        if not text or "\0" in text:
            raise ValueError("name a device, such as /dev/sda1 or UUID=...")
        if text.startswith("/") and not text.startswith("//"):
            text = os.path.normpath(text)
        return super().__new__(cls, text)

    @property
    def tag(self) -> tuple[str, str] | None:
        """("UUID", "0a34...") for what a device is found by, None for a path."""
        found = _TAG.fullmatch(self)
        return (found[1], found[2].strip('"')) if found else None


class Directory(str):
    """An absolute path without . and .. in it. Raises ValueError."""

    def __new__(cls, text: str) -> Directory:
        if not text.startswith("/") or "\0" in text:
            raise ValueError("write an absolute path, such as /srv/www")
        normal = "/" + os.path.normpath(text).strip("/")
        if normal == "/" or ".." in text.split("/"):
            raise ValueError("this is no directory that can be mounted on")
        return super().__new__(cls, normal)


class Options(str):
    """Options of mount(8), comma between. Raises ValueError."""

    def __new__(cls, text: str = "") -> Options:
        words = [word.strip() for word in text.split(",")]
        if text.strip().startswith("-"):
            raise ValueError('write only the options, such as "noatime,nodev", without -o')
        for word in ("remount", "move", "loop", "offset", "sizelimit"):
            if any(each.partition("=")[0] == word for each in words):
                raise ValueError(f"{word} is nothing that a package can have; allowed: options of a mount")
        return super().__new__(cls, ",".join(word for word in words if word))

    @property
    def words(self) -> list[str]:
        return self.split(",") if self else []

    @property
    def readonly(self) -> bool:
        return next((word == "ro" for word in reversed(self.words) if word in ("ro", "rw")), False)

    def value(self, name: str) -> str:
        """What follows `name=`, "" when it is not there."""
        return next((word.partition("=")[2] for word in self.words if word.startswith(f"{name}=")), "")


def kind_of(device: Device, fstype: str, options: Options) -> Kind:
    """By what is written, without a look at the computer."""
    if fstype in ("bind", "rbind") or {"bind", "rbind"} & set(options.words):
        return Kind.BIND
    if fstype in NETWORK_TYPES:
        return Kind.NETWORK
    if device.tag:
        return Kind.BLOCK
    if _SERVER.fullmatch(device):
        return Kind.NETWORK
    return Kind.BLOCK if device.startswith("/") else Kind.VIRTUAL


class Target(NamedTuple):
    """What this resource's mount looks like, as far as it is known now.

    `numbers`: those that its superblock may have: the block device's, and what the state remembers. `root`: the part of
    the file system, "" for not known. `sources`: names of the source in mountinfo.
    """

    kind: Kind
    directory: str
    fstype: str
    numbers: frozenset[Number]
    sources: frozenset[str]
    root: str = ""

    @property
    def exclusive(self) -> bool:
        """Its superblock serves nobody else, so that whoever uses the superblock uses this (a btrfs has other
        subvolumes; binds and mounts of one server share theirs)."""
        return self.kind in (Kind.BLOCK, Kind.VIRTUAL) and self.root in ("", "/")

    @property
    def forceable(self) -> bool:
        """What it waits for can be given up: MNT_FORCE (umount2(2))."""
        return self.kind is Kind.NETWORK or self.fstype.startswith("fuse")

    def is_(self, mount: Mount) -> bool:
        """This is a mount of our source, wherever it is."""
        if self.kind in (Kind.NETWORK, Kind.VIRTUAL):
            return mount.source.rstrip("/") in self.sources and (not self.fstype or alike(mount.fstype, self.fstype))
        # an anonymous number: a btrfs that any of its devices names; none known: the device has gone, its name is left
        named = mount.source in self.sources and (mount.number[0] == 0 or not self.numbers)
        if mount.number not in self.numbers and not named:
            return False
        if self.kind is Kind.BIND:
            return mount.root == self.root
        return not self.root or within(mount.root, self.root)

    def here(self, table: Table) -> Mount | None:
        """Our mount on our directory, seen or covered by another."""
        found = [mount for mount in table if mount.point == self.directory and self.is_(mount)]
        return found[-1] if found else None

    def everywhere(self, table: Table) -> list[Mount]:
        """What stop takes away, in its order: what is mounted on ours before it, our directory last. Where others may
        have the same superblock for themselves only what is on our directory is ours."""
        ours = [mount for mount in table if self.is_(mount)]
        placed = [mount for mount in ours if mount.point == self.directory]
        if self.kind in (Kind.BIND, Kind.NETWORK):
            ours = []
        elif self.kind is Kind.VIRTUAL:  # every tmpfs has the same source
            numbers = {mount.number for mount in placed}
            ours = [mount for mount in ours if mount.number in numbers]
        ours = [mount for mount in ours if mount not in placed] + placed
        order: dict[int, Mount] = {}
        for mount in ours:
            for each in (*table.below(mount), mount):
                order.setdefault(each.id, each)
        return list(order.values())


def alike(found: str, wanted: str) -> bool:
    """nfs and nfs4 are one, and so are fuse.TYPE and TYPE."""

    def plain(name: str) -> str:
        return name.removeprefix("fuse.").removeprefix("fuse").rstrip("4") if name.startswith(("nfs", "fuse")) else name

    return plain(found) == plain(wanted)


def unique(found: Collection[str], what: str) -> str:
    """The only device that was found. Raises ValueError with all of them."""
    if len(found) != 1:
        raise ValueError(f"{what}: {len(found)} devices have it: {', '.join(sorted(found))}; name one by its path")
    return next(iter(found))
