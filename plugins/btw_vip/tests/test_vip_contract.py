"""The kit of resource types on `vip`, in a network namespace with an Ethernet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from vip_lan import Computer, enter, lan

from btw_core.testing import ResourceContract

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
Table = dict[str, Any]


class TestVip(ResourceContract):
    light = ("pyroute2",)
    bad = (
        ({"address": "10.77.0.300/24"}, "address"),
        ({"interface": "nosuch0"}, "interface"),
        ({"gateway": "10.77.0.0/24"}, "gateway"),
    )
    node: ClassVar[Computer]

    @pytest.fixture(scope="class")
    @classmethod
    def table(cls) -> Iterator[Table]:
        """This thread, and so all that it starts, is in the namespace meanwhile."""
        with lan("node") as computers, Path("/proc/thread-self/ns/net").open() as here:
            node = cls.node = computers["node"]
            node.ip("address", "add", "10.77.0.1/24", "dev", "eth0")
            try:
                enter(node.name)
                yield {"type": "vip", "address": "10.77.0.100/24", "interface": "eth0"}
            finally:
                enter(f"/proc/self/fd/{here.fileno()}")  # before `lan` ends all who are in the namespace

    def break_it(self, table: Table) -> None:
        self.node.ip("address", "del", table["address"], "dev", "eth0")

    def effect(self, table: Table) -> bool:
        return table["address"] in self.node.addresses()

    def endless(self, table: Table) -> Table:
        return {**table, "probe": "1h"}
