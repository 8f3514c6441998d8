"""Who this manager is: one life of a node's family of processes on one computer in one boot."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import struct
from pathlib import Path

from .clock import boot_id
from .command import proc_stat
from .containment import find_cgroup_root, home_of, machine_id
from .types import Incarnation

#: Ethernet addresses that an incarnation names.
MACS = 32
_SIOCGIFHWADDR, _ARPHRD_ETHER = 0x8927, 1  # netdevice(7), linux/if_arp.h


def incarnation(node: str, slot: str, state: Path, self_fence: str = "none") -> Incarnation:
    """This process as the manager of `node` with the state directory `state`; `slot`: see `Incarnation`,
    `self_fence`: what its keeper will do. The nonce is new at every call.

    Makes the node's cgroup where it can. Blocks on /proc only. Raises OSError where /proc is not mounted."""
    pid = os.getpid()
    home = home_of(node, state)
    stat = proc_stat(pid)
    return Incarnation(
        node=node,
        machine=machine_id(),
        boot=boot_id(),
        nonce=secrets.token_hex(8),
        slot=slot,
        pid=pid,
        pid_start=stat.start_time if stat else 0,
        cgroup=find_cgroup_root(home) or "",
        home=home,
        self_fence=self_fence,
        macs=macs(),
    )


def macs() -> tuple[str, ...]:
    """The Ethernet addresses of this computer's interfaces (of this network namespace), each once, the first MACS of
    them: where containers run there may be hundreds. Does not block."""
    found: dict[str, None] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        for _, name in sorted(socket.if_nameindex()):
            request = struct.pack("16s24x", name.encode())
            with contextlib.suppress(OSError):  # it has just gone
                _, kind, mac = struct.unpack("16sH6s16x", fcntl.ioctl(any_socket, _SIOCGIFHWADDR, request))
                if kind == _ARPHRD_ETHER and any(mac):
                    found[mac.hex(":")] = None
    return tuple(found)[:MACS]
