"""The resource as btw calls it, on a computer with made-up disks: what is found, taken, seen, given back, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scsi_pr_disk import Disk, illegal
from scsi_pr_host import INTERNAL, Host

from btw_core import CannotTell, Failed, Resource, Status
from btw_core.resource import CheckContext, Former, Sibling
from btw_core.testing import FakeContext
from btw_core.types import Verb
from btw_scsi_pr import doing, looking
from btw_scsi_pr.cdb import In, Out
from btw_scsi_pr.checking import check
from btw_scsi_pr.key import key
from btw_scsi_pr.scsi_pr import ScsiPr
from btw_scsi_pr.sense import Reply
from btw_scsi_pr.units import NotFound

PR = ScsiPr(devices=("/dev/sda",), name="pr")


def own(node: str, term: int) -> int:
    return int(key("test", node, term))


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def host(tmp_path: Path, disk: Disk) -> Host:
    """Two iSCSI paths, a multipath device on them with a partition, and an internal disk."""
    host = Host(tmp_path)
    host.path("sda", disk, host=1)
    host.path("sdb", disk, host=2)
    host.mapped("dm-0", "mpath-36001", "sda", "sdb")
    host.mapped("dm-1", "part1-mpath-36001", "dm-0")
    host.path("sdc", Disk(), wwid="naa.5000", host=3, place=INTERNAL)
    return host


def context(verb: Verb | None = Verb.START, state: dict[str, Any] | None = None, term: int = 7) -> FakeContext:
    return FakeContext(verb, state=state, term=term, holders={"node1": (), "node2": ()})


def started(host: Host, pr: ScsiPr = PR, term: int = 7) -> dict[str, Any]:
    ctx = context(term=term)
    doing.start(pr, ctx, host)
    return ctx.state


def status(host: Host, state: dict[str, Any], pr: ScsiPr = PR, term: int = 7) -> Status:
    return looking.status(pr, context(None, state, term), host)


# ---- what is found
@pytest.mark.parametrize("name", ["/dev/sda", "/dev/sdb", "/dev/dm-0", "/dev/dm-1"])
def test_all_paths_of_a_disk_are_found(host: Host, name: str) -> None:
    """By whichever name: a path, the multipath device, a partition on it; and all that has to be flushed."""
    (unit,) = host.units([name])
    assert [(way.name, way.address, way.alive) for way in unit.ways] == [
        ("sda", "1:0:0:0", True),
        ("sdb", "2:0:0:0", True),
    ]
    assert (unit.wwid, unit.multipath, set(unit.stack)) == ("naa.6001", True, {"sda", "sdb", "dm-0", "dm-1"})


def test_several_disks(host: Host) -> None:
    """Each once, in the order they are named; what they are connected by."""
    host.partition("sdc1", "sdc")
    units = host.units(["/dev/sdc1", "/dev/sda", "/dev/sdb"])
    assert [unit.wwid for unit in units] == ["naa.5000", "naa.6001"]
    assert units[0].stack == ("sdc", "sdc1") and not units[0].multipath
    assert [host.fabric(name) for name in ("sda", "sdc")] == ["iSCSI", ""]


def test_what_cannot_be_found(host: Host, tmp_path: Path) -> None:
    """Said with its name: not there, no SCSI disk, without an identity, a pattern that fits nothing."""
    (host.sys / "block/sdc/device/wwid").unlink()
    host.mapped("dm-9", "LVM-x")
    for name, words in (
        ("/dev/sdx", "No such file"),
        ("/dev/sdc", "does not say which logical unit"),
        ("/dev/dm-9", "no SCSI disk"),
        (f"{tmp_path}/wwn-*", "no device fits"),
    ):
        with pytest.raises(NotFound, match=words):
            host.units([name])


# ---- a life
def test_started_seen_and_stopped(host: Host, disk: Disk) -> None:
    """Taken on both paths, the cache flushed before it may write and again afterwards; stop leaves the disk reserved,
    and status is down nevertheless."""
    assert status(host, {}) is Status.DOWN
    state = started(host)
    assert disk.registered == dict.fromkeys(["n1.sda", "n1.sdb"], own("node1", 7))
    assert state == {"term": 7, "paths": ["1:0:0:0", "2:0:0:0"], "nodes": ["node1", "node2"]}
    assert status(host, state) is Status.UP
    assert [set(names) for names, _ in host.flushed] == [{"sda", "sdb", "dm-0", "dm-1"}] * 2
    ctx = context(Verb.STOP, state)
    doing.stop(PR, ctx, host)
    assert disk.reserved and status(host, ctx.state) is Status.DOWN
    doing.stop(PR, ctx, host)


def test_what_was_cached_meets_a_disk_that_refuses_it(host: Host, disk: Disk) -> None:
    """The first flush is over before this node may write."""
    disk.registered, disk.holder, disk.kind = {"n2": own("node2", 6)}, "n2", 5
    started(host)
    assert [writes for _, writes in host.flushed] == [False, True]


def test_released_on_stop(host: Host, disk: Disk) -> None:
    """With release_on_stop nothing is left of it."""
    pr = ScsiPr(devices=("/dev/sda",), release_on_stop=True)
    state = started(host, pr)
    doing.stop(pr, context(Verb.STOP, state), host)
    assert not disk.registered and not disk.reserved


def test_the_lock_is_asked_for_before_each_command(host: Host, disk: Disk) -> None:
    """Lost at the n-th time nothing more is changed; and it is asked for at least as often as something is changed."""
    ctx = context()
    doing.start(PR, ctx, host)
    total, commands = ctx.rechecks, len(disk.log)
    assert total >= commands + len(host.flushed)
    for after in range(total):
        disk.registered, disk.holder, disk.kind = {}, "", 0
        disk.log.clear()
        host.flushed.clear()
        ctx = context()
        ctx.lose_lock(after)
        with pytest.raises(Failed, match="taken away by the test"):
            doing.start(PR, ctx, host)
        assert len(disk.log) + len(host.flushed) <= after


def test_fence(host: Host, disk: Disk) -> None:
    """A former holder is shut out; the journal says so. The start that follows finds the disk ours."""
    disk.registered, disk.holder, disk.kind = {"n2": own("node2", 6)}, "n2", 5
    ctx = context(Verb.FENCE)
    doing.fence(PR, ctx, Former(node="node2"), host)
    assert not disk.takes_write("n2")
    assert "preempted node node2, term 6" in str(ctx.lines) and "node node2 cannot write any more" in str(ctx.lines)
    assert ctx.state == {}
    assert status(host, started(host)) is Status.UP


def test_a_path_that_comes_back_is_registered_by_heal(host: Host, disk: Disk) -> None:
    """Left out while it is dead, and said so; back again status is down, and up once it is healed."""
    host.state("sdb", "transport-offline")
    ctx = context()
    doing.start(PR, ctx, host)
    assert "path sdb (2:0:0:0) of naa.6001 is transport-offline: left out" in ctx.lines
    assert status(host, ctx.state) is Status.UP and not disk.takes_write("n1.sdb")
    host.state("sdb", "running")
    assert status(host, ctx.state) is Status.DOWN
    healing = context(Verb.HEAL, ctx.state)
    doing.heal(PR, healing, host)
    assert status(host, healing.state) is Status.UP and disk.takes_write("n1.sdb")


def test_heal_of_what_another_has(host: Host, disk: Disk) -> None:
    """No path shows our key holding: nothing is registered."""
    state = started(host)
    disk.registered, disk.holder = {"n2": own("node2", 8)}, "n2"
    looked = context(None, state)
    assert looking.status(PR, looked, host) is Status.CRITICAL
    assert "preempted: registered by node node2, term 8" in str(looked.lines)
    log = list(disk.log)
    with pytest.raises(Failed, match="no path shows this node's key holding it"):
        doing.heal(PR, context(Verb.HEAL, state), host)
    assert disk.log == log


def test_a_disk_that_cannot_be_asked(host: Host, disk: Disk) -> None:
    """Neither up nor down; who never took it under this term is down."""
    state = started(host)
    disk.cut = {"n1.sda", "n1.sdb"}
    with pytest.raises(CannotTell, match="transport failed fast"):
        status(host, state)
    for name in ("sda", "sdb"):
        host.state(name, "offline")
    with pytest.raises(CannotTell, match="no path is alive"):
        status(host, state)
    with pytest.raises(Failed, match="no path answers"):
        started(host)
    gone = ScsiPr(devices=("/dev/sdx",))
    with pytest.raises(CannotTell, match="No such file"):
        status(host, state, gone)
    assert status(host, {}, gone) is Status.DOWN
    with pytest.raises(Failed, match="btw check"):
        started(host, gone)


def test_a_term_too_large(host: Host) -> None:
    """It has no room in a key: refused, and down."""
    with pytest.raises(Failed, match="no room"):
        started(host, term=2**32)
    assert status(host, {}, term=2**32) is Status.DOWN


# ---- check
class Mounted(Resource, frozen=True, kw_only=True, tag="mounted"):
    """Something on a disk."""

    layer = "storage"
    device: str = ""


def said(host: Host, pr: ScsiPr = PR, *others: Sibling, configuration: tuple[Path, ...] = ()) -> list[str]:
    everything = (Sibling(package="p", resource=pr), *others)
    ctx = CheckContext(cluster="c", node="n", package="p", everything=everything)
    return [str(problem) for problem in check(pr, ctx, host, configuration)]


def test_check_is_content(host: Host) -> None:
    """With what is in order."""
    assert said(host) == []


def test_check_of_the_paths(host: Host, disk: Disk) -> None:
    """Not there; a path that is dead; none that answers; several without multipath."""
    assert "No such file" in str(said(host, ScsiPr(devices=("/dev/sdx",))))
    host.state("sda", "offline")
    assert said(host) == [
        "warning: devices: path sda (1:0:0:0) of naa.6001 is offline; see to its cable or its session"
    ]
    host.state("sdb", "offline")
    assert "no path answers" in str(said(host))
    host.path("sdd", Disk(), wwid="naa.7", host=7)
    host.path("sde", Disk(), wwid="naa.7", host=8)
    assert "2 paths, but no multipath device" in str(said(host, ScsiPr(devices=("/dev/sdd",))))


def test_check_of_what_a_disk_can(host: Host, disk: Disk) -> None:
    """No reservations at all, not of this type, none that outlives a loss of power, no answer."""
    disk.hook = lambda nexus, action: illegal(0x20)
    assert "naa.6001 has no persistent reservations (sda: READ KEYS: illegal request" in str(said(host))
    disk.hook = lambda nexus, action: illegal(0x20) if action is In.REPORT_CAPABILITIES else None
    assert said(host) == []  # an old disk
    few = Reply(0, data=bytes([0, 8, 1, 0x80, 0x20, 0, 0, 0]))
    disk.hook = lambda nexus, action: few if action is In.REPORT_CAPABILITIES else None
    assert "no reservations of type 7; it has: 5" in str(said(host, ScsiPr(devices=("/dev/sda",), reservation=7)))
    disk.hook, disk.persists = (lambda nexus, action: None), False
    assert "forgets reservations when it loses power" in str(said(host))
    disk.cut = {"n1.sda", "n1.sdb"}
    assert "READ KEYS: transport failed fast" in str(said(host))


def test_check_of_multipathd(host: Host, tmp_path: Path) -> None:
    """It must not register paths by itself; comments and `none` are no matter."""
    file, directory = tmp_path / "multipath.conf", tmp_path / "conf.d"
    directory.mkdir()
    file.write_text("defaults {\n # reservation_key file\n reservation_key none\n}\n")
    places = (file, directory, tmp_path / "absent")
    assert said(host, configuration=places) == []
    (directory / "a.conf").write_text("defaults {\n\treservation_key file\n}\n")
    assert f"reservation_key in {directory}/a.conf" in str(said(host, configuration=places))


def test_check_of_what_is_not_fenced(host: Host) -> None:
    """A resource on a shared disk that no scsi_pr of its package guards: of this package, and of one without any."""
    host.path("sdf", Disk(), wwid="naa.9", host=9)
    fenced = Sibling(package="p", resource=Mounted(name="a", device="/dev/dm-1"))
    bare = Sibling(package="p", resource=Mounted(name="b", device="/dev/sdf"))
    other = Sibling(package="q", resource=Mounted(name="c", device="/dev/sda"))
    inside = Sibling(package="q", resource=Mounted(name="d", device="/dev/sdc"))
    absent = Sibling(package="q", resource=Mounted(name="e", device="/dev/sdx"))
    found = said(host, PR, fenced, bare, other, inside, absent)
    assert len(found) == 2
    assert "`b` of `p` is on naa.9, which others reach (iSCSI); fence it: give `p` a scsi_pr" in found[0]
    assert "`c` of `q` is on naa.6001" in found[1]


def test_preempt_and_abort_is_what_is_sent(host: Host, disk: Disk) -> None:
    """Not a plain preempt, where the disk can do better."""
    disk.registered, disk.holder, disk.kind = {"n2": own("node2", 6)}, "n2", 5
    started(host)
    assert any(Out.PREEMPT_AND_ABORT.words in line for line in disk.log)
