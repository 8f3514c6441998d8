"""The private network: one network namespace with a bridge for each wire, and a tap for each machine's plug.

The namespace has no name: it is that of a child process, and vanishes with all bridges and taps when that one ends,
which it does with the lab's process.
"""

from __future__ import annotations

import ctypes
import socket
import subprocess
import threading

#: Runs a command that dies with the thread that started it (prctl(2), PR_SET_PDEATHSIG).
DIE_WITH_US = ["setpriv", "--pdeathsig", "KILL"]
LIMIT = 30.0
HOST = 254
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Wires:
    """`names` are the wires; the n-th has the addresses 10.78.n.0/24, and the host has .254 of each."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._holder = subprocess.Popen(
            [*DIE_WITH_US, "unshare", "--net", "sh", "-c", "echo there; exec sleep infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"there\n":
            raise OSError("no network namespace: unshare --net failed. The laboratory needs root")
        self.inside = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        lines = ["link set lo up"]
        for name in names:
            lines += [f"link add {name} type bridge forward_delay 0 mcast_snooping 0", f"link set {name} up"]
            lines += [f"address add {self.address(name, HOST)}/24 dev {name}"]
        self._ip(*lines)

    def address(self, wire: str, number: int) -> str:
        """The IPv4 address of machine `number` on a wire."""
        return f"10.78.{self.names.index(wire)}.{number}"

    def add(self, machine: str) -> None:
        """A plug on each wire, plugged in."""
        for wire in self.names:
            self._ip(f"tuntap add {tap(machine, wire)} mode tap", f"link set {tap(machine, wire)} up")
            self.join(machine, wire)

    def join(self, machine: str, wire: str) -> None:
        self._ip(f"link set {tap(machine, wire)} master {wire}")

    def cut(self, machine: str, wire: str) -> None:
        """Cable pulled at the switch: the machine sees its link up and hears nothing."""
        self._ip(f"link set {tap(machine, wire)} nomaster")

    def socket(self, kind: socket.SocketKind) -> socket.socket:
        """An IPv4 socket of this process in the namespace."""
        made: list[socket.socket | OSError] = []

        def make() -> None:  # setns(2) moves one thread, and a socket stays where it was made
            try:
                with open(f"/proc/{self._holder.pid}/ns/net") as namespace:
                    if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                made.append(socket.socket(socket.AF_INET, kind))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait(LIMIT)
        assert self._holder.stdout is not None
        self._holder.stdout.close()

    def _ip(self, *lines: str) -> None:
        done = subprocess.run(
            [*self.inside, "ip", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True, timeout=LIMIT
        )
        if done.returncode:
            raise OSError(f"ip {'; '.join(lines)}: {done.stderr}")


def tap(machine: str, wire: str) -> str:
    """At most 15 characters (IFNAMSIZ)."""
    return f"{machine}-{wire}"
