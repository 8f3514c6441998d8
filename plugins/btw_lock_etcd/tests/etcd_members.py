"""Real etcd members for tests, as context managers; needs Debian's etcd-server and etcd-client. No pytest in here.

    with EtcdCluster(directory, 3) as cluster:          # on loopback, free ports, healthy
        cluster.rest("prefix")                          # what follows "etcd:" in `lock`
        cluster.leader().freeze()

    hosts = [Host("10.0.0.1", ("ip", "netns", "exec", "a")), ...]
    with EtcdCluster(directory, hosts=hosts, ports=(2379, 2380)) as cluster: ...

Every member ends with its parent *thread* (PR_SET_PDEATHSIG): start them in one that lasts.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Seconds within which a member or cluster must be well; generous: machines that test are busy.
PATIENCE = 60.0


def installed() -> bool:
    """Both programs are there."""
    return all(shutil.which(program) for program in ("etcd", "etcdctl", "setpriv"))


@dataclass(frozen=True)
class Host:
    """Where a member runs: its address, and the words before its command line (`ip netns exec NAME`)."""

    address: str = "127.0.0.1"
    wrap: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """The address as URLs and `lock` want it."""
        return f"[{self.address}]" if ":" in self.address else self.address


@dataclass(frozen=True)
class Tls:
    """Files of a member (`cert`, `key`), the CA of clients (`client_ca`: they must show a certificate), and how
    etcdctl gets in (`ca`, and `client`: its certificate and key)."""

    cert: Path
    key: Path
    ca: Path
    client_ca: Path | None = None
    client: tuple[Path, Path] | None = None


class Member:
    """One etcd process. `start` returns before it is healthy; everything else returns when it is done."""

    def __init__(self, name: str, directory: Path, host: Host, ports: tuple[int, int], scheme: str = "http") -> None:
        self.name, self.host, self.scheme = name, host, scheme
        self.client_port, self.peer_port = ports
        self.data, self.log = directory / f"{name}.etcd", directory / f"{name}.log"
        self.arguments: list[str] = []  # what the cluster says
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self.host.url}:{self.client_port}"

    @property
    def client_url(self) -> str:
        return f"{self.scheme}://{self.endpoint}"

    @property
    def peer_url(self) -> str:
        return f"http://{self.host.url}:{self.peer_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """With the data that it has."""
        assert not self.running()
        own = [
            f"--name={self.name}",
            f"--data-dir={self.data}",
            f"--listen-client-urls={self.client_url}",
            f"--advertise-client-urls={self.client_url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
        ]
        words = ["setpriv", "--pdeathsig", "KILL", *self.host.wrap, "etcd", *own, *self.arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=_environment()
            )

    def freeze(self) -> None:
        """SIGSTOP: accepts connections, answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL; may be repeated."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that takes too long; may be repeated."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        self.kill()
        self.start()

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(PATIENCE / 6)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)


