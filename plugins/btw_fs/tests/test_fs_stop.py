"""Stop of an `fs`: who holds it is found, named and ended; nobody else is harmed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fs_place import Host, alone, disk, mount, run, running, until

from btw_core import Failed, Status
from btw_fs import kernel

#: A user of the mount, and what is said of it. The program's argument is the mounted directory.
USERS = {
    "cwd": ("import os, sys; os.chdir(sys.argv[1])", "works in {}"),
    "file": ("import sys; file = open(sys.argv[1] + '/file', 'w')", "{}/file is open"),
    "deleted": ("import os, sys; n = sys.argv[1] + '/x'; file = open(n, 'w'); os.unlink(n)", "{}/x (deleted) is open"),
    "mapping": (
        "import mmap, os, sys; n = sys.argv[1] + '/map'; open(n, 'w').write('x' * 4096); f = os.open(n, os.O_RDWR); "
        "area = mmap.mmap(f, 4096); os.close(f); os.close(os.dup(0)); [os.close(n) for n in range(3, 9) if "
        "os.path.exists(f'/proc/self/fd/{n}') and os.readlink(f'/proc/self/fd/{n}').endswith('/map')]",
        "{}/map is mapped",
    ),
    "root": ("import os, sys; os.chroot(sys.argv[1])", "has {} as its root"),
    "socket": ("import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1] + '/s')", "listens at {}/s"),
    "thread": (
        "import ctypes, os, sys, threading; ready = threading.Event(); c = ctypes.CDLL(None)\n"
        "def work(): c.unshare(0x200); os.chdir(sys.argv[1]); ready.set(); threading.Event().wait()\n"
        "threading.Thread(target=work, daemon=True).start(); ready.wait()",
        "works in {}",
    ),
}
WAITS = "\nprint('on', flush=True); input()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def lives(process: subprocess.Popen[str]) -> bool:
    return process.poll() is None


@pytest.mark.parametrize("use", USERS)
def test_users_are_named_and_ended(tmp_path: Path, use: str) -> None:
    """Whatever keeps it busy is in the error: pid, command and file. `never` lets it live; `term` ends it."""
    program, said = USERS[use]

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m", kill_users="never")
        host.start()
        with running(program + WAITS, tmp_path / "m") as user:
            with pytest.raises(Failed) as failed:
                host.stop(1.5)
            text = str(failed.value)
            assert f"pid {user.pid} ({sys.executable}" in text and said.format(tmp_path / "m") in text, text
            assert 'kill_users = "never"' in text and lives(user)
            assert host.status() is Status.UP
            host.with_(kill_users="term").stop()
            until(lambda: not lives(user), "it has ended")
            assert user.returncode == -signal.SIGTERM

    with disk(tmp_path, "ext4") as device:
        steps()


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
def test_a_program_that_runs_from_it_and_ignores_term(tmp_path: Path, fstype: str) -> None:
    """TERM first, KILL when half of the time is over, and unmounted right then."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m")
        host.start()
        program = tmp_path / "m/sleep"
        shutil.copy("/bin/sleep", program)
        with subprocess.Popen(["sh", "-c", f"trap '' TERM; exec '{program}' 600"]) as user:
            until(lambda: Path(f"/proc/{user.pid}/exe").readlink() == program, "it runs")
            began = time.monotonic()
            host.stop(4)
            assert time.monotonic() - began >= 1.5, "it was not given its half of the time"
            assert user.wait(10) == -signal.SIGKILL
        assert f"runs {program}" in host.said

    with disk(tmp_path, fstype) as device:
        steps()


def test_nobody_else_is_harmed(tmp_path: Path) -> None:
    """Directories whose names begin alike, the same path in another root: those who use them live on."""

    @alone
    def steps() -> None:
        for name in ("m", "m2", f"root{tmp_path}/m", "m/below"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "m/below").rmdir()
        host = Host(device, tmp_path / "m")
        host.start()
        elsewhere = f"import os, sys; os.chroot({str(tmp_path / 'root')!r}); os.chdir({str(tmp_path / 'm')!r})"
        with (
            running("import os, sys; os.chdir(sys.argv[1])" + WAITS, tmp_path / "m2") as near,
            running(elsewhere + WAITS) as other,
            running("import os, sys; os.chdir(sys.argv[1])" + WAITS, tmp_path / "m") as user,
        ):
            host.stop()
            until(lambda: not lives(user), "the user has ended")
            assert lives(near) and lives(other)

    with disk(tmp_path, "ext4") as device:
        steps()


