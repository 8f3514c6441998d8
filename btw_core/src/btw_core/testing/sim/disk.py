"""A node's memory: durable once saved, sometimes full, sometimes lost as a whole."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ...types import Saved

if TYPE_CHECKING:
    from .node import Life


class State:
    """The state directory of one node; outlives managers and reboots."""

    def __init__(self) -> None:
        self.files: dict[str, Saved] = {}
        self.durable: dict[str, Saved] = {}  # what a crash of the computer leaves of them
        self.full = False
        self.lost = False  # at some time it was lost or could not be written: memory may be wrong since


class SimDisk:
    """`ports.Disk` of one life."""

    def __init__(self, state: State, life: Life) -> None:
        self._state, self._life = state, life

    def load(self, package: str) -> Saved | None:
        return self._state.files.get(package)

    def known(self, package: str, *, here: bool = False) -> bool:
        states = (node.state for node in self._life.world.nodes.values())
        return any(package in state.files and state.files[package].term > 0 for state in states)

    def save(self, package: str, saved: Saved, *, durable: bool = True) -> None:
        if self._state.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._state.files[package] = saved
        before = self._state.durable.get(package)
        if durable and (before is None or before.lasting != saved.lasting):
            self._state.durable[package] = saved
        self._life.passed_port()