class EtcdCluster:
    """`count` members on loopback, or one on each of `hosts`. Entering starts them and waits until all are healthy;
    leaving ends them, frozen ones too. `ports`: (client, peer) for all, where each host has an address of its own;
    without it free ones are taken. `extra`: further arguments of etcd."""

    def __init__(
        self,
        directory: Path,
        count: int = 3,
        *,
        hosts: Sequence[Host] = (),
        ports: tuple[int, int] | None = None,
        tls: Tls | None = None,
        extra: Sequence[str] = (),
        user: str = "",
    ) -> None:
        self.directory, self.tls, self.user = directory, tls, user  # user: "root:secret" for etcdctl
        self._hosts = list(hosts) or [Host()] * count
        self._ports, self._extra = ports, list(extra)
        self.members: list[Member] = []

    def __enter__(self) -> EtcdCluster:
        for attempt in range(3):
            self._make()
            try:
                self.start()
                return self
            except BaseException:  # Ctrl-C included: no member stays; raised again, but for a port that was taken
                logs = "".join(member.log.read_text(errors="replace") for member in self.members)
                self.stop()
                if attempt == 2 or "address already in use" not in logs:
                    raise
        raise AssertionError("not reached")

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _make(self) -> None:
        scheme = "https" if self.tls else "http"
        self.members = [
            Member(f"m{number}", self.directory, host, self._ports or _free_ports(host.address), scheme)
            for number, host in enumerate(self._hosts, 1)
        ]
        for member in self.members:
            shutil.rmtree(member.data, ignore_errors=True)
            member.log.unlink(missing_ok=True)
            member.arguments = [
                f"--initial-cluster={self.initial_cluster}",
                "--initial-cluster-state=new",
                "--initial-cluster-token=btw-test",
                *self._tls_arguments(),
                *self._extra,
            ]

    def _tls_arguments(self) -> list[str]:
        if self.tls is None:
            return []
        words = [f"--cert-file={self.tls.cert}", f"--key-file={self.tls.key}"]
        if self.tls.client_ca:
            words += ["--client-cert-auth", f"--trusted-ca-file={self.tls.client_ca}"]
        return words

    @property
    def initial_cluster(self) -> str:
        return ",".join(f"{member.name}={member.peer_url}" for member in self.members)

    def rest(self, prefix: str = "btw", members: Sequence[Member] | None = None) -> str:
        """What follows "etcd:" in `lock`."""
        return f"//{','.join(member.endpoint for member in members or self.members)}/{prefix}"

    def start(self) -> None:
        """Start every member that is not running, and wait until all are healthy."""
        for member in self.members:
            if not member.running():
                member.start()
        self.wait_healthy()

    def stop(self) -> None:
        for member in self.members:
            member.stop()

    def wait_healthy(self, members: Sequence[Member] | None = None) -> None:
        """Each of `members` (all) serves linearizable reads."""
        for member in members or self.members:

            def well(member: Member = member) -> bool:
                assert member.running(), f"{member.name} ended: {member.log.read_text(errors='replace')[-2000:]}"
                return self.healthy(member)

            eventually(well, f"{member.name} is not healthy, see {member.log}")

    def healthy(self, member: Member) -> bool:
        try:
            self.etcdctl("endpoint", "health", "--command-timeout=2s", members=[member])
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return False
        return True

    def etcdctl(self, *words: str, members: Sequence[Member] | None = None, input: str | None = None) -> str:
        """Standard output of `etcdctl`. Raises CalledProcessError."""
        used = members or [member for member in self.members if member.running()]
        flags = [f"--endpoints={','.join(member.client_url for member in used)}"]
        if self.tls:
            flags.append(f"--cacert={self.tls.ca}")
            if self.tls.client:
                flags += [f"--cert={self.tls.client[0]}", f"--key={self.tls.client[1]}"]
        if self.user:
            flags.append(f"--user={self.user}")
        # in the member's own network namespace, where it has one
        command = [*used[0].host.wrap, "etcdctl", *flags, *words]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=PATIENCE, input=input, env=_environment()
        )
        return done.stdout

    def status(self, member: Member) -> dict[str, Any]:
        """`etcdctl endpoint status` of one member."""
        (said,) = json.loads(self.etcdctl("endpoint", "status", "-w", "json", members=[member]))
        found: dict[str, Any] = said["Status"]
        return found

    def leader(self) -> Member:
        """Waits until the running members have one."""
        found: list[Member] = []

        def look() -> bool:
            for member in self.members:
                if member.running():
                    with contextlib.suppress(subprocess.CalledProcessError):
                        said = self.status(member)
                        if said.get("leader") == said["header"]["member_id"]:
                            found.append(member)
            return bool(found)

        eventually(look, "no leader")
        return found[0]

    def followers(self) -> list[Member]:
        leader = self.leader()
        return [member for member in self.members if member is not leader]

    def save(self, path: Path) -> None:
        """A snapshot, from the first running member."""
        running = next(member for member in self.members if member.running())
        self.etcdctl("snapshot", "save", str(path), members=[running])

    def restore(self, path: Path, token: str = "btw-test") -> None:
        """Stop all, put every member's data back to the snapshot, start all."""
        self.stop()
        for member in self.members:
            shutil.rmtree(member.data, ignore_errors=True)
            words = [
                f"--name={member.name}",
                f"--data-dir={member.data}",
                f"--initial-cluster={self.initial_cluster}",
                f"--initial-cluster-token={token}",
                f"--initial-advertise-peer-urls={member.peer_url}",
            ]
            subprocess.run(
                ["etcdctl", "snapshot", "restore", str(path), *words],
                check=True,
                capture_output=True,
                timeout=PATIENCE,
                env=_environment(),
            )
        self.start()


@contextlib.contextmanager
def frozen(*members: Member) -> Iterator[None]:
    """SIGSTOP for the block."""
    for member in members:
        member.freeze()
    try:
        yield
    finally:
        for member in members:
            member.thaw()


def eventually(true: Callable[[], object], otherwise: str, patience: float = PATIENCE) -> None:
    """Returns when `true()` is; AssertionError after `patience` seconds."""
    until = time.monotonic() + patience
    while not true():
        assert time.monotonic() < until, otherwise
        time.sleep(0.05)


def _environment() -> dict[str, str]:
    """No settings of etcd or proxies from outside; etcd 3.4 logs thousands of lines without a logger."""
    unwanted = [name for name in os.environ if name.startswith("ETCD") or "proxy" in name.lower()]
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | {"ETCDCTL_API": "3", "ETCD_LOGGER": "zap"}


def _free_ports(address: str) -> tuple[int, int]:
    """Two below the range that the kernel gives to outgoing connections, so that nobody gets one in between."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found: list[int] = []
    while len(found) < 2:
        port = random.randrange(10000, 32000)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((address, port))
                found.append(port)
    return found[0], found[1]
