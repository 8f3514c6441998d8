"""The mounts of one namespace as /proc/PID/mountinfo tells them (proc(5)). Pure.

Places are compared as the kernel walks them, mount by mount, never as texts that begin alike: /srv is not over /srv2,
and what is mounted on /srv/a before something covers /srv is not at /srv/a any more.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

Number = tuple[int, int]  # major, minor

_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line. `number` is that of the superblock: the block device's own for most types, an anonymous one (major 0)
    for btrfs, tmpfs and network types. `root` is the part of the file system that is mounted."""

    id: int
    parent: int
    number: Number
    root: str
    point: str
    options: frozenset[str]
    fstype: str
    source: str
    super_options: frozenset[str]

    @property
    def readonly(self) -> bool:
        return "ro" in self.options or "ro" in self.super_options


def parse(data: bytes) -> list[Mount]:
    """Every complete line. Raises ValueError when one is no line of mountinfo."""
    return [_mount(line) for line in data.split(b"\n") if line]


@functools.lru_cache(4096)
def _mount(line: bytes) -> Mount:
    before, dash, after = line.partition(b" - ")
    head, tail = before.split(b" "), after.split(b" ")
    if not dash or len(head) < 6 or len(tail) < 3:
        raise ValueError(f"not a line of mountinfo: {line!r}")
    major, _, minor = head[2].partition(b":")
    return Mount(
        id=int(head[0]),
        parent=int(head[1]),
        number=(int(major), int(minor)),
        root=plain(head[3]),
        point=plain(head[4]),
        options=frozenset(plain(head[5]).split(",")),
        fstype=plain(tail[0]),
        source=plain(tail[1]),
        super_options=frozenset(plain(tail[2]).split(",")),
    )


def plain(field: bytes) -> str:
    r"""Space, tab, newline, # and \ are \ooo (fs/proc_namespace.c, mangle)."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def within(path: str, place: str) -> bool:
    """`path` is `place` or below it. Both are absolute and normal."""
    return path == place or path.startswith(place.rstrip("/") + "/")


def _way(path: str) -> Iterator[str]:
    """The directories that a walk to `path` passes: /, /srv, /srv/www."""
    yield "/"
    end = 0
    while path != "/" and end < len(path):
        end = path.find("/", end + 1)
        end = len(path) if end < 0 else end
        yield path[:end]


class Table:
    """All mounts at one instant."""

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self.mounts = tuple(mounts)
        self._ids = {mount.id: mount for mount in self.mounts}
        self._children: dict[int, list[Mount]] = {}
        self._over = {(mount.parent, mount.point): mount for mount in self.mounts if mount.id != mount.parent}
        for mount in self._over.values():
            self._children.setdefault(mount.parent, []).append(mount)

    def __iter__(self) -> Iterator[Mount]:
        return iter(self.mounts)

    def get(self, id: int) -> Mount | None:
        return self._ids.get(id)

    def holding(self, path: str) -> Mount | None:
        """The mount in which a walk to `path` ends (no symbolic links in it): the uppermost one on each way point."""
        here = next((each for each in self.mounts if each.point == "/" and each.parent not in self._ids), None)
        for place in _way(path):
            while here is not None and (over := self._over.get((here.id, place))) is not None:
                here = over
        return here

    def at(self, path: str) -> Mount | None:
        """What is mounted on the directory `path` and seen there."""
        found = self.holding(path)
        return found if found is not None and found.point == path else None

    def below(self, mount: Mount) -> list[Mount]:
        """Everything mounted on it or on what is mounted on it, the innermost first, without itself."""
        found: list[Mount] = []
        for child in self._children.get(mount.id, ()):
            found += [*self.below(child), child]
        return found

    def cover(self, mount: Mount) -> Mount | None:
        """What is seen at its place instead of it, None when it is seen itself."""
        seen = self.holding(mount.point)
        return None if seen is not None and seen.id == mount.id else seen