def test_never_itself(tmp_path: Path) -> None:
    """The process that stops, and its ancestors (btw's own), are named and let live."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m")
        host.start()
        os.chdir(tmp_path / "m")  # we are pid 1 here as well
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.chdir("/")
                host.stop(2)
            except Failed as failed:
                code = 0 if "pid 1 (" in str(failed) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.chdir("/")
        host.stop()

    with disk(tmp_path, "ext4") as device:
        steps()


def test_nested_and_bind_mounts_first(tmp_path: Path) -> None:
    """What is mounted on it, and it elsewhere: taken away before it, the innermost first; a mount beside it stays."""

    @alone
    def steps() -> None:
        for name in ("m", "bind", "beside"):
            (tmp_path / name).mkdir()
        mount(b"beside", tmp_path / "beside", b"tmpfs")
        host = Host(device, tmp_path / "m")
        host.start()
        (tmp_path / "m/a").mkdir()
        mount(b"one", tmp_path / "m/a", b"tmpfs")
        (tmp_path / "m/a/b").mkdir()
        mount(b"two", tmp_path / "m/a/b", b"tmpfs")
        run("mount", "--bind", tmp_path / "m", tmp_path / "bind")
        mount(b"on top", tmp_path / "bind", b"tmpfs")
        mount(b"over", tmp_path / "m", b"tmpfs")
        with running("import os, sys; os.chdir(sys.argv[1])" + WAITS, tmp_path / "bind") as inside:
            assert host.status() is Status.DEGRADED and "umount" in host.said
            host.stop()
            until(lambda: not lives(inside), "the user of what is mounted on it has ended")
        left = {each.source for each in kernel.table() if each.point.startswith(str(tmp_path))}
        assert left == {"beside"}

    with disk(tmp_path, "ext4") as device:
        steps()


def test_a_loop_device_on_top(tmp_path: Path) -> None:
    """A file of it is a disk that is mounted and used: that user is ended, that mount and that loop device go first.
    Another loop device is not its, and the name of its file need not be UTF-8."""

    @alone
    def steps() -> None:
        for name in ("m", "inner"):
            (tmp_path / name).mkdir()
        host = Host(device, tmp_path / "m")
        host.start()
        image = tmp_path / "m/image"
        run("truncate", "-s", "16M", image)
        run("mkfs.ext2", "-q", "-F", image)
        other = tmp_path / os.fsdecode(b"im\xe9ge")
        shutil.copy(image, other)
        loop, stays = (run("losetup", "--find", "--show", file) for file in (image, other))
        run("mount", loop, tmp_path / "inner")
        with running("import sys; file = open(sys.argv[1] + '/file', 'w')" + WAITS, tmp_path / "inner") as user:
            with pytest.raises(Failed, match=rf"loop device {loop} is on a file of it: losetup -d {loop}"):
                host.with_(kill_users="never").stop(1.5)
            host.stop()
            until(lambda: not lives(user), "the user of the inner one has ended")
        assert kernel.table().at(str(tmp_path / "inner")) is None
        left = run("losetup", "--noheadings", "--output", "NAME")
        run("losetup", "--detach", stays)
        assert loop not in left.split() and stays in left.split()

    with disk(tmp_path, "ext4") as device:
        steps()


@pytest.mark.parametrize("fstype", ["ext4", "btrfs"])
def test_another_mount_namespace(tmp_path: Path, fstype: str) -> None:
    """A copy in a container is unmounted there; its users are found there, and others of the container live on."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m")
        host.start()
        unshare = "import ctypes, os, sys; c = ctypes.CDLL(None); c.unshare(0x20000); c.mount(0, b'/', 0, 0x44000, 0)\n"
        with running(unshare + WAITS, tmp_path / "m") as bystander:
            host.stop()
            assert lives(bystander)
        host.start()
        inside = unshare + "os.chdir(sys.argv[1])"
        with running(inside + WAITS, tmp_path / "m") as user:
            assert host.status() is Status.UP
            host.stop()
            until(lambda: not lives(user), "the user in the container has ended")
            assert f"pid {user.pid}" in host.said

    with disk(tmp_path, fstype) as device:
        steps()


#: Keeps a mount namespace that no process is in.
NAMESPACE = """
import ctypes, os, signal
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    ctypes.CDLL(None).unshare(0x20000)
    ctypes.CDLL(None).mount(0, b"/", 0, 1 << 18 | 0x4000, 0)
    os.write(writing, b".")
    signal.pause()
os.read(reading, 1)
kept = os.open(f"/proc/{child}/ns/mnt", os.O_RDONLY)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


def test_a_namespace_without_a_process(tmp_path: Path) -> None:
    """Nobody can be found who has it, and still it is in use: never called down."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m")
        host.start()
        with running(NAMESPACE + WAITS):
            with pytest.raises(Failed, match=r"without being mounted here.*a mount namespace that no process is in"):
                host.stop(1.5)
            assert host.status() is Status.DEGRADED
        host.stop()

    with disk(tmp_path, "ext4") as device:
        steps()


