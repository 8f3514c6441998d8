"""What is mounted where, as /proc/self/mountinfo tells it (proc_pid_mountinfo(5)). No file system is asked, so nothing
here hangs with one that does not answer."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line. `device`: "MAJOR:MINOR" of the file system, `root`: the part of it that is mounted on `point`."""

    device: str
    root: str
    point: str
    options: str
    kind: str
    source: str


def mounts(file: Path = MOUNTINFO) -> Iterator[Mount]:
    """Names need not be UTF-8, and come as os.fsdecode has them. Raises OSError."""
    return parse(os.fsdecode(file.read_bytes()))


def parse(text: str) -> Iterator[Mount]:
    """In the order in which they were mounted; of two on one another the last one is seen."""
    for line in text.split("\n"):
        before, dash, after = line.partition(" - ")
        if dash:  # else the end
            _, _, device, root, point, options, *_ = before.split(" ")
            kind, source, *_ = after.split(" ")
            yield Mount(device, _plain(root), _plain(point), options, kind, _plain(source))


def _plain(field: str) -> str:
    r"""Space, tab, newline, # and \ are \ooo (fs/proc_namespace.c, mangle)."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), field)
