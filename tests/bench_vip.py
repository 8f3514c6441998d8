"""What becomes of a virtual address when it moves, against keepalived in the same run: part of `nox -s bench`.

Two nodes, a client that pings every millisecond, and a lookout on the bridge (see netns/vips.py). For each fault the
medians of --rounds: how long the client got no answer, and for how long two nodes answered. Then the processor time of
150 addresses. Needs root, etcd-server, etcd-client and keepalived of Debian; says so where they are missing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from bench import BTW, all_running, family, memory, used
from netns.cluster import PACKAGE, Cluster, Node
from netns.lab import ETHERNET, Host, Lab, send, until
from netns.vips import V4, Sight

from btw_core.clock import boottime

#: Each round deletes it once: not to be taken for somebody who fights for it.
VIP = f'[[resource]]\ntype = "vip"\naddress = "{V4}/24"\ninterface = "{ETHERNET}"\nheals = 99\n'
#: Seconds without a fault before each, and for which two holders are looked for where nothing ends them.
CALM, LOOKING = 1.5, 2.0
ADDRESSES = 150


class Rival(Protocol):
    """What keeps the address on one of its hosts."""

    hosts: list[Host]

    def stop(self, host: Host) -> None:
        """Give it up in an orderly way."""

    def kill(self, host: Host) -> None:
        """SIGKILL to what decides there."""

    def run(self) -> None:
        """Whatever does not run; returns when all of it is ready."""


class Btw:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.hosts = [node.host for node in cluster.nodes]
        self.lease = cluster.timing.lease

    def _node(self, host: Host) -> Node:
        return next(node for node in self._cluster.nodes if node.host is host)

    def stop(self, host: Host) -> None:
        self._node(host).btw("stop", "web")

    def kill(self, host: Host) -> None:
        manager = self._node(host).manager
        send(manager, signal.SIGKILL)
        until(lambda: self._node(host).manager not in (0, manager), "another manager")

    def run(self) -> None:
        self._cluster.heal()
        until(lambda: all(self._stands_by(node) for node in self._cluster.nodes), "all nodes take part")

    def _stands_by(self, node: Node) -> bool:
        """It has a session in this boot: a node that was rebooted first waits whether its former life is over, and
        does not count yet how long anybody is silent."""
        return node.host.boot in str(self._cluster.etcd.value(f"btw/sessions/{node.name}/{PACKAGE}"))


class Keepalived:
    """VRRP version 3, nobody preempts."""

    def __init__(self, lab: Lab, interval: str) -> None:
        self.hosts = [lab.host(name, number) for name, number in (("n1", 21), ("n2", 22))]
        self._lab = lab
        self._ending: set[Host] = set()
        for host in self.hosts:
            (host.directory / "conf").write_text(
                "global_defs {\n vrrp_version 3\n script_user root\n}\nvrrp_instance web {\n state BACKUP\n nopreempt\n"
                f" interface {ETHERNET}\n virtual_router_id 51\n priority 100\n advert_int {interval}\n"
                f" virtual_ipaddress {{\n  {V4}/24\n }}\n}}\n"
            )

    def stop(self, host: Host) -> None:
        for process in self._pids(host):
            send(process, signal.SIGTERM)
        self._ending.add(host)

    def kill(self, host: Host) -> None:
        for process in self._pids(host):
            send(process, signal.SIGKILL)
        self._ending.add(host)

    def run(self) -> None:
        for host in self.hosts:
            self._lab.join(host)
            if host in self._ending:  # which takes it a second
                until(lambda host=host: not self._pids(host), "keepalived has ended")  # type: ignore[misc]
            if not self._pids(host):
                host.run("ip", "address", "flush", "to", V4)
                for word in ("pid", "vrrp_pid"):  # of one that was killed: "daemon is already running"
                    (host.directory / word).unlink(missing_ok=True)
                files = [f"--{word}={host.directory}/{word}" for word in ("pid", "vrrp_pid")]
                host.start(
                    "keepalived", "--dont-fork", "--log-console", "--vrrp", f"--use-file={host.directory}/conf", *files,
                    log=host.directory / "output",
                )  # fmt: skip
                self._ending.discard(host)
                until(lambda host=host: len(self._pids(host)) >= 2, "keepalived has begun")  # type: ignore[misc]

    @staticmethod
    def _pids(host: Host) -> list[int]:
        return [pid for pid in host.processes() if words(pid)[:1] == ["keepalived"]]


def words(pid: int) -> list[str]:
    """Its command line; [] when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def faults(rival: Rival, sight: Sight) -> dict[str, Callable[[Host, Host], None]]:
    """By name; each returns once it is over."""

    def moved(_node: Host, other: Host) -> None:
        sight.alone(other.name)

    def planned(node: Host, other: Host) -> None:
        rival.stop(node)
        moved(node, other)

    def dead(node: Host, other: Host) -> None:
        sight.blackout(node)
        moved(node, other)

    def deleted(node: Host, _other: Host) -> None:
        node.run("ip", "address", "del", f"{V4}/24", "dev", ETHERNET)
        until(lambda: sight.outage(V4, begun[0]) > 0, "an outage")
        sight.reached(boottime())

    def killed(node: Host, _other: Host) -> None:
        rival.kill(node)
        time.sleep(LOOKING)
        sight.reached(boottime())

    begun = [0.0]

    def timed(fault: Callable[[Host, Host], None]) -> Callable[[Host, Host], None]:
        def run(node: Host, other: Host) -> None:
            begun[0] = boottime()
            fault(node, other)

        return run

    return {
        "planned move": timed(planned),
        "node dead": timed(dead),
        "address deleted": timed(deleted),
        "manager killed": timed(killed),
    }


