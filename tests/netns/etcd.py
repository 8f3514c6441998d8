"""Three members of a real etcd, each on a host of its own: 10.77.0.11, .12 and .13."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import Any

from .lab import Host, Lab, send, until

CLIENT, PEER = 2379, 2380
#: Short, as on one switch: a lost leader is replaced in one to two seconds.
HEARTBEAT, ELECTION = 100, 1000  # milliseconds


class Member:
    """One of them. Every method may be called again."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name = host.name
        self.url, self.peer = f"http://{host.v4}:{CLIENT}", f"http://{host.v4}:{PEER}"
        self.life = 0  # grows with each restored snapshot: another data directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> str:
        return str(self.host.directory / f"data{self.life}")

    def start(self, members: list[Member], token: str) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._process = self.host.start(
            "etcd",
            f"--name={self.name}",
            f"--data-dir={self.data}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={self.peer}",
            f"--initial-advertise-peer-urls={self.peer}",
            f"--initial-cluster={described(members)}",
            f"--initial-cluster-token={token}",
            "--initial-cluster-state=new",
            f"--heartbeat-interval={HEARTBEAT}",
            f"--election-timeout={ELECTION}",
            "--pre-vote",  # etcd 3.5 does; else a member that was cut off deposes the leader when it comes back
            "--logger=zap",
            "--log-level=warn",
            log=self.host.directory / "log",
            env={"GOMAXPROCS": "1"},
        )

    def freeze(self) -> None:
        if self._process is not None and self._process.poll() is None:
            send(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None and self._process.poll() is None:
            send(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def described(members: list[Member]) -> str:
    return ",".join(f"{member.name}={member.peer}" for member in members)


class Etcd:
    """The cluster. etcdctl runs on the hub, which no fault reaches."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.members = [Member(lab.host(f"m{number}", 10 + number)) for number in (1, 2, 3)]
        self.lock = f"etcd://{','.join(f'{member.host.v4}:{CLIENT}' for member in self.members)}/btw"
        self._token = "lab"

    def start(self) -> None:
        """All members that do not run; returns at once."""
        for member in self.members:
            member.start(self.members, self._token)

    def healthy(self) -> bool:
        """A write through each member that answers is possible, and all answer."""
        return all(self.ctl("endpoint", "health", member=member).returncode == 0 for member in self.members)

    def wait_healthy(self) -> None:
        until(self.healthy, "all members of etcd are healthy", pause=0.1)

    def leader(self) -> Member:
        """As `leading`, waiting for one."""
        until(lambda: self.leading() is not None, "two members of etcd agree on a leader", pause=0.1)
        leader = self.leading()
        assert leader is not None
        return leader

    def followers(self) -> list[Member]:
        leader = self.leader()
        return [member for member in self.members if member is not leader]

    def leading(self) -> Member | None:
        """As at least two members say at the moment."""
        names: dict[int, Member] = {}
        votes: list[int] = []
        for member in self.members:
            done = self.ctl("endpoint", "status", "-w", "json", member=member)
            if done.returncode == 0:
                status = json.loads(done.stdout)[0]["Status"]
                names[status["header"]["member_id"]] = member
                votes.append(status.get("leader", 0))
        found = [names[vote] for vote in set(votes) if vote in names and votes.count(vote) >= 2]
        return found[0] if found else None

    # ---- what a person does
    def ctl(self, *words: str, member: Member | None = None, timeout: float = 1.0) -> subprocess.CompletedProcess[str]:
        """etcdctl 3.4 on one member, by default the first that answers."""
        members = [member] if member else self.members
        times = [f"--dial-timeout={timeout}s", f"--command-timeout={timeout}s"]
        endpoints = ",".join(each.url for each in members)
        return self.lab.hub.run(
            "env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={endpoints}", *times, *words, check=False
        )

    def done(self, *words: str, member: Member | None = None) -> str:
        """What etcdctl prints. Raises AssertionError when it fails."""
        done = self.ctl(*words, member=member, timeout=10)
        assert done.returncode == 0, f"etcdctl {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def keys(self) -> list[str]:
        return self.done("get", "", "--prefix", "--keys-only").split()

    def value(self, key: str) -> Any:
        return json.loads(self.done("get", key, "--print-value-only"))

    def save(self, name: str) -> str:
        """A snapshot; its path."""
        path = str(self.lab.directory / name)
        self.done("snapshot", "save", path, member=self.leader())
        return path

    def restore(self, path: str) -> float:
        """End all members and start them with what the snapshot holds, as a new cluster. Seconds that they were away,
        up to their start."""
        self._token += "-restored"
        for member in self.members:
            member.life += 1
            member.host.run(
                "env", "ETCDCTL_API=3", "etcdctl", "snapshot", "restore", path,
                f"--name={member.name}",
                f"--data-dir={member.data}",
                f"--initial-cluster={described(self.members)}",
                f"--initial-cluster-token={self._token}",
                f"--initial-advertise-peer-urls={member.peer}",
            )  # fmt: skip
        begin = time.monotonic()
        for member in self.members:
            member.kill()
        self.start()
        return time.monotonic() - begin
