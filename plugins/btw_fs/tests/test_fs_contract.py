"""The kit of resource types on `fs`: a real disk, in a mount namespace."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fs_place import disk, mount, root

from btw_core.testing import ResourceContract
from btw_fs import kernel

pytestmark = root
Table = dict[str, Any]
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


class TestFs(ResourceContract):
    light = ("pyudev",)
    bad = (
        ({"directory": "srv/data"}, "directory"),
        ({"directory": "/"}, "directory"),
        ({"options": "-o noatime"}, "options"),
        ({"fsck": "sometimes"}, "fsck"),
        ({"check": "listen"}, "check"),
    )

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
        """This thread, and so all that it starts, has mounts of its own meanwhile."""
        place = tmp_path_factory.mktemp("fs")
        (place / "m").mkdir()
        before = Path.cwd()
        with disk(place, "ext4") as device, Path("/proc/thread-self/ns/mnt").open() as here:
            try:
                assert _libc.unshare(_CLONE_NEWNS) == 0
                mount(b"none", "/", b"", _MS_REC | _MS_PRIVATE)
                yield {"type": "fs", "device": device, "directory": str(place / "m"), "check": "read"}
            finally:
                subprocess.run(["umount", place / "m"], check=False, stderr=subprocess.DEVNULL)
                _libc.setns(here.fileno(), _CLONE_NEWNS)
                os.chdir(before)

    def break_it(self, table: Table) -> None:
        subprocess.run(["umount", table["directory"]], check=True)

    def effect(self, table: Table) -> bool:
        seen = any(each.point == table["directory"] for each in kernel.table("/proc/thread-self/mountinfo"))
        return seen or kernel.held(table["device"])

    def endless(self, table: Table) -> Table:
        return {**table, "device": "/dev/never-there"}