def holders(rival: Rival) -> list[Host]:
    """Who has the address at this moment; keepalived may still be settling who."""
    return [host for host in rival.hosts if f" {V4}/" in host.run("ip", "address").stdout]


def measure(rival: Rival, sight: Sight, rounds: int) -> None:
    for name, fault in faults(rival, sight).items():
        outages, twos = [], []
        for _ in range(rounds):
            rival.run()
            time.sleep(CALM)
            until(lambda: len(holders(rival)) == 1 and {holders(rival)[0].name} == sight.answering(V4), "one has it")
            (node,) = holders(rival)
            other = next(host for host in rival.hosts if host is not node)
            begun = boottime()
            fault(node, other)
            outages.append(1000 * sight.outage(V4, begun))
            twos.append(sight.two(V4, begun))
        print(
            f"  {name:16} {statistics.median(outages):8.0f} ms ({min(outages):.0f} to {max(outages):.0f})"
            f"   two: {statistics.median(twos):6.3f} s ({max(twos):.3f})   load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


@contextmanager
def btw(timeout: float) -> Iterator[tuple[Rival, Sight]]:
    with Cluster(timeout=timeout, nodes=2, resources=VIP) as cluster, Sight(cluster.lab, [V4]) as sight:
        yield Btw(cluster), sight


@contextmanager
def keepalived(interval: str) -> Iterator[tuple[Rival, Sight]]:
    with Lab() as lab:
        rival = Keepalived(lab, interval)
        with Sight(lab, [V4]) as sight:
            yield rival, sight


def failovers(rounds: int, timeout: float) -> None:
    print(f"\nClient outage and seconds with two holders, medians (range) of {rounds}; up to 5 ms counts as none")
    rivals = {
        "keepalived, advert_int 0.01": keepalived("0.01"),
        "keepalived, default": keepalived("1"),
        f"btw on etcd, pace 1 s, timeout {timeout:g} s": btw(timeout),
    }
    for name, opened in rivals.items():
        print(name, flush=True)
        with opened as (rival, sight):
            if isinstance(rival, Btw):
                print(f"  (its lease: {rival.lease:.2f} s)")
            measure(rival, sight, rounds)


# ---- many addresses -------------------------------------------------------------------------------------------------
def crowd(seconds: float) -> None:
    """Processor time of all processes in steady state, on one host."""
    ips = [f"10.77.0.{number}" for number in range(100, 100 + ADDRESSES)]
    print(f"\n{ADDRESSES} addresses, nothing happening, {seconds:g} s: CPU in % of one core, PSS in MB")
    with Lab() as lab:
        host = lab.host("n1", 21)
        directory = host.directory
        (directory / "packages").mkdir()
        (directory / "btw.toml").write_text(f'cluster = "bench"\nnode = "n1"\nlock = "local:{directory}/lock.db"\n')
        names = [f"p{number}" for number in range(ADDRESSES)]
        for name, ip in zip(names, ips, strict=True):
            (directory / "packages" / f"{name}.toml").write_text(
                f'[package]\npace = 4\n[[resource]]\ntype = "vip"\naddress = "{ip}/24"\ninterface = "{ETHERNET}"\n'
            )
        run = host.start(BTW, "run", *names, "--dir", str(directory), log=directory / "output")
        journal = directory / "state" / "n1" / "journal.jsonl"
        until(lambda: all_running(journal, names), "all packages run", limit=300, pause=0.5)
        time.sleep(12)  # the second burst of announcements comes 5 s after each start, up to a pace late
        cost("btw, 150 packages, pace 4 s", family(run.pid), seconds)
        heralds = {pid for pid in host.processes() if any("herald" in word for word in words(pid))}
        cost(f"its {len(heralds)} heralds", heralds, 1.0)
        host.crash()
        for ip in ips:
            host.run("ip", "address", "flush", "to", ip)
        (directory / "conf").write_text(
            "vrrp_instance web {\n state BACKUP\n nopreempt\n"
            f" interface {ETHERNET}\n virtual_router_id 51\n priority 100\n advert_int 1\n virtual_ipaddress {{\n"
            + "".join(f"  {ip}/24\n" for ip in ips[:20]) + " }\n virtual_ipaddress_excluded {\n"
            + "".join(f"  {ip}/24\n" for ip in ips[20:]) + " }\n}\n"
        )  # fmt: skip
        files = [f"--{word}={directory}/{word}" for word in ("pid", "vrrp_pid")]
        rival = host.start(
            "keepalived", "--dont-fork", "--vrrp", f"--use-file={directory}/conf", *files, log=directory / "rival"
        )
        until(lambda: all(ip in host.run("ip", "address").stdout for ip in (ips[0], ips[-1])), "keepalived has them")
        time.sleep(6)  # its second burst of announcements comes after 5 s
        cost("keepalived, one instance", family(rival.pid), seconds)


def cost(name: str, pids: set[int], seconds: float) -> None:
    time.sleep(CALM)
    first, begun = used(pids), time.monotonic()
    time.sleep(seconds)
    share = (used(pids) - first) / (time.monotonic() - begun)
    print(f"  {name:28} {100 * share:6.2f} % {sum(map(memory, pids)) / 1e6:7.1f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of each fault (7); 0: none")
    parser.add_argument("--timeout", type=float, default=4.0, help="seconds, of the package of btw (4)")
    parser.add_argument("--seconds", type=float, default=24.0, help="of steady state (24); 0: not measured")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything that was started is ended
    missing = [name for name in ("etcd", "etcdctl", "keepalived") if shutil.which(name) is None]
    if missing or os.geteuid():
        sys.exit(f"needs root, and {', '.join(missing) or 'what is there'}: etcd-server, etcd-client, keepalived")
    if given.rounds:
        failovers(given.rounds, given.timeout)
    if given.seconds:
        crowd(given.seconds)


if __name__ == "__main__":
    main()
