"""Faults of etcd members and of the network: the package moves exactly when it must, and never is it two.

`cluster` is a fixture that asserts the latter after each test.
"""

from __future__ import annotations

import signal
import statistics
import time

import pytest

from btw_core.clock import boottime

from .cluster import PACKAGE, Cluster
from .conftest import Measured
from .lab import LIMIT, send, until
from .referee import Span

MOVES = 10
#: Seconds: what a planned move should take in the median. Reported, not asserted: other programs run here as well.
MOVE_AIM = 0.1


def stays(cluster: Cluster, span: Span) -> None:
    """The lease was renewed meanwhile, by the same life of the service, and it goes on."""
    cluster.wait_renewals(span)
    cluster.stays(span)


# ---- members of etcd --------------------------------------------------------------------------------------------
def test_a_killed_member_moves_nothing(cluster: Cluster) -> None:
    """Any member that is not the leader, also the one that is asked first."""
    span = cluster.active()
    for member in cluster.etcd.followers():
        member.kill()
        stays(cluster, span)
        cluster.etcd.start()
        cluster.etcd.wait_healthy()
    stays(cluster, span)


def test_a_killed_leader_moves_nothing(cluster: Cluster) -> None:
    """Another is elected within T - P - r."""
    span = cluster.active()
    gone = cluster.etcd.leader()
    gone.kill()
    stays(cluster, span)
    assert cluster.etcd.leader() is not gone
    cluster.etcd.start()
    cluster.etcd.wait_healthy()
    stays(cluster, span)


@pytest.mark.parametrize("seconds", [9.0, 30.0])
def test_a_frozen_leader_moves_nothing(cluster: Cluster, seconds: float) -> None:
    """Neither while it is frozen, nor when it comes back and believes to lead still."""
    span = cluster.active()
    leader = cluster.etcd.leader()
    leader.freeze()
    time.sleep(seconds)
    assert cluster.etcd.leader() is not leader
    cluster.stays(span)
    leader.resume()
    stays(cluster, span)


def test_a_member_cut_off_moves_nothing(cluster: Cluster) -> None:
    """Whichever it is, the leader included."""
    span = cluster.active()
    for member in cluster.etcd.members:
        cluster.lab.cut(member.host)
        stays(cluster, span)
        cluster.lab.join(member.host)
        cluster.etcd.wait_healthy()
        cluster.stays(span)


def test_two_members_away_for_a_moment_move_nothing(cluster: Cluster) -> None:
    """Without a quorum nothing can be renewed; for less than T - P - r that does not matter."""
    span = cluster.active()
    for members in (cluster.etcd.followers(), [cluster.etcd.leader(), cluster.etcd.followers()[0]]):
        for member in members:
            member.freeze()
        time.sleep(cluster.calm / 4)  # the rest is for an election
        for member in members:
            member.resume()
        stays(cluster, span)


def test_two_members_away_for_long_stop_it_until_they_are_back(cluster: Cluster) -> None:
    """It is stopped everywhere by sent + T + S, for nobody can tell; it starts exactly once when they come back."""
    span = cluster.active()
    count = len(cluster.referee.spans(PACKAGE))
    one, two = cluster.etcd.followers()
    for member in (one, two):
        member.kill()
    begin = boottime()
    stopped = cluster.referee.wait_stopped(span, limit=cluster.timing.timeout + cluster.timing.stop_timeout)
    assert begin + cluster.calm < stopped
    time.sleep(cluster.timing.lease)  # no matter how long
    assert cluster.referee.active(PACKAGE) == []
    cluster.etcd.start()
    cluster.etcd.wait_healthy()
    again = cluster.active()
    stays(cluster, again)
    assert cluster.referee.spans(PACKAGE)[count:] == [again]


# ---- nodes ------------------------------------------------------------------------------------------------------
def test_the_active_node_cut_off_stops_and_another_takes_over(cluster: Cluster, measured: Measured) -> None:
    """It stops what it runs by sent + T + S, and only after L does another start it: T + S + g + pace, and answers."""
    span = cluster.active()
    node = cluster.node(span)
    count = len(cluster.referee.spans(PACKAGE))
    cluster.read()
    seen = len(cluster.events)
    cut = boottime()
    cluster.lab.cut(node.host)
    successor = cluster.referee.wait_active(PACKAGE, after=count, limit=cluster.bound + LIMIT)
    assert successor.node != span.node and span.stop is not None
    t = cluster.timing
    lost = [e for e in cluster.read()[seen:] if e["node"] == node.name and "no renewal was confirmed" in e["cause"]]
    sent = lost[0]["clock"] - t.timeout  # the lock counts as lost at sent + T
    measured(
        f"cut {cut - sent:.2f} s after the last committed renewal was sent; stopped at {span.stop - sent:.2f} s"
        f" (T {t.timeout:g}), started elsewhere at {successor.start - sent:.2f} s (T + S + g + pace"
        f" {t.lease + t.pace:.2f}, worst with lost answers {t.worst_failover():.2f})"
    )
    assert span.stop - sent < t.timeout + t.stop_timeout
    assert t.lease < successor.start - sent < cluster.bound
    cluster.lab.join(node.host)
    stays(cluster, successor)


