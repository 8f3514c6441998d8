"""File systems whose storage hangs or fails, in booted machines: btw says what waits where, goes on answering, and
whoever comes after can take over. With -s it says what was measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from btw_core.timing import Timing, violations
from vm.hangs import BESIDE, DEVICE, DIRECTORY, DUST, FAILING, LINEAR, SCSI, Hanging, Host, Hosts, replaced
from vm.lab import Lab, clock
from vm.nodes import LIMIT, until

TIMES = Timing(pace=2, timeout=8, start_timeout=10, stop_timeout=8, watchdog=2)
#: Seconds for an answer of `btw status`, and of silence of a service on a busy computer.
ANSWER = 20.0
ON_DEVICE = f'device = "{DEVICE}"\nfstype = "ext4"\ncheck = "read"'
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    assert violations(TIMES) == []
    with Lab(machines=3, etcd=1) as lab:
        yield Hosts(lab, TIMES)


def told(node: Host, state: str, what: str) -> tuple[Hanging, str]:
    """Waits until `btw status` is in that state and names a process that hangs in state D, with its wchan. It answers
    all the time."""
    found: list[tuple[Hanging, str]] = []

    def look() -> bool:
        before = node.hanging()
        at = clock()
        said = node.status()
        assert clock() - at < ANSWER, "btw status hangs"
        named = [each for each in before & node.hanging() if _named(said, each)]
        if state in said and named:
            found[:] = [(named[0], said)]
        return bool(found)

    until(look, f"btw status names {what}", pause=0.5)
    return found[0]


def _named(said: str, each: Hanging) -> bool:
    return re.search(rf"pid {each.pid} .*state D in {re.escape(each.wchan)}\b", said) is not None


def another_manager(hosts: Hosts, node: Host, state: str) -> None:
    """The manager is killed while the file system hangs; the next one goes on with both packages."""
    before, at = node.both(), clock()
    node.signal("KILL", before.manager)
    until(lambda: replaced(node, before), "another manager")
    until(lambda: node.is_(state) and node.is_("running", BESIDE), f"the next manager finds it {state}")
    print(f"\nmanager killed: the next one says {state} after {clock() - at:.2f} s")


def unaffected(hosts: Hosts, since: float) -> None:
    """The package beside: one and the same process, heard of all the time."""
    assert len(hosts.lives_beside(since)) == 1
    gap = hosts.gap_beside(since)
    print(f"\nbeside: longest silence {gap:.2f} s in {clock() - since:.1f} s")
    assert gap < ANSWER


def hang(hosts: Hosts, self_fence: str) -> float:
    """The device of the first node is suspended while it is written to; since when. Returns when btw has given up."""
    node = hosts.first
    hosts.set_up(ON_DEVICE, LINEAR, self_fence)
    at = clock()
    node.shell("dmsetup suspend --noflush --nolockfs lab")
    until(lambda: bool(node.hanging()), "a process in state D")
    (hanging, said) = told(node, "stuck", "what hangs")
    print(f"\nsuspended: stuck after {clock() - at:.1f} s: {said}")
    node.machine.run("kill", "-9", str(hanging.pid))
    assert hanging.pid in {each.pid for each in node.hanging()}, "it can be killed: it was not in state D"
    assert not hosts.second.is_("running")
    return at


def test_a_suspended_device(hosts: Hosts) -> None:
    """All that writes to it hangs in state D, and survives SIGKILL: nothing is released. When it goes on, so does the
    package, by itself."""
    at = hang(hosts, "none")
    node = hosts.first
    another_manager(hosts, node, "stuck")
    told(node, "stuck", "what hangs, by another manager")
    unaffected(hosts, at)
    at = clock()
    node.shell("dmsetup resume lab")
    until(lambda: any(each.is_("running") for each in hosts.nodes), "it runs again")
    print(f"\nresumed: it runs again after {clock() - at:.1f} s")
    assert node.hanging() == set()


def test_a_suspended_device_and_the_lock_is_lost(hosts: Hosts) -> None:
    """Cut off from the store with what cannot be stopped: the watchdog resets the node, and the other takes over."""
    hang(hosts, "watchdog")
    node, other = hosts.first, hosts.second
    boot, at = node.machine.boot_id(), clock()
    node.machine.cut()
    until(lambda: other.is_("running"), f"{other.name} takes over", hosts.timing.worst_failover() + LIMIT)
    print(f"\ncut off: {other.name} runs it after {clock() - at:.1f} s")
    node.machine.join()
    assert node.machine.boot_id() != boot, "it was not reset"
    until(node.ready, f"{node.name} is ready")


def test_a_dead_nfs_server(hosts: Hosts) -> None:
    """A look hangs in state D, and so does the service: said with their wchan. Its requests are given up, it is down
    here, and no node can start it; once the server lives it runs again."""
    hosts.server.start()
    source = f'device = "{hosts.server.address}:/"\nfstype = "nfs4"\ncheck = "read"\n'
    hosts.set_up(source + 'options = "vers=4.2,hard,timeo=10,retrans=1"')
    node, at = hosts.first, clock()
    hosts.server.kill()
    _, said = told(node, "", "what hangs")
    print(f"\ndead server: named after {clock() - at:.1f} s: {said}")
    until(lambda: not node.is_("running") and not node.hanging(), "it is down", pause=0.5)
    until(lambda: DIRECTORY not in node.machine.read("/proc/mounts"), "it is unmounted", pause=0.5)
    print(f"\ndead server: unmounted after {clock() - at:.1f} s")
    before = node.both()
    node.signal("KILL", before.manager)
    until(lambda: replaced(node, before) and node.is_("running", BESIDE), "another manager")
    unaffected(hosts, at)
    assert not any(each.is_("running") for each in hosts.nodes)
    at = clock()
    hosts.server.revive()
    until(lambda: any(each.is_("running") for each in hosts.nodes), "it runs again")
    print(f"\nserver alive: it runs again after {clock() - at:.1f} s")


def test_a_device_that_fails(hosts: Hosts) -> None:
    """dm-flakey: every request fails from one moment on. Nothing hangs: the package is stopped here and runs there."""
    hosts.set_up(ON_DEVICE, LINEAR)
    moves(hosts, lambda: hosts.first.swap(FAILING))


def test_blocks_that_cannot_be_read(hosts: Hosts) -> None:
    """dm-dust: the writer notices nothing, a look at a block past the cache does."""
    hosts.set_up(ON_DEVICE, DUST)
    hosts.first.shell(*(f"dmsetup message lab 0 addbadblock {block}" for block in range(32)))
    moves(hosts, lambda: hosts.first.shell("dmsetup message lab 0 enable"))


def test_a_device_that_is_removed(hosts: Hosts) -> None:
    """A disk pulled out under its mount: its place is free afterwards, nothing hangs."""
    for node in hosts.nodes:
        node.plug()
    hosts.set_up(f'device = "{SCSI}"\nfstype = "ext4"')
    moves(hosts, hosts.first.unplug)


def moves(hosts: Hosts, fault: Callable[[], None]) -> None:
    node, other, at = hosts.first, hosts.second, clock()
    fault()
    until(lambda: other.is_("running"), f"{other.name} takes over", hosts.timing.worst_failover() + LIMIT)
    print(f"\nfails: {other.name} runs it after {clock() - at:.1f} s")
    assert DIRECTORY not in node.machine.read("/proc/mounts")
    assert node.hanging() == set()
    another_manager(hosts, node, "stand-by")
    unaffected(hosts, at)
