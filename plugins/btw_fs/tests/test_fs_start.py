"""Start of an `fs`, on real disks: what it makes, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from fs_place import Host, alone, disk, mount, root, run, running, until

from btw_core import Failed, Status
from btw_fs import kernel

NAMES = ["plain", "with space", "tab\there", "new\nline", "ha#sh", "back\\slash", "grüße-日本"]


@pytest.mark.parametrize("fstype", ["ext4", "ext2", "xfs", "btrfs"])
def test_each_type(tmp_path: Path, fstype: str) -> None:
    """Start mounts it with its options, twice is no error; stop takes it away, twice is no error."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m", options="noatime")
        assert host.status() is Status.DOWN
        host.start()
        assert host.status() is Status.UP
        found = kernel.table().at(str(tmp_path / "m"))
        assert found is not None and found.fstype == fstype and "noatime" in found.options
        host.start()
        (tmp_path / "m/file").write_text("kept")
        host.stop()
        assert not (tmp_path / "m/file").exists()
        host.stop()
        host.start()
        assert (tmp_path / "m/file").read_text() == "kept"
        host.state = {}  # killed before it was saved
        assert host.status() is Status.UP
        host.stop()

    with disk(tmp_path, fstype) as device:
        steps()


@pytest.mark.parametrize("name", NAMES)
def test_names(tmp_path: Path, name: str) -> None:
    """Every name that a directory can have."""

    @alone
    def steps() -> None:
        host = Host(device, tmp_path / name / "in", create_directory=True)
        host.start()
        assert host.status() is Status.UP
        with running("print('on', flush=True); input()", cwd=tmp_path / name / "in"):
            host.stop()
            assert name.split("\n")[0] in host.said
        assert not any((tmp_path / name / "in").iterdir())

    with disk(tmp_path, "ext4") as device:
        steps()


def test_by_label_and_uuid(tmp_path: Path) -> None:
    """Found by LABEL= and UUID=, without udev's links as well; two devices with one UUID are refused."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        uuid = run("blkid", "-p", "-o", "value", "-s", "UUID", device)
        for tag in ("LABEL=my data", f"UUID={uuid}"):
            host = Host(tag, tmp_path / "m")
            host.start()
            assert host.status() is Status.UP
            host.stop()
        run("dd", f"if={device}", f"of={twin}", "bs=1M", "count=16")
        with pytest.raises(Failed, match=rf"2 devices have it.*{twin}"):
            host.start()

    with disk(tmp_path, "ext4", "-L", "my data") as device, disk(tmp_path, "") as twin:
        steps()


def test_tmpfs_and_bind(tmp_path: Path) -> None:
    """Without a device; and a directory once more elsewhere, of which only this place is taken away."""

    @alone
    def steps() -> None:
        for name in ("m", "b", "source/deep", "other"):
            (tmp_path / name).mkdir(parents=True)
        host = Host("tmpfs", tmp_path / "m", fstype="tmpfs", options="size=1m")
        host.start()
        assert host.status() is Status.UP
        (tmp_path / "source/deep/file").write_text("here")
        run("mount", "--bind", tmp_path / "source/deep", tmp_path / "other")
        bind = Host(str(tmp_path / "source/deep"), tmp_path / "b", options="bind")
        bind.start()
        assert bind.status() is Status.UP and (tmp_path / "b/file").read_text() == "here"
        bind.stop()
        assert (tmp_path / "other/file").exists() and not (tmp_path / "b/file").exists()
        host.stop()

    steps()


def test_readonly_is_what_was_asked_for(tmp_path: Path) -> None:
    """With ro it is up read-only; without it a write-protected device is refused."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m", options="ro")
        host.start()
        assert host.status() is Status.UP
        host.stop()
        run("blockdev", "--setro", device)
        with pytest.raises(Failed, match="read-only"):
            Host(device, tmp_path / "m", fsck="never").start()
        run("blockdev", "--setrw", device)

    with disk(tmp_path, "ext4") as device:
        steps()


