"""What `btw check` finds before anything is started; parameters; what fsck says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fs_place import alone, disk, mount, run

from btw_core.resource import CheckContext, Problem, Resource, Sibling
from btw_fs import disks, fsck
from btw_fs.boot import at_boot
from btw_fs.fs import Fs
from btw_fs.target import Device, Directory, Kind, Options, kind_of


def fs(device: str, directory: str | Path, **parameters: Any) -> Fs:
    parameters["options"] = Options(parameters.get("options", ""))
    return Fs(**{"name": "data", **parameters}, device=Device(device), directory=Directory(str(directory)))


def problems(one: Fs, *others: tuple[str, Resource]) -> list[Problem]:
    """`others`: (package, resource), after it."""
    everything = [("web", one), *others]
    siblings = tuple(Sibling(package=package, resource=each) for package, each in everything)
    return one.check(CheckContext(cluster="c", node="n1", package="web", everything=siblings))


def found(one: Fs, *others: tuple[str, Resource], ignore: str = "mount namespace") -> str:
    return "\n".join(str(each) for each in problems(one, *others) if ignore not in each.text)


class Fence(Resource, frozen=True, kw_only=True, tag="fence"):
    """Stands for scsi_pr."""

    layer = "fencing"
    devices: list[str]


def test_nothing_wrong(tmp_path: Path) -> None:
    """A disk that is there, a directory that is there: not a word."""

    @alone
    def steps() -> None:
        assert found(fs(device, tmp_path, fstype="ext4")) == ""

    with disk(tmp_path, "ext4") as device:
        steps()


def test_what_is_missing(tmp_path: Path) -> None:
    """Device, directory, type and its fsck program: each with its key and remedy."""

    @alone
    def steps() -> None:
        (tmp_path / "link").symlink_to(tmp_path)
        (tmp_path / "file").touch()
        absent = found(fs("/dev/nosuch", tmp_path))
        assert "warning: device: /dev/nosuch is not there now; connect its storage" in absent
        assert "device: UUID=0-0 is not there now" in found(fs("UUID=0-0", tmp_path))
        image = fs(str(tmp_path / "file"), tmp_path)
        assert "is no block device; a file needs a loop device first: losetup" in found(image)
        missing = fs(device, tmp_path / "missing")
        assert f"directory: {tmp_path}/missing: No such file or directory; mkdir -p" in found(missing)
        assert found(fs(device, tmp_path / "missing", create_directory=True)) == ""
        assert f'leads to {tmp_path}; write directory = "{tmp_path}"' in found(fs(device, tmp_path / "link"))
        assert "is no directory" in found(fs(device, tmp_path / "file"))
        assert "fstype: fstype = nosuchfs: this kernel has no such file system" in found(
            fs(device, tmp_path, fstype="nosuchfs")
        )
        assert 'check: check = "write" on a read-only mount' in found(fs(device, tmp_path, look="write", options="ro"))
        assert "fstype" in found(fs("scratch", tmp_path))

    with disk(tmp_path, "ext4") as device:
        steps()


def test_two_that_meet(tmp_path: Path) -> None:
    """One device, one directory, or one below the other's, in two packages; and the wrong order in one."""

    @alone
    def steps() -> None:
        for name in ("m/in", "n"):
            (tmp_path / name).mkdir(parents=True)
        alias = tmp_path / "alias"
        alias.symlink_to(device)
        one = fs(device, tmp_path / "m")
        text = found(one, ("mail", fs(str(alias), tmp_path / "n", name="box")))
        assert "is also that of `box` of package mail; give each its own" in text
        below = fs("tmpfs", tmp_path / "m/in", fstype="tmpfs", name="in")
        assert "is mounted below" in found(one, ("mail", below))
        assert found(one, ("web", below)) == ""
        order = CheckContext(
            cluster="c",
            node="n1",
            package="web",
            everything=(Sibling(package="web", resource=below), Sibling(package="web", resource=one)),
        )
        assert any("comes first and would be hidden" in each.text for each in one.check(order))
        assert one.identity() == fs("tmpfs", tmp_path / "m", fstype="tmpfs").identity()

    with disk(tmp_path, "ext4") as device:
        steps()


def test_what_mounts_at_boot(tmp_path: Path) -> None:
    """Lines of fstab and enabled units, with the place and the remedy; noauto and disabled ones are left alone."""
    (tmp_path / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True)
    (tmp_path / "etc/fstab").write_text(
        "# /dev/sda1 /no\n\nUUID=1 /srv/my\\040data ext4 defaults\n/dev/sda2 none swap sw\n/dev/sda3 /c ext4 noauto\n"
        "/dev/sda4 /d ext4 noauto,x-systemd.automount\nhalf a\n"
    )
    units = tmp_path / "etc/systemd/system"
    for name in ("srv-a", "srv-b"):
        (units / f"{name}.mount").write_text(f"[Mount]\nWhat = /dev/x-{name}\nWhere=/{name.replace('-', '/')}\n")
    (units / "multi-user.target.wants/srv-a.mount").symlink_to("../srv-a.mount")
    assert [(each.source, each.directory, each.where) for each in at_boot(tmp_path)] == [
        ("UUID=1", "/srv/my data", "/etc/fstab:3"),
        ("/dev/sda4", "/d", "/etc/fstab:6"),
        ("/dev/x-srv-a", "/srv/a", "/etc/systemd/system/srv-a.mount"),
    ]

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        fstab = tmp_path / "fstab"
        fstab.write_text(f"# one\n{device} /mnt/other ext4 defaults 0 2\n")
        run("mount", "--bind", fstab, "/etc/fstab")
        text = found(fs(device, tmp_path / "m"))
        assert f"device: /etc/fstab:2 mounts {device} on /mnt/other at boot" in text and "noauto" in text
        fstab.write_text(f"/dev/another {tmp_path}/m ext4 defaults 0 2\n")
        assert "/etc/fstab:1 mounts /dev/another" in found(fs(device, tmp_path / "m"))

    with disk(tmp_path, "ext4") as device:
        steps()


