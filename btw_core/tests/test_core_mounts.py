"""What is mounted where, whatever names there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from btw_core.containment import find_cgroup_root, own_cgroup, prune
from btw_core.cutoff import Home, cut_off
from btw_core.mounts import Mount, mounts

NAME = os.fsdecode(b"b\xe9r")  # no UTF-8


def test_each_field(tmp_path: Path) -> None:
    """Optional fields are passed over, escapes undone, bytes that are no UTF-8 kept."""
    file = tmp_path / "mountinfo"
    file.write_bytes(
        b"1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n"
        b"2 1 0:5 /x /srv/a\\040\xe9 ro,noatime shared:2 master:1 - nfs4 h:/\\134 rw\n"
    )
    root, other = mounts(file)
    assert root == Mount("8:1", "/", "/", "rw", "ext4", "/dev/a")
    assert other == Mount("0:5", "/x", os.fsdecode(b"/srv/a \xe9"), "ro,noatime", "nfs4", "h:/\\")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_mount_with_any_name_keeps_nobody_from_beginning(tmp_path: Path) -> None:
    """A stick or a share that somebody has mounted somewhere. Nor does it cost a report all that the system says."""
    (tmp_path / NAME).mkdir()
    code = "from btw_core.containment import own_cgroup; from btw_core.cli.report import _system; print(own_cgroup())"
    code += "; assert 'system/mountinfo.txt' in _system(None)"
    script = 'mount -t tmpfs none "$1" && exec "$2" -P -c "$3"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path / NAME), sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(own_cgroup())), done.stderr


def test_a_cgroup_with_any_name_keeps_nobody_from_being_cut_off() -> None:
    """Any user with cgroups of his own may have one; the keeper looks at what is in all of them."""
    home = f"named-{os.getpid()}"
    root = find_cgroup_root(home)
    if root is None:
        pytest.skip("no cgroup v2 to write to")
    foreign, ours = Path(root, NAME), Path(root, "web/op.1")
    processes = []
    try:
        for place in (foreign, ours):
            place.mkdir(parents=True)
            processes.append(subprocess.Popen(["sleep", "1000"]))
            (place / "cgroup.procs").write_text(str(processes[-1].pid))
        assert cut_off(Home(home, root), {"web"}, 10.0) == []
        assert [process.poll() is None for process in processes] == [True, False]
    finally:
        for process in processes:
            process.kill()
            process.wait(60)
        prune(root)
