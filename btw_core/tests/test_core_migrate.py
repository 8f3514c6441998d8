"""`btw migrate` and `btw new --from-running`: package files from what there was before btw."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from btw_core.config import decode_package
from btw_core.migrate import migrate
from btw_core.mounts import parse
from btw_core.plugins import Plugins
from btw_core.resource import ConfigError
from btw_core.running import package_file
from btw_core.settings import NodeConfig
from btw_core.toml import Document

SCRIPT = """\
#!/bin/sh
os=$(uname -s)
# start of configuration section

pace=4
timeout=30; start_timeout=10
stop_timeout="ten"
node1_priority=0

vip_ip_0=172.24.49.200; vip_prefix_0=26; vip_network_0=172.24.49.192   # the customers'
vip_ip_1='2001:db8::5'; vip_prefix_1=64; vip_netdev_1=bond0
vip_ip_2=192.0.2.9
fs_dev_0=/dev/vg1/data; fs_dir_0="/srv/my data"; fs_opt_0="-t ext4 -o noatime,nodev"; fs_umount_wait_0=10
fs_dev_1=`findfs LABEL=x`; fs_dir_1=/srv/x
pr_disk_0=/dev/sdb
pr_disk_1=/dev/disk/by-id/wwn-0x1
drbd_res_0=r0
nfs_dir_0=/srv/export
color=blue

# end of configuration section
late=1
case $1 in
 echo)
   eval echo \\$$2
 ;;
 start)
   echo "$(date) ======== $0 start ========"
   . modules/pr.$os
   . modules/vip.$os
   /etc/init.d/apache start
 ;;
 stop)
   /etc/init.d/apache stop
   . modules/vip.$os
 ;;