def test_a_shared_disk(tmp_path: Path) -> None:
    """A disk that other computers can reach wants a fence of this package on that very disk."""
    sys = tmp_path / "sys"
    disk_of = {}
    for name, way, number in (("sda", "host1/session1/target1:0:0", "8:0"), ("sdb", "host0/target0:0:0", "8:16")):
        disk_of[name] = sys / f"devices/platform/{way}/block/{name}"
        (disk_of[name] / f"{name}1").mkdir(parents=True)
        (disk_of[name] / f"{name}1/partition").write_text("1")
        (disk_of[name] / "dev").write_text(number)
    mapped = sys / "devices/virtual/block/dm-0"
    (mapped / "slaves").mkdir(parents=True)
    (mapped / "slaves/sda").symlink_to(disk_of["sda"])
    (sys / "dev/block").mkdir(parents=True)
    places = {"8:0": disk_of["sda"], "8:1": disk_of["sda"] / "sda1", "8:16": disk_of["sdb"], "254:0": mapped}
    for number, place in places.items():
        (sys / f"dev/block/{number}").symlink_to(place)
    assert disks.disks((254, 0), sys) == disks.disks((8, 1), sys) == {disk_of["sda"]}
    assert disks.reached_by_others(disk_of["sda"]) == "iSCSI" and disks.reached_by_others(disk_of["sdb"]) == ""
    assert disks.disks((9, 9), sys) == set()


def test_a_type_of_the_kernel(tmp_path: Path) -> None:
    """Those that it has now need no module and no helper."""

    @alone
    def steps() -> None:
        mount(b"none", tmp_path, b"tmpfs")
        assert "fstype" not in found(fs("tmpfs", tmp_path, fstype="tmpfs"))
        assert "fsck" in found(fs("tmpfs", tmp_path, fstype="tmpfs", fsck="always"))

    steps()


@pytest.mark.parametrize(
    ("device", "fstype", "options", "kind"),
    [
        ("/dev/sda1", "", "", Kind.BLOCK),
        ("UUID=1", "", "", Kind.BLOCK),
        ("LABEL=a:/b", "", "", Kind.BLOCK),
        ("host:/path", "", "", Kind.NETWORK),
        ("[2001:db8::1]:/path", "nfs4", "", Kind.NETWORK),
        ("//host/share", "cifs", "", Kind.NETWORK),
        ("/srv/a", "", "bind", Kind.BIND),
        ("/srv/a", "rbind", "", Kind.BIND),
        ("tmpfs", "tmpfs", "", Kind.VIRTUAL),
    ],
)
def test_kinds(device: str, fstype: str, options: str, kind: Kind) -> None:
    """What is written says what it is."""
    assert kind_of(Device(device), fstype, Options(options)) is kind


@pytest.mark.parametrize("text", ["srv", "", "/", "/srv/../etc", "/a\0b"])
def test_directories_that_are_refused(text: str) -> None:
    """Relative, the root, or leading elsewhere."""
    with pytest.raises(ValueError):
        Directory(text)


@pytest.mark.parametrize("text", ["-o ro", "remount", "ro,loop", "loop=/dev/loop0"])
def test_options_that_are_refused(text: str) -> None:
    """What is no option of a mount that a package has."""
    with pytest.raises(ValueError):
        Options(text)
    assert Options("ro,rw").readonly is False and Options(" a , b ").words == ["a", "b"]


@pytest.mark.parametrize(
    ("fstype", "code", "ok", "text"),
    [
        ("ext4", 0, True, ""),
        ("ext4", 1, True, "errors were corrected"),
        ("ext4", 3, True, "reboot"),
        ("ext4", 4, False, "errors are left; by hand, unmounted on all nodes: e2fsck /dev/x"),
        ("ext4", 12, False, "errors are left; it could not do its work"),
        ("ext4", 32, False, "cancelled"),
        ("ext4", -9, False, "killed by signal 9"),
        ("xfs", 2, True, "its log is not replayed yet"),
        ("xfs", 1, False, "exit code 1"),
        ("btrfs", 1, False, "errors were found; by hand"),
    ],
)
def test_exit_codes(fstype: str, code: int, ok: bool, text: str) -> None:
    """fsck(8), xfs_repair(8), btrfs-check(8)."""
    words = fsck.command("always", fstype, "/dev/x")
    verdict = fsck.verdict(words, code)
    assert verdict.ok is ok and text in verdict.text


def test_which_check() -> None:
    """Journals are replayed and error marks read with `auto`; xfs and btrfs need none; `never` is never."""
    assert fsck.command("auto", "ext4", "/dev/x") == ["e2fsck", "-p", "/dev/x"]
    assert fsck.command("auto", "xfs", "/dev/x") == fsck.command("auto", "btrfs", "/dev/x") == []
    assert fsck.command("never", "ext4", "/dev/x") == []
    assert fsck.command("always", "ext4", "/dev/x") == ["e2fsck", "-p", "-f", "/dev/x"]
