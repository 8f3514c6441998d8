"""Who this manager is: one life of a node's family of processes on one computer in one boot."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from .clock import boot_id
from .command import proc_stat
from .containment import find_cgroup_root, home_of, machine_id
from .types import Incarnation


def incarnation(node: str, slot: str, state: Path, self_fence: str = "none") -> Incarnation:
    """This process as the manager of `node` with the state directory `state`; `slot` is the first of its
    packages, `self_fence` what btw.toml says. The nonce is new at every call.

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
    )