esac
"""


ADDRESSES = [
    {"ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1", "prefixlen": 8, "scope": "host"}]},
    {
        "ifname": "eth0",
        "addr_info": [
            {"family": "inet", "local": "192.0.2.1", "prefixlen": 24, "scope": "global"},
            {"family": "inet", "local": "192.0.2.10", "prefixlen": 24, "scope": "global", "secondary": True},
            {"family": "inet6", "local": "2001:db8::1", "prefixlen": 64, "scope": "global"},
            {"family": "inet6", "local": "2001:db8::a", "prefixlen": 64, "scope": "global"},
            {"family": "inet6", "local": "2001:db8::f", "prefixlen": 64, "scope": "global", "dynamic": True},
            {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"},
        ],
    },
]
MOUNTS = r"""21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
22 21 0:5 / /proc rw - proc proc rw
23 21 8:2 / /boot/efi rw - vfat /dev/sda2 rw
24 21 8:17 / /srv/my\040data rw,noatime - ext4 /dev/sdb1 rw
25 21 8:17 /sub /srv/bind rw - ext4 /dev/sdb1 rw
26 21 0:44 / /srv/nfs rw - nfs4 192.0.2.7:/export rw
"""
#: Its directory has a name that is no UTF-8.
LATIN = "27 21 8:33 / /srv/b\udce9r rw - vfat /dev/sdc1 rw\n"
UNITS = """\
apache2.service loaded active running The Apache HTTP Server
ssh.service     loaded active running OpenBSD Secure Shell server
"""


def fake(command: Sequence[str]) -> str:
    return json.dumps(ADDRESSES) if command[0] == "ip" else UNITS


def said_of(name: str, script: str) -> tuple[dict[str, Any], list[str]]:
    migrated = migrate(name, script)
    return tomllib.loads(migrated.text), [str(each) for each in migrated.left]


def test_a_whole_script() -> None:
    """Everything with a counterpart is there in the usual order, under the parameters of the plugins."""
    data, _ = said_of("web", SCRIPT)
    assert data["package"] == {"pace": 4, "timeout": 30, "start_timeout": 10}
    assert data["resource"] == [
        {"type": "scsi_pr", "devices": ["/dev/sdb", "/dev/disk/by-id/wwn-0x1"]},
        {
            "type": "fs",
            "name": "fs0",
            "device": "/dev/vg1/data",
            "directory": "/srv/my data",
            "fstype": "ext4",
            "options": "noatime,nodev",
        },
        {"type": "vip", "name": "vip0", "address": "172.24.49.200/26", "network": "172.24.49.192/26"},
        {"type": "vip", "name": "vip1", "address": "2001:db8::5/64", "interface": "bond0"},
    ]


def test_what_is_left_is_named_with_its_line() -> None:
    """In the order of the script, each with what to do; the file says the same in comments."""
    migrated = migrate("web", SCRIPT)
    left = [str(each) for each in migrated.left]
    assert [text.partition(":")[0] for text in left] == [f"line {n}" for n in (7, 8, 12, 13, 14, 14, 17, 18, 19, 31)]
    for expected in (
        "line 7: stop_timeout=ten: is no number of seconds",
        "line 8: node1_priority=0: a node's priority for the lock",
        "line 12: address 2: needs both vip_ip and vip_prefix",
        "line 13: fs_umount_wait=10: btw-fs tries to unmount for as long as stop_timeout allows",
        "line 14: fs_dev_1: only a shell can work out its value",
        "line 17: drbd_res_0=r0: there is no plugin for DRBD",
        "line 18: nfs_dir_0=/srv/export: there is no plugin for NFS exports",
        "line 19: color=blue: means nothing to btw",
        "line 31: start does `/etc/init.d/apache start`: make it a `service`",
    ):
        assert any(text.startswith(expected) for text in left), (expected, left)
    assert all(f"# {text}" in migrated.text for text in left)


def test_the_example_of_back_to_works_own_page() -> None:
    """The one address of its guide, without anything left; numbers and markers may be missing."""
    guide = "# start of configuration section\npace=4\ntimeout=30\nstart_timeout=10\nstop_timeout=10\n\n"
    guide += "vip_ip_0=172.24.49.200; vip_prefix_0=26; vip_network_0=172.24.49.192\n# end of configuration section\n"
    data, left = said_of("pkg1", guide)
    assert left == [] and data["package"]["stop_timeout"] == 10
    assert [each["type"] for each in data["resource"]] == ["vip"]
    plain, left = said_of("pkg1", "vip_ip=192.0.2.1; vip_prefix=24; vip_netdev=eth0\ncase $1 in\nx=1\nesac\n")
    assert left == [] and plain["resource"] == [{"type": "vip", "address": "192.0.2.1/24", "interface": "eth0"}]


@pytest.mark.parametrize("text", [migrate("web", SCRIPT).text, package_file("web", fake, parse(MOUNTS))])
def test_the_plugins_take_it(text: str) -> None:
    """Every table is one of its type, with the parameters as the plugin has them now."""
    document = Document(file="web.toml", data=tomllib.loads(text))
    for name in ("btw_exec", "btw_fs", "btw_scsi_pr", "btw_vip"):
        pytest.importorskip(name, reason=f"needs {name}")
    package = decode_package("web", document, NodeConfig(node="n1", lock="local:lock.db"), Plugins())
    assert len(package.resources) == len(document.data["resource"])


def btw(*words: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "btw_core.cli", *words, "--dir", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command(tmp_path: Path) -> None:
    """It writes the file and ends with 1 when something is left for a person, never over another package."""
    script = tmp_path / "web"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    done = btw("migrate", str(script), directory=tmp_path / "btw")
    assert done.returncode == 1
    assert f"{script}: not translated: line 17: drbd_res_0=r0: " in done.stderr
    file = tmp_path / "btw/packages/web.toml"
    assert file.read_text() == migrate("web", SCRIPT).text and str(file) in done.stdout
    again = btw("migrate", str(script), directory=tmp_path / "btw")
    assert again.returncode == 78 and "is not written over" in again.stderr
    script.write_text("pace=4\n")
    done = btw("migrate", str(script), "--name", "other", "--stdout", directory=tmp_path / "btw")
    assert done.returncode == 0 and tomllib.loads(done.stdout) == {"package": {"pace": 4}}

    for content in ("", "# nothing\n", "\x7fELF\0 a=1\n"):
        script.write_text(content)
        done = btw("migrate", str(script), "--name", "third", directory=tmp_path / "btw")
        assert done.returncode == 78 and "sets nothing that a package script sets; is it one?" in done.stderr
    assert not (tmp_path / "btw/packages/third.toml").exists()


# ---- from what runs
def test_what_is_up_becomes_a_package() -> None:
    """Mounts, addresses, units; what is the node's own is a comment with the reason."""
    text = package_file("web", fake, parse(MOUNTS + LATIN))
    data = tomllib.loads(text)
    assert [each["type"] for each in data["resource"]] == ["fs", "fs", "vip", "vip", "exec"]
    assert [each.get("directory") for each in data["resource"][:2]] == ["/srv/my data", "/srv/nfs"]
    assert data["resource"][0]["options"] == "noatime" and data["resource"][1]["device"] == "192.0.2.7:/export"
    assert [each["address"] for each in data["resource"][2:4]] == ["192.0.2.10/24", "2001:db8::a/64"]
    assert data["resource"][4]["status"] == ["systemctl", "--quiet", "is-active", "apache2.service"]
    assert '# the node\'s own:\n#[[resource]]\n#type = "fs"\n#name = "root"' in text
    assert "# the first of eth0:" in text and "# every node's:" in text
    names = [each["name"] for each in data["resource"]]
    assert len(set(names)) == len(names)
    for hidden in ("/proc", "2001:db8::f", "fe80", "127.0.0.1", "/srv/bind"):
        assert hidden not in text


def test_nothing_that_could_move_is_said() -> None:
    """A node without a service gets no file, but what to do."""
    with pytest.raises(ConfigError, match="no address, mount or unit is up here"):
        package_file("web", lambda command: "", parse(MOUNTS.partition("24 ")[0]))


def test_the_real_node_can_be_read(tmp_path: Path) -> None:
    """Whatever is up here: valid TOML, or the refusal."""
    done = btw("new", "web", "--from-running", "--stdout", directory=tmp_path)
    if done.returncode == 0:
        assert "resource" in tomllib.loads(done.stdout)
    else:
        assert done.returncode == 78 and "no address, mount or unit is up here" in done.stderr
    both = btw("new", "web", "--from-running", "-m", "flag", directory=tmp_path)
    neither = btw("new", "web", directory=tmp_path)
    assert both.returncode == neither.returncode == 64 and "give either -m TYPE" in both.stderr
    assert not list(tmp_path.iterdir())
