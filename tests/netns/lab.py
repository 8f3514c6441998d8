"""Hosts in network namespaces on one bridge: run, cut, freeze, kill; and always clean up.

    with Lab() as lab:
        a, b = lab.host("a", 21), lab.host("b", 22)       # 10.77.0.21 fd77::21, 10.77.0.22 fd77::22
        a.run("ip", "neigh", "show", b.v4)
        lab.cut(a)                                        # as if its cable was pulled out
        lab.part(a, b)                                    # only between these two, in silence

A host is a network and a mount namespace without a name; they live as long as their holder (see `holder`). It has a
machine id, a boot id and a /sys of its own; processes, files and clocks are those of this computer. The hub, `lab.hub`,
is the host with the bridge: nothing cuts it off. Needs root. Addresses are the same in every lab: labs do not meet.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from . import holder

#: Seconds for anything that has to happen: generous, for these computers are busy.
LIMIT = 60.0
#: The interface of a host, and the bridge of the hub.
ETHERNET, BRIDGE = "eth0", "br0"
NEEDED = {"unshare": "util-linux", "nsenter": "util-linux", "mount": "mount", "ip": "iproute2", "nft": "nftables"}

#: What a host drops on arrival, by its sender: the other side notices nothing, unlike with a rule for what goes out.
_FIREWALL = """
table inet lab {
    set parted4 { type ipv4_addr; }
    set parted6 { type ipv6_addr; }
    chain arriving {
        type filter hook input priority -200; policy accept;
        ip saddr @parted4 drop
        ip6 saddr @parted6 drop
    }
}
"""


class Host:
    """One of them. `number` is the last part of its addresses."""

    def __init__(self, name: str, number: int, directory: Path) -> None:
        self.name = name
        self.number = number
        self.v4, self.v6 = f"10.77.0.{number}", f"fd77::{number}"
        #: For its files; not cleaned before the lab ends.
        self.directory = directory
        directory.mkdir()
        unshare = ["unshare", "--net", "--mount", "--propagation", "private"]
        self._holder = subprocess.Popen(
            [*unshare, sys.executable, "-IS", holder.__file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"host {name}: no namespaces ({' '.join(unshare)} failed, see above); needs root")
        self.pid = self._holder.pid
        namespace = holder.network(self.pid)
        assert namespace is not None
        self._namespace = namespace
        self._started: list[subprocess.Popen[bytes]] = []
        self._own_identity()

    def _own_identity(self) -> None:
        """machine-id(5), random(4) boot_id, and a /sys that shows its own interfaces but still the cgroups."""
        (self.directory / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        self._boot_id = self.directory / "boot_id"
        self._new_boot_id()
        if not Path("/etc/machine-id").exists():  # in a container; there must be something to mount over
            Path("/etc/machine-id").touch()
        self.run("sh", "-ec", """
            mount --bind machine-id /etc/machine-id
            mount --bind boot_id /proc/sys/kernel/random/boot_id
            mkdir cgroup && mount --rbind /sys/fs/cgroup cgroup
            mount -t sysfs lab /sys
            mount --rbind cgroup /sys/fs/cgroup
            umount --recursive --lazy cgroup
            """, cwd=self.directory)  # fmt: skip

    @property
    def boot(self) -> str:
        """Its boot id."""
        return self._boot_id.read_text().strip()

    def _new_boot_id(self) -> None:
        self._boot_id.write_text(f"{uuid.uuid4()}\n")

    # ---- processes
    def command(self, *words: str) -> list[str]:
        """What to execute on this computer so that `words` runs on the host, with one and the same pid."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--wd=.", "--", *words]

    def run(
        self, *words: str, check: bool = True, input: str | None = None, timeout: float = LIMIT, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """To its end. Raises RuntimeError with what it said when its exit code is not 0, TimeoutExpired."""
        done = subprocess.run(
            self.command(*words), input=input, capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd
        )
        if check and done.returncode != 0:
            said = (done.stdout + done.stderr).strip()
            raise RuntimeError(f"host {self.name}: {' '.join(words)}: exit code {done.returncode}: {said}")
        return done

    def start(self, *words: str, log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """In the background, in a session of its own, with its output added to `log`. Ended with the host."""
        with log.open("ab") as file:
            process = subprocess.Popen(
                self.command(*words), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
                env=None if env is None else {**os.environ, **env},
            )  # fmt: skip
        self._started.append(process)
        # before that the holder would not find it
        until(
            lambda: holder.network(process.pid) == self._namespace or process.poll() is not None,
            f"nsenter has entered host {self.name}",
            pause=0.001,
        )
        return process

    def processes(self) -> list[int]:
        """Everything alive on the host."""
        return [pid for pid in holder.members(self._namespace) if pid != self.pid]

    def freeze(self) -> None:
        """Stop every process of the host, until `resume`."""
        freeze(self.processes)

    def resume(self) -> None:
        for pid in self.processes():
            send(pid, signal.SIGCONT)

    def crash(self, *, reboot: bool = True) -> None:
        """Kill every process of the host at once; what is started afterwards is in another boot (or in the same)."""
        left = holder.end_all(self._namespace, but=self.pid)
        assert not left, f"host {self.name}: {left} survive SIGKILL"
        self._reap()
        if reboot:
            self._new_boot_id()

    def close(self) -> None:
        """End everything on it and the host itself. Raises RuntimeError when something survives."""
        assert self._holder.stdin is not None and self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        code = self._holder.wait(2 * holder.PATIENCE)
        self._reap()
        if code != 0:
            raise RuntimeError(f"host {self.name}: its holder ended with {code}, see above: something is left")

    def _reap(self) -> None:
        for process in self._started:
            process.wait(LIMIT)
        self._started.clear()


class Lab:
    """The hosts, the hub and a directory, all gone afterwards; `keep=True` keeps the directory."""

    def __init__(self, *, keep: bool = False) -> None:
        self._keep = keep
        self._cleanup = contextlib.ExitStack()
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Lab:
        missing = sorted({package for program, package in NEEDED.items() if shutil.which(program) is None})
        assert not missing, f"the lab needs: apt-get install {' '.join(missing)}"
        assert os.geteuid() == 0, "the lab makes namespaces: run its tests as root"
        with contextlib.ExitStack() as stack:  # unwound here when something fails, else by __exit__
            # a short path, for there are Unix sockets in it (unix(7): 108 bytes)
            self.directory = Path(tempfile.mkdtemp(prefix=f"btw-lab-{os.getpid()}-"))
            if not self._keep:
                stack.callback(shutil.rmtree, self.directory)
            self._cleanup = stack
            self.hub = self._host("hub", 1)
            self._ip(
                self.hub,
                # an address of its own: one that it has from a port changes when that port goes, unseen by the lookout
                f"link add {BRIDGE} address 02:00:00:77:00:01 type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
                f"link set {BRIDGE} up",
                *self._addresses(self.hub, BRIDGE),
            )
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def host(self, name: str, number: int) -> Host:
        """A new one on the bridge; `number` from 2 to 99 (one more than that may be used for virtual addresses)."""
        assert 2 <= number <= 99 and number not in [host.number for host in self.hosts.values()]
        host = self._host(name, number)
        self.plug(host)
        host.run("nft", "-f", "-", input=_FIREWALL)
        return host

    def plug(self, host: Host) -> None:
        """Give it an Ethernet interface, with its addresses, on the bridge."""
        port = self._port(host)
        self._ip(
            self.hub,
            f"link add {port} type veth peer name {ETHERNET} netns {host.pid}",
            f"link set {port} master {BRIDGE} up",
        )
        self._ip(host, f"link set {ETHERNET} up", *self._addresses(host, ETHERNET))

    # ---- faults of the network
    def cut(self, host: Host) -> None:
        """Its cable is pulled out, until `join`: no carrier, nothing passes."""
        self._ip(self.hub, f"link set {self._port(host)} down")

    def join(self, host: Host) -> None:
        self._ip(self.hub, f"link set {self._port(host)} up")

    def part(self, one: Host, other: Host) -> None:
        """Between the two nothing passes, until `mend`; nobody is told."""
        self._firewall("add", one, other)

    def mend(self, one: Host, other: Host) -> None:
        self._firewall("delete", one, other)

    def mend_all(self, host: Host) -> None:
        """It hears everybody again; on the other side nothing changes."""
        host.run("nft", "flush set inet lab parted4; flush set inet lab parted6")

    # ---- how it is made
    def _host(self, name: str, number: int) -> Host:
        assert name not in self.hosts, f"there is a host {name} already"
        host = Host(name, number, self.directory / name)
        self._cleanup.callback(host.close)
        self.hosts[name] = host
        return host

    @staticmethod
    def _port(host: Host) -> str:
        return f"port{host.number}"

    @staticmethod
    def _ip(host: Host, *lines: str) -> None:
        host.run("ip", "-batch", "-", input="\n".join(lines) + "\n")

    @staticmethod
    def _addresses(host: Host, interface: str) -> list[str]:
        return [
            "link set lo up",
            f"addr add {host.v4}/24 dev {interface}",
            f"addr add {host.v6}/64 dev {interface} nodad",  # it would not be usable for a second
        ]

    @staticmethod
    def _firewall(verb: str, one: Host, other: Host) -> None:
        for here, there in ((one, other), (other, one)):
            lines = (f"{verb} element inet lab parted{v} {{ {ip} }}" for v, ip in ((4, there.v4), (6, there.v6)))
            here.run("nft", "-f", "-", input="\n".join(lines))


# ---- processes of whatever host ---------------------------------------------------------------------------------
def send(pid: int, number: signal.Signals) -> None:
    """A signal, if the process is still there; pid 0 is none (to kill(2) it would be our own group)."""
    with contextlib.suppress(ProcessLookupError):
        if pid:
            os.kill(pid, number)


def tree(root: int) -> list[int]:
    """A live process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [root] if (fields := _stat(root)) and fields[0] != "Z" else []
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def freeze(processes: Callable[[], list[int]]) -> None:
    """SIGSTOP to all of them, again until no running one is found: what forks meanwhile is caught as well. One in state
    D stops before it runs any further; in vfork(2) it stays in D while its child is stopped."""
    end = time.monotonic() + LIMIT
    told: set[int] = set()
    while running := [
        pid
        for pid in processes()
        if (fields := _stat(pid)) and not (fields[0] in "TtZX" or (fields[0] == "D" and pid in told))
    ]:
        assert time.monotonic() < end, f"{running} cannot be frozen"
        for pid in running:
            send(pid, signal.SIGSTOP)
        told.update(running)
        time.sleep(0.001)


def freeze_tree(root: int) -> None:
    freeze(lambda: tree(root))


def resume_tree(root: int) -> None:
    for pid in tree(root):
        send(pid, signal.SIGCONT)


def kill_tree(root: int) -> None:
    """SIGKILL to all of them. Stopped first, so that none can escape by forking."""
    freeze_tree(root)
    for pid in tree(root):
        send(pid, signal.SIGKILL)


def _stat(pid: int) -> list[str] | None:
    """Fields 3 and following of /proc/PID/stat (proc_pid_stat(5)): state, parent; None when it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def until(condition: Callable[[], bool], what: str, *, limit: float = LIMIT, pause: float = 0.02) -> None:
    """Wait for it. Raises AssertionError."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"did not happen within {limit:g} s: {what}"
        time.sleep(pause)


