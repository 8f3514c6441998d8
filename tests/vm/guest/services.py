"""What a machine sets up at every boot, as its configuration says: network, watchdog, disk, etcd. All of it blocks."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Seconds for another machine's disk to be there, or for a device to appear.
LIMIT = 60.0
TARGET = "iqn.2026-11.lab:disk"
PORT = 3260
ISCSID = """\
node.startup = manual
node.session.timeo.replacement_timeout = 5
node.conn[0].timeo.login_timeout = 5
node.conn[0].timeo.logout_timeout = 5
node.conn[0].timeo.noop_out_interval = 2
node.conn[0].timeo.noop_out_timeout = 2
node.session.err_timeo.abort_timeout = 5
node.session.initial_login_retry_max = 3
node.session.scan = auto
"""


def command(*argv: str) -> str:
    """Its output. RuntimeError with what it said when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def set_up(config: dict[str, Any]) -> None:
    socket.sethostname(config["name"])
    network(config["wires"])
    if config["watchdog"]:
        command("modprobe", "softdog", f"soft_margin={config['watchdog']}")
    if config["storage"]:
        serve_disk(config["storage"])
    if config["portals"]:
        use_disk(config["name"], config["portals"])
    if config["etcd"]:
        start_etcd(config["name"], config["etcd"])


def network(wires: list[list[str]]) -> None:
    """The n-th network card is plugged into the n-th wire and named after it: [wire, address/bits, MAC]."""
    command("ip", "link", "set", "lo", "up")
    for index, (wire, address, mac) in enumerate(wires):
        command("ip", "link", "set", f"vec{index}", "address", mac, "name", wire)
        command("ip", "address", "add", address, "dev", wire)
        command("ip", "link", "set", wire, "up")


def serve_disk(portals: list[str]) -> None:
    """One LIO disk on a file, open to every initiator, at all portals."""
    Path("/etc/target/pr").mkdir(parents=True, exist_ok=True)  # where reservations that outlive power loss (APTPL) go
    for module in ("configfs", "target_core_mod", "target_core_file", "iscsi_target_mod"):
        command("modprobe", module)
    command("mount", "-t", "configfs", "none", "/sys/kernel/config")
    file = Path("/srv/disk")
    if not file.exists():
        with open(file, "wb") as stream:
            stream.truncate(64 << 20)
    target = Path("/sys/kernel/config/target")
    device = target / "core/fileio_0/disk"
    device.mkdir(parents=True)
    (device / "control").write_text(f"fd_dev_name={file},fd_dev_size={64 << 20}")
    (device / "enable").write_text("1")
    (device / "wwn/vpd_unit_serial").write_text("btwlab01")
    group = target / "iscsi" / TARGET / "tpgt_1"
    (group / "lun/lun_0").mkdir(parents=True)
    (group / "lun/lun_0/port0").symlink_to(device)
    for name, value in (("authentication", 0), ("generate_node_acls", 1), ("demo_mode_write_protect", 0)):
        (group / "attrib" / name).write_text(str(value))
    for portal in portals:
        (group / "np" / f"{portal}:{PORT}").mkdir(parents=True)
    (group / "enable").write_text("1")


def use_disk(name: str, portals: list[str]) -> None:
    """Logs in at every portal; the disk is then /dev/lab/path1, /dev/lab/path2 in the order of the portals."""
    for module in ("scsi_mod", "sd_mod", "sg", "iscsi_tcp"):
        command("modprobe", module)
    for former in ("nodes", "send_targets"):  # a former boot's logins
        shutil.rmtree(f"/etc/iscsi/{former}", ignore_errors=True)
    Path("/etc/iscsi").mkdir(exist_ok=True)
    Path("/run/lock/iscsi").mkdir(parents=True, exist_ok=True)
    Path("/etc/iscsi/initiatorname.iscsi").write_text(f"InitiatorName=iqn.2026-11.lab:{name}\n")
    Path("/etc/iscsi/iscsid.conf").write_text(ISCSID)
    service(["iscsid", "-f"])
    until(lambda: "@ISCSIADM_ABSTRACT" in Path("/proc/net/unix").read_text(), "iscsid")
    for number, portal in enumerate(portals, 1):
        where = ("-T", TARGET, "-p", f"{portal}:{PORT}")
        until(functools.partial(reachable, portal), f"the disk's portal {portal}")
        command("iscsiadm", "-m", "node", "-o", "new", *where)
        command("iscsiadm", "-m", "node", "--login", *where)
        until(functools.partial(device_at, portal), f"the disk at {portal}")
        link = Path("/dev/lab", f"path{number}")
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(f"/dev/{device_at(portal)}")


def device_at(portal: str) -> str | None:
    """sda, sdb...: the block device of the session with this portal."""
    for connection in Path("/sys/class/iscsi_connection").iterdir():
        if (connection / "persistent_address").read_text().strip() == portal:
            for found in (connection / "device/../").resolve().glob("target*/*:0/block/*"):
                if Path("/dev", found.name).exists():
                    return found.name
    return None


def start_etcd(name: str, members: dict[str, str]) -> None:
    """This machine's member; its data is on the machine's own disk."""
    here = members[name]
    peers = ",".join(f"{each}=http://{address}:2380" for each, address in members.items())
    service(
        [
            *("etcd", "--name", name, "--data-dir", "/var/lib/etcd", "--initial-cluster", peers),
            *("--listen-client-urls", f"http://{here}:2379,http://127.0.0.1:2379"),
            *("--advertise-client-urls", f"http://{here}:2379"),
            *("--listen-peer-urls", f"http://{here}:2380", "--initial-advertise-peer-urls", f"http://{here}:2380"),
            *("--heartbeat-interval", "200", "--election-timeout", "2000"),
        ]
    )


def service(argv: list[str]) -> None:
    """Runs until the machine ends; output to /var/log/lab/NAME."""
    log = Path("/var/log/lab", argv[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as stream:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True)


def reachable(address: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, PORT), timeout=2):
        return True
    return False


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} is not there after {LIMIT:g} s (machine {os.uname().nodename})")
        time.sleep(0.05)