def test_refusals(tmp_path: Path) -> None:
    """Every refusal names the place and the remedy, and leaves everything as it was."""

    @alone
    def steps() -> None:
        for name in ("m", "full", "elsewhere", "outer/inner"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "full/file").touch()
        (tmp_path / "link").symlink_to(tmp_path / "m")
        (tmp_path / "file").touch()

        def refused(match: str, *args: str | Path, **parameters: object) -> None:
            before = kernel.table().mounts
            with pytest.raises(Failed, match=match):
                Host(*args, **parameters).start(3)  # type: ignore[arg-type]
            assert kernel.table().mounts == before

        refused("No such file.*mkdir -p", device, tmp_path / "missing")
        refused(f"symbolic link: write that|leads to {tmp_path}/m", device, tmp_path / "link")
        refused("a directory is wanted", device, tmp_path / "file")
        refused("is not empty.*allow_nonempty", device, tmp_path / "full")
        refused("is not there; connect its storage", "/dev/not-there", tmp_path / "m")
        refused("no block device.*losetup", str(tmp_path / "file"), tmp_path / "m")
        refused("no file system is found", empty, tmp_path / "m")
        refused("Unknown parameter 'bogus'", device, tmp_path / "m", options="bogus")
        refused("the kernel says: .*XFS", device, tmp_path / "m", fstype="xfs")
        run("mount", device, tmp_path / "elsewhere")
        refused(f"is mounted on {tmp_path}/elsewhere.*umount", device, tmp_path / "m")
        run("umount", tmp_path / "elsewhere")
        run("mount", "-t", "tmpfs", "other", tmp_path / "m")
        refused(r"other \(tmpfs\) is mounted there", device, tmp_path / "m")
        run("umount", tmp_path / "m")
        run("mount", "-t", "tmpfs", "other", tmp_path / "outer/inner")
        refused("mounted below it and would be hidden", device, tmp_path / "outer")
        host = Host(device, tmp_path / "full", allow_nonempty=True)
        host.start()
        host.stop()

    with disk(tmp_path, "ext4") as device, disk(tmp_path, "") as empty:
        steps()


HOLD = "import os, sys; os.open(sys.argv[1], os.O_RDWR | os.O_EXCL); print('on', flush=True); input()"


