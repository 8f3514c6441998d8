"""`btw scsi-pr show` and `clear`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from scsi_pr_disk import Disk, illegal
from scsi_pr_host import Host

from btw_scsi_pr import btw_commands, show
from btw_scsi_pr.cdb import In
from btw_scsi_pr.key import key


@pytest.fixture
def disk() -> Disk:
    return Disk(generation=4)


@pytest.fixture
def host(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    host.path("sda", disk, host=1)
    host.path("sdb", disk, host=2)
    monkeypatch.setattr(show, "Sysfs", lambda: host)
    (tmp_path / "btw.toml").write_text('cluster = "c"\nnode = "n1"\n')
    return host


def run(tmp_path: Path, *words: str) -> Result:
    return CliRunner().invoke(btw_commands()["scsi-pr"], [*words, "--dir", str(tmp_path)])


def test_show(host: Host, disk: Disk, tmp_path: Path) -> None:
    """The holder with node and term, the number of its paths, and keys of others as they are."""
    own = int(key("c", "n1", 12))
    disk.registered, disk.holder, disk.kind = {"n1.sda": own, "n1.sdb": own, "x": 0xABC}, "n1.sda", 5
    done = run(tmp_path, "show", "/dev/sda")
    assert done.exit_code == 0, done.output
    for words in (
        "naa.6001",
        "paths       sda 1:0:0:0 running, sdb 2:0:0:0 running",
        f"holder      0x{own:x} = node n1, term 12; type 5, write exclusive registrants only",
        "generation  4",
        f"registered  0x{own:x} = node n1, term 12; paths: 2 (n1.sda, n1.sdb)",
        "registered  0xabc = not of this cluster; paths: 1 (x)",
    ):
        assert words in done.output
    (said,) = json.loads(run(tmp_path, "show", "/dev/sda", "/dev/sdb", "--json").output)
    assert said["holder"] == {"key": f"0x{own:x}", "node": "n1", "term": 12, "type": 5} | {
        "words": "write exclusive registrants only"
    }


def test_show_of_a_free_disk_and_of_one_for_all_registrants(host: Host, disk: Disk, tmp_path: Path) -> None:
    """Nobody; all that are registered."""
    said = run(tmp_path, "show", "/dev/sda").output
    assert "holder      nobody: any machine can write" in said and "registered  nobody" in said
    disk.registered, disk.kind, disk.holder = {"n1.sda": 5}, 7, "n1.sda"
    disk.hook = lambda nexus, action: illegal(0x20) if action is In.READ_FULL_STATUS else None  # an old disk
    assert "holder      all that are registered; type 7" in run(tmp_path, "show", "/dev/sda").output


def test_show_without_an_answer(host: Host, disk: Disk, tmp_path: Path) -> None:
    """Says why, exit code 1; so with a device that is not there. A configuration that cannot be read is no reason."""
    disk.cut = {"n1.sda", "n1.sdb"}
    done = run(tmp_path, "show", "/dev/sda")
    assert done.exit_code == 1 and "sdb: READ KEYS: transport failed fast" in done.output
    done = run(tmp_path, "show", "/dev/sdx")
    assert done.exit_code == 1 and "No such file" in done.output
    disk.cut = set()
    disk.registered = {"x": int(key("c", "n1", 12))}
    (tmp_path / "btw.toml").write_text("clutter")
    done = run(tmp_path, "show", "/dev/sda")
    assert done.exit_code == 0 and "keys are shown without nodes and terms" in done.output


def test_clear(host: Host, disk: Disk, tmp_path: Path) -> None:
    """Only with --force; on the path that answers; shows before what there was."""
    disk.registered, disk.holder, disk.kind = {"n2.sda": int(key("c", "n2", 3))}, "n2.sda", 5
    before = dict(disk.registered)
    done = run(tmp_path, "clear", "/dev/sda")
    assert done.exit_code == 1 and "nothing was changed" in done.output and disk.registered == before
    disk.cut = {"n1.sda"}
    done = run(tmp_path, "clear", "--force", "/dev/sda")
    assert done.exit_code == 0 and "term 3" in done.output and "naa.6001: cleared" in done.output
    assert not disk.registered and not disk.reserved
    disk.cut = {"n1.sda", "n1.sdb"}
    assert run(tmp_path, "clear", "--force", "/dev/sda").exit_code == 1
    host.state("sda", "offline")
    host.state("sdb", "offline")
    assert "no path is alive" in run(tmp_path, "clear", "--force", "/dev/sda").output
