"""Status and events of an `fs`."""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path
from typing import Any

import pytest
from fs_place import GENEROUS, Host, alone, disk, mount, run, running, until

from btw_core import CannotTell, Status
from btw_core.testing import FakeContext
from btw_fs import kernel


class Watched(Host):
    """As the observer has it while its package runs."""

    def __init__(self, *args: Any, **parameters: Any) -> None:
        super().__init__(*args, **parameters)
        self.start()
        context: Any = FakeContext(None, state=dict(self.state))
        (self.descriptor,) = self.fs.watch(context)

    def told(self, seconds: float = GENEROUS) -> bool:
        """The watch says that status should be asked. It goes on after that."""
        ready = bool(select.select([self.descriptor], [], [], seconds)[0])
        if ready:
            os.read(self.descriptor, 100)
        return ready

    def close(self) -> None:
        os.close(self.descriptor)


def test_events(tmp_path: Path) -> None:
    """Unmounted, covered, remounted read-only, a change of its device: told at once. What happens elsewhere is not."""

    @alone
    def steps() -> None:
        for name in ("m", "elsewhere"):
            (tmp_path / name).mkdir()
        host = Watched(device, tmp_path / "m")
        assert host.status() is Status.UP
        mount(b"elsewhere", tmp_path / "elsewhere", b"tmpfs")
        assert not host.told(1)
        mount(b"over", tmp_path / "m", b"tmpfs")
        assert host.told() and host.status() is Status.DOWN and "umount" in host.said
        run("umount", tmp_path / "m")
        assert host.status() is Status.UP
        until(lambda: host.told(0.2) is False, "it is quiet again")
        run("mount", "-o", "remount,ro", tmp_path / "m")
        assert host.told() and host.status() is Status.DOWN and "read-only" in host.said
        run("mount", "-o", "remount,rw", tmp_path / "m")
        until(lambda: host.told(0.2) is False, "it is quiet again")
        Path(f"/sys/class/block/{Path(device).name}/uevent").write_text("change")
        assert host.told() and host.status() is Status.UP
        until(lambda: host.told(0.2) is False, "it is quiet again")
        run("umount", tmp_path / "m")
        assert host.told() and host.status() is Status.DOWN
        host.close()
        assert host.status() is Status.DOWN

    with disk(tmp_path, "ext4") as device:
        steps()


def test_trouble_is_not_down_for_who_verifies_a_stop(tmp_path: Path) -> None:
    """What a running package must leave at once is DOWN only where it is watched; a stop is verified without a watch,
    and then a mount that is there is never DOWN."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Watched(device, tmp_path / "m")
        run("mount", "-o", "remount,ro", tmp_path / "m")
        assert host.status() is Status.DOWN
        host.close()
        assert host.status() is Status.DEGRADED
        run("umount", tmp_path / "m")
        run("mount", device, tmp_path / "other")
        assert host.status() is Status.DEGRADED and f"is mounted on {tmp_path}/other" in host.said
        host.stop()

    (tmp_path / "other").mkdir()
    with disk(tmp_path, "ext4") as device:
        steps()


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
def test_a_disk_that_fails(tmp_path: Path, fstype: str) -> None:
    """Its disk takes no write any more: the probe that writes says so, and the mark of a kernel that gives up."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Watched(device, tmp_path / "m", look="write")
        assert host.status() is Status.UP
        backing = run("losetup", "-n", "-O", "BACK-FILE", device)
        os.truncate(backing, 0)
        run("losetup", "--set-capacity", device)
        bad = []

        def seen() -> bool:
            try:
                bad.append(host.status())
            except CannotTell:
                return False
            return bad[-1] is not Status.UP

        until(seen, "status says that it fails")
        print(f"{fstype}: {bad[-1]}: {host.lines[-1]}")
        assert f"{tmp_path}/m: " in host.lines[-1]
        host.close()
        host.stop()

    with disk(tmp_path, fstype) as device:
        steps()


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("look", ["read", "write"])
def test_a_full_one_is_healthy(tmp_path: Path, fstype: str, look: str) -> None:
    """No byte is left, also none for the probe: up."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m", look=look)
        host.start()
        with open(tmp_path / "m/full", "wb", buffering=0) as file:
            for size in (1 << 20, 1 << 16, 4096):
                with pytest.raises(OSError, match="No space"):
                    while True:
                        file.write(bytes(size))
                        if size == 1 << 16:
                            os.fsync(file.fileno())
        assert host.status() is Status.UP, host.said
        host.stop()

    with disk(tmp_path, fstype) as device:
        steps()


def test_a_probe_that_hangs(tmp_path: Path) -> None:
    """Only the probe hangs: status cannot tell, says what it waits for, and starts no second one. It answers when the
    file system does."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m", look="write")
        host.start()
        assert host.status() is Status.UP
        run("fsfreeze", "--freeze", tmp_path / "m")
        try:
            for _ in range(3):
                with pytest.raises(CannotTell, match=rf"{tmp_path}/m: a write hangs for .* s: pid \d+ .*state D"):
                    host.status()
            probes = [pid for pid in Path("/proc").iterdir() if pid.name.isdigit() and b"probe.py" in _cmdline(pid)]
            assert len(probes) == 1
        finally:
            run("fsfreeze", "--unfreeze", tmp_path / "m")

        def up() -> bool:
            try:
                return host.status() is Status.UP
            except CannotTell:
                return False

        until(up, "up again")
        host.stop()

    with disk(tmp_path, "ext4") as device:
        steps()


def _cmdline(pid: Path) -> bytes:
    try:
        return (pid / "cmdline").read_bytes()
    except OSError:
        return b""


STORM = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
places = [f"{sys.argv[1]}/{number}".encode() for number in range(20)]
due = time.monotonic()
print("on", flush=True)
while True:
    for place in places:
        if libc.mount(b"storm", place, b"tmpfs", 0, None) or libc.umount2(place, 0):
            sys.exit("cannot mount")
        due += 0.005
        time.sleep(max(0.0, due - time.monotonic()))
"""


@pytest.mark.timeout(300)
@alone
def test_no_wrong_answer_in_a_storm(tmp_path: Path) -> None:
    """80 mounts, and a process that mounts and unmounts 200 times a second: 10,000 looks, each of one that is up and
    one that is not, and each reading of the list with all 80."""
    hosts = []
    for number in range(80):
        (tmp_path / f"kept {number}").mkdir()
        mount(f"kept{number}".encode(), tmp_path / f"kept {number}", b"tmpfs")
        hosts.append(Host(f"kept{number}", tmp_path / f"kept {number}", fstype="tmpfs"))
    for number in range(20):
        (tmp_path / str(number)).mkdir()
    (tmp_path / "never").mkdir()
    never = Host("never", tmp_path / "never", fstype="tmpfs")
    with running(STORM, tmp_path) as storm, contextlib.closing(kernel.Reader()) as reader:
        changes = 0
        for number in range(10_000):
            changes += reader.changed()
            assert sum(each.source.startswith("kept") for each in reader.read()) == 80
            assert hosts[number % 80].status() is Status.UP
            assert never.status() is Status.DOWN
        assert storm.poll() is None
    print(f"{reader.torn} of 10000 readings were torn, and done again; mounts had changed before {changes}")
    assert changes > 500