def test_a_device_that_is_held(tmp_path: Path) -> None:
    """Claimed by something that is no mount here (swap, another mount namespace, fsck): refused."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m")
        with running(HOLD, device), pytest.raises(Failed, match="in use on this node"):
            host.start()
        private = f"mount {device} {tmp_path}/m && echo on && sleep 600"
        with subprocess.Popen(["unshare", "-m", "sh", "-c", private], stdout=subprocess.PIPE) as other:
            assert other.stdout is not None and other.stdout.readline()
            with pytest.raises(Failed, match="another mount namespace"):
                host.start()
            assert host.status() is Status.DEGRADED and "another mount namespace" in host.said
            other.kill()
        run("mkswap", empty)
        run("swapon", empty)
        try:
            with pytest.raises(Failed, match=f"swap.*swapoff {empty}"):
                Host(empty, tmp_path / "m").start()
        finally:
            run("swapoff", empty)

    with disk(tmp_path, "ext4") as device, disk(tmp_path, "") as empty:
        steps()


def test_multi_mount_protection(tmp_path: Path) -> None:
    """ext4 with mmp that another computer has mounted (here: an image of it as it was then): refused in words."""

    @alone
    def steps() -> None:
        for name in ("m", "n"):
            (tmp_path / name).mkdir()
        run("mount", device, tmp_path / "n")
        stop = threading.Event()

        def beat() -> None:
            """The other computer goes on: its mmp block appears on our disk."""
            while not stop.is_set():
                run("dd", f"if={device}", f"of={ours}", "bs=1M", "count=16", "conv=notrunc", "iflag=direct")
                stop.wait(0.3)

        beating = threading.Thread(target=beat)
        beating.start()
        try:
            with pytest.raises(Failed, match=r"multi-mount protection.*another node"):
                Host(ours, tmp_path / "m").start(60)
        finally:
            stop.set()
            beating.join()

    options = ("-O", "mmp", "-E", "mmp_update_interval=1", "-U", "clear")
    with disk(tmp_path, "ext4", *options) as device, disk(tmp_path, "") as ours:
        run("truncate", "-s", "32M", run("losetup", "-n", "-O", "BACK-FILE", ours))
        run("losetup", "-c", ours)
        steps()


def test_errors_are_corrected_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system with an error mark is checked and then mounted, with a line that says so; one that fsck gives up is
    refused with the command to run by hand, and with the true cause where the kernel tells one."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m")
        run("debugfs", "-w", "-R", "ssv state 2", device)  # EXT2_ERROR_FS
        run("debugfs", "-w", "-R", "ssv free_blocks_count 1", device)
        host.start()
        assert "errors were corrected" in host.said
        host.stop()
        for command in ("mkdir /d", "sif /d mode 0", "clri <2>"):
            subprocess.run(["debugfs", "-w", "-R", command, device], check=False, capture_output=True)
        run("debugfs", "-w", "-R", "ssv state 2", device)
        with pytest.raises(Failed, match="errors are left; by hand, unmounted on all nodes: e2fsck"):
            host.start()
        refused = "critical nexus error, dev sda, sector 0 op 0x1:(WRITE)"
        monkeypatch.setattr(kernel, "listen", lambda: lambda device, fstype: refused)
        with pytest.raises(Failed, match=f"a reservation on the disk refuses this node, .* scsi-pr show {device}"):
            host.start()

    with disk(tmp_path, "ext4") as device:
        steps()


@root
def test_what_the_kernel_says(tmp_path: Path) -> None:
    """Lines about this device, its disk or its type, those that came since; none about others."""

    def say(*lines: str) -> None:
        for line in lines:
            Path("/dev/kmsg").write_text(f"{line}\n")

    with disk(tmp_path, "") as device:
        name = Path(device).name
        run("addpart", device, "1", "0", "16")
        try:
            say(f"before, dev {name}, sector 1")
            said = [kernel.listen() for _ in range(3)]
            say(f"EXT9-fs ({name}p1): broken", f"nexus error, dev {name}, sector 1", f"other, dev {name}0, sector 1")
            say("device of nobody")
            told = f"EXT9-fs ({name}p1): broken | nexus error, dev {name}, sector 1"
            assert said[0](f"{name}p1", "ext9") == told
            assert said[1](name, "") == f"nexus error, dev {name}, sector 1"
            assert said[2]("", "nfs4") == ""
        finally:
            run("delpart", device, "1")


def test_waits_for_its_device(tmp_path: Path) -> None:
    """A device that comes while start waits is mounted as soon as it is there."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        late = tmp_path / "late"
        host = Host(str(late), tmp_path / "m")
        threading.Timer(0.5, late.symlink_to, [device]).start()
        began = time.monotonic()
        host.start(20)
        assert host.status() is Status.UP and "waiting for it" in host.said
        print(f"mounted {time.monotonic() - began - 0.5:.3f} s after the device was there")
        host.stop()

    with disk(tmp_path, "ext4") as device:
        steps()


def test_what_another_computer_wrote_is_seen(tmp_path: Path) -> None:
    """The block cache is flushed: what was read from the device before is not believed."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        Path(device).read_bytes()  # cached
        image = Path(run("losetup", "-n", "-O", "BACK-FILE", device))
        with open(device, "rb") as keeps:  # else the last close drops the cache by itself
            keeps.read(4096)
            run("losetup", "--direct-io=on", device)
            run("mkfs.ext4", "-q", "-F", "-L", "theirs", image)
            subprocess.run(["sync", image], check=True)
            host = Host(device, tmp_path / "m")
            host.start()
            assert run("blkid", "-p", "-o", "value", "-s", "LABEL", device) == "theirs"
        host.stop()

    with disk(tmp_path, "ext4", "-L", "ours") as device:
        steps()


def test_mount_and_killed_before_it_was_remembered(tmp_path: Path) -> None:
    """Half a start: mounted, and nothing in the state. Status says up, stop takes it away; its device gone as well."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        run("mount", device, tmp_path / "m")
        host = Host(device, tmp_path / "m")
        assert host.status() is Status.UP
        host.stop()
        alias = tmp_path / "alias"
        os.mknod(alias, 0o60600, os.stat(device).st_rdev)  # noqa: PTH116 - one line
        mount(os.fsencode(alias), tmp_path / "m", b"ext4")
        alias.unlink()
        host = Host(str(alias), tmp_path / "m")
        assert host.status() is Status.UP
        host.stop()
        until(lambda: not kernel.held(device), "nothing has it")

    with disk(tmp_path, "ext4") as device:
        steps()
