"""First process of a machine: `python -m vm.guest.init CONFIG` on the kernel's command line, CONFIG in hexadecimal.

The root is the host's own root, read-only through hostfs, under an overlay whose upper layer is the machine's own disk
(ext4 on a file of the lab). So a machine sees the project, its Python and all Debian packages of the host, changes
nothing of it, and keeps what it writes over reboots and power cuts. Then the agent runs, here below or under systemd.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

MS_NOSUID, MS_NODEV, MS_MOVE = 2, 4, 8192
#: What the host may have there is not this machine's; hidden when the machine boots for the first time.
NOT_MINE = ["/etc/btw", "/var/lib/btw", "/var/log/btw", "/var/lib/etcd", "/var/lib/iscsi", "/var/log/journal"]
NOT_MINE += ["/etc/systemd/system"]
AGENT = [sys.executable, "-S", "-m", "vm.guest.agent"]
UNIT = """\
[Unit]
Description=The laboratory's hand in this machine
[Service]
ExecStart={agent}
Environment=PYTHONPATH={tests}
KillMode=process
StandardOutput=tty
TTYPath=/dev/console
[Install]
WantedBy=multi-user.target
"""
#: Units of the host that have nothing to do in a machine, or would take its time.
MASKED = [
    "systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-clean.timer",
    "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket", "systemd-timesyncd.service", "systemd-networkd.service",
    "systemd-resolved.service", "systemd-logind.service", "systemd-hwdb-update.service", "systemd-sysusers.service",
    "systemd-firstboot.service", "systemd-random-seed.service", "systemd-binfmt.service",
    "systemd-modules-load.service", "systemd-machine-id-commit.service", "systemd-pstore.service",
    "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-boot-update.service",
    "systemd-ask-password-console.path", "systemd-ask-password-wall.path", "getty.target", "remote-fs.target",
    "proc-sys-fs-binfmt_misc.automount", "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount",
    "kmod-static-nodes.service",
]
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2); OSError with the target's name."""
    if _libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), target)


def new_root() -> None:
    """Turns the read-only root that the kernel has mounted into one that can be written to."""
    modules = f"/usr/lib/uml/modules/{os.uname().release}"
    subprocess.run(["/sbin/insmod", f"{modules}/kernel/fs/overlayfs/overlay.ko"], check=True)
    mount("/dev/ubda", "/mnt", "ext4")
    for part in ("upper", "work", "top"):
        Path("/mnt", part).mkdir(exist_ok=True)
    mount("overlay", "/mnt/top", "overlay", 0, "lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work")
    mount("/dev", "/mnt/top/dev", "", MS_MOVE)
    os.chdir("/mnt/top")
    mount(".", "/", "", MS_MOVE)
    os.chroot(".")
    for kind, target, options in (
        ("proc", "/proc", ""),
        ("sysfs", "/sys", ""),
        ("tmpfs", "/run", "mode=755"),
        ("devpts", "/dev/pts", "ptmxmode=666"),
        ("tmpfs", "/dev/shm", ""),
        ("cgroup2", "/sys/fs/cgroup", ""),
    ):
        Path(target).mkdir(exist_ok=True)
        mount(kind, target, kind, MS_NOSUID, options)
    for name in ("fd", "stdin", "stdout", "stderr"):
        link = Path("/dev", name)
        if not link.is_symlink():
            link.symlink_to("/proc/self/fd" + {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}[name])
    found = Path("/lib/modules", os.uname().release)
    if not found.is_symlink():
        found.parent.mkdir(exist_ok=True)
        found.symlink_to(modules)


def first_boot(config: dict[str, Any]) -> None:
    """What makes this machine another one than the host."""
    done = Path("/etc/btw-lab.json")
    text = json.dumps(config)
    if done.exists():
        done.write_text(text)
        return
    for name in NOT_MINE:
        shutil.rmtree(name, ignore_errors=True)  # most of them are not there
    for name, content in (("machine-id", config["machine_id"]), ("hostname", config["name"]), ("fstab", "")):
        Path("/etc", name).unlink(missing_ok=True)
        Path("/etc", name).write_text(content + "\n")
    Path("/etc/hosts").write_text("".join(f"{address} {name}\n" for address, name in config["hosts"]))
    units = Path("/etc/systemd/system")
    (units / "multi-user.target.wants").mkdir(parents=True)
    for name in MASKED:
        (units / name).symlink_to("/dev/null")
    (units / "btw-lab.service").write_text(UNIT.format(agent=" ".join(AGENT), tests=os.environ["PYTHONPATH"]))
    (units / "multi-user.target.wants/btw-lab.service").symlink_to("../btw-lab.service")
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    done.write_text(text)
    os.sync()  # else a power cut within half a minute leaves empty files


def main() -> None:
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    config = json.loads(bytes.fromhex(sys.argv[1]))
    new_root()
    first_boot(config)
    os.chdir("/")
    if config["init"] == "systemd":
        os.execv("/lib/systemd/systemd", ["/lib/systemd/systemd", "--show-status=no"])
    agent = subprocess.Popen(AGENT, start_new_session=True)
    while os.wait()[0] != agent.pid:  # everything that lost its parent is ours to reap
        pass
    print("lab: the agent ended", flush=True)
    subprocess.run(["/sbin/poweroff", "-f"], check=False)


if __name__ == "__main__":
    main()