def test_a_place_that_was_unmounted_lazily(tmp_path: Path) -> None:
    """Somebody ran umount -l: not down while a file is open; the user is found without any mount of it."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m")
        host.start()
        with running("import sys; file = open(sys.argv[1] + '/file', 'w')" + WAITS, tmp_path / "m") as user:
            run("umount", "-l", tmp_path / "m")
            assert host.status() is Status.DEGRADED
            host.stop()
            until(lambda: not lives(user), "the user has ended")
        assert not kernel.held(device)

    with disk(tmp_path, "ext4") as device:
        steps()


def test_covered_by_what_is_not_ours(tmp_path: Path) -> None:
    """Something is mounted over the directory above it: that is nobody's to take away; the error says what to do."""

    @alone
    def steps() -> None:
        (tmp_path / "outer/m").mkdir(parents=True)
        host = Host(device, tmp_path / "outer/m")
        host.start()
        mount(b"cover", tmp_path / "outer", b"tmpfs")
        assert host.status() is Status.DEGRADED
        with pytest.raises(Failed, match=f"covered by the mount of cover.*umount {tmp_path}/outer"):
            host.stop(1.5)
        run("umount", tmp_path / "outer")
        host.stop()

    with disk(tmp_path, "ext4") as device:
        steps()


def test_many_users(tmp_path: Path) -> None:
    """Forty processes: all ended, eight named in the error and the rest counted."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host(device, tmp_path / "m", kill_users="never")
        host.start()
        crowd = [subprocess.Popen(["sleep", "600"], cwd=tmp_path / "m") for _ in range(40)]
        with pytest.raises(Failed, match="and 32 more processes"):
            host.stop(2)
        host.with_(kill_users="kill").stop()
        assert [user.wait(10) for user in crowd] == [-signal.SIGTERM] * 40

    with disk(tmp_path, "ext4") as device:
        steps()


def test_a_user_in_state_d(tmp_path: Path) -> None:
    """It survives SIGKILL: not down, and the error says where in the kernel it hangs, until it has gone."""

    @alone
    def steps() -> None:
        for name in ("m", "dead"):
            (tmp_path / name).mkdir()
        host = Host(device, tmp_path / "m")
        host.start()
        program = "import os, sys; f = open(sys.argv[1] + '/file', 'w')" + WAITS + "; os.stat(sys.argv[2])"
        with running(program, tmp_path / "m", tmp_path / "dead/file") as user, dead(tmp_path / "dead") as server:
            assert user.stdin is not None and server.stdout is not None
            print(file=user.stdin, flush=True)
            assert server.stdout.read(1) == b"h"
            with pytest.raises(Failed) as failed:
                host.stop(4)
            text = str(failed.value)
            assert f"pid {user.pid}" in text and f"{tmp_path}/m/file is open" in text, text
            assert "state D in " in text and "newfstatat" in text, text
            server.kill()
            user.wait(20)
            host.stop()

    with disk(tmp_path, "ext4") as device:
        steps()


@pytest.mark.parametrize("waits", ["os.stat('file')", "threading.Thread(target=lambda: os.stat('file')).start()"])
def test_a_killed_user_that_waits_for_a_dead_server(tmp_path: Path, waits: str) -> None:
    """It, or a thread of it, waits for the very file system, so that only giving up its requests ends it; who was not
    killed is not robbed of them."""

    @alone
    def steps() -> None:
        (tmp_path / "m").mkdir()
        host = Host("btw-hang", tmp_path / "m", fstype="fuse", kill_users="never")
        program = STUBBORN + "import os, sys, threading" + WAITS + f"; os.chdir(sys.argv[1]); {waits}"
        with running(program, tmp_path / "m") as user, dead(tmp_path / "m") as server:
            assert user.stdin is not None and server.stdout is not None
            print(file=user.stdin, flush=True)
            assert server.stdout.read(1) == b"h"
            with pytest.raises(Failed, match=f"pid {user.pid} "):
                host.stop(1)
            assert lives(user) and "given up" not in host.said
            host.with_(kill_users="kill").stop(16)  # killed after the half: time is left on a busy computer
            assert user.wait(10) == -signal.SIGKILL
        assert "killed, and still waiting for the server: pid " in host.said, host.said

    steps()


@contextlib.contextmanager
def dead(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A directory where whoever looks up a name hangs in state D; then its server prints h."""
    server = Path(__file__).parents[3] / "btw_core/tests/fuse_hang.py"
    command = [sys.executable, str(server), str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            assert process.stdout is not None and process.stdout.read(1) == b"m", "no file system that hangs"
            yield process
        finally:
            process.kill()