def test_a_crashed_node_is_taken_over(cluster: Cluster, measured: Measured) -> None:
    """All its processes gone at once; it is booted again and takes part."""
    span = cluster.active()
    count = len(cluster.referee.spans(PACKAGE))
    cluster.node(span).host.crash()
    successor = cluster.referee.wait_active(PACKAGE, after=count, limit=cluster.bound + LIMIT)
    assert successor.node != span.node and span.stop is not None
    worst = cluster.timing.worst_failover()
    measured(f"active {successor.start - span.stop:.2f} s after the crash (worst {worst:.2f})")
    assert successor.start - span.stop < cluster.bound
    assert cluster.heal() is successor


@pytest.mark.parametrize("victim", ["manager", "keeper"])
def test_a_killed_manager_or_keeper_moves_nothing(cluster: Cluster, victim: str) -> None:
    """The other one starts another; the service does not notice."""
    span = cluster.active()
    node = cluster.node(span)
    pid = getattr(node, victim)
    send(pid, signal.SIGKILL)
    until(lambda: getattr(node, victim) not in (0, pid), f"another {victim} on {node.name}")
    stays(cluster, span)


def test_a_manager_killed_on_a_node_cut_off_is_not_forgotten(cluster: Cluster) -> None:
    """The next manager cannot ask the store when the former one lost the lock; it is stopped by H all the same."""
    span = cluster.active()
    node = cluster.node(span)
    count = len(cluster.referee.spans(PACKAGE))
    cut = boottime()
    cluster.lab.cut(node.host)
    send(node.manager, signal.SIGKILL)
    successor = cluster.referee.wait_active(PACKAGE, after=count, limit=cluster.bound + LIMIT)
    assert successor.node != span.node and span.stop is not None
    assert span.stop - cut < cluster.timing.timeout + cluster.timing.stop_timeout
    cluster.lab.join(node.host)
    stays(cluster, successor)


def test_the_active_node_cut_off_from_one_member_stays(cluster: Cluster) -> None:
    """Whichever member it is, and for longer than T: the others answer in time."""
    span = cluster.active()
    host = cluster.node(span).host
    for member in cluster.etcd.members:
        cluster.lab.part(host, member.host)
        cluster.wait_renewals(span, int(cluster.timing.timeout) // 2)
        cluster.stays(span)
        cluster.lab.mend(host, member.host)
    stays(cluster, span)


def test_planned_moves_are_fast(cluster: Cluster, measured: Measured) -> None:
    """A released package is taken through the watch: from the end of the old service to the start of the new one."""
    gaps = []
    for _ in range(MOVES):
        span = cluster.active()
        count = len(cluster.referee.spans(PACKAGE))
        cluster.node(span).halt()
        successor = cluster.referee.wait_active(PACKAGE, after=count, limit=LIMIT)
        assert span.stop is not None and successor.node != span.node
        gaps.append(successor.start - span.stop)
        cluster.heal()
    median = statistics.median(gaps)
    milliseconds = " ".join(f"{gap * 1000:.0f}" for gap in sorted(gaps))
    measured(f"planned moves: median {median * 1000:.0f} ms (aim {MOVE_AIM * 1000:g}) of {milliseconds}")
    assert median < cluster.timing.pace / 2  # else the watch was not what brought it


# ---- people -----------------------------------------------------------------------------------------------------
def test_deleted_keys_move_nothing(cluster: Cluster) -> None:
    """The holder writes its records again; meanwhile nobody takes what looks as if it had never been."""
    span = cluster.active()
    key = f"btw/packages/{PACKAGE}"
    before = cluster.etcd.value(key)
    wanted = {key, f"btw/sessions/{span.node}/{PACKAGE}"}
    for words in ((key,), ("btw/sessions/", "--prefix"), ("btw/packages/", "--prefix")):
        cluster.etcd.done("del", *words)
        until(lambda: wanted <= set(cluster.etcd.keys()), "written again", pause=0.2)
        stays(cluster, span)
    after = cluster.etcd.value(key)
    assert (after["holder"], after["term"]) == (before["holder"], before["term"])
    time.sleep(cluster.timing.lease)
    cluster.stays(span)


def test_an_old_snapshot_brings_back_no_old_holder(cluster: Cluster, measured: Measured) -> None:
    """The snapshot names another holder, which lives and could believe it: it starts nothing. The store being away for
    less than T - P - r the holder stays, else it stops in time and one node starts it."""
    former = cluster.active()
    snapshot = cluster.etcd.save("snapshot")
    cluster.node(former).halt()
    cluster.heal()
    span = cluster.active()
    assert span.node != former.node
    term = cluster.etcd.value(f"btw/packages/{PACKAGE}")["term"]
    begin = time.monotonic()
    cluster.etcd.restore(snapshot)
    cluster.etcd.wait_healthy()
    away = time.monotonic() - begin
    final = cluster.active()
    stays(cluster, final)
    time.sleep(cluster.timing.lease)
    cluster.stays(final)
    measured(f"etcd was away for {away:.1f} s (T - P - r {cluster.calm:g}); stayed: {final is span}")
    if away < cluster.calm:
        assert final is span
    assert cluster.etcd.value(f"btw/packages/{PACKAGE}")["term"] >= term
