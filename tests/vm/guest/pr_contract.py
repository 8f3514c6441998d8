"""In a machine: the kit of resource types on a `scsi_pr` whose disk is real, with two paths; run by pytest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from btw_core.testing import ResourceContract
from btw_scsi_pr import cdb, sense
from btw_scsi_pr.cdb import In, Out
from btw_scsi_pr.sgio import SgIo
from vm.guest.loops import set_up

Table = dict[str, Any]


class TestScsiPr(ResourceContract):
    bad = (
        ({"devices": []}, "devices"),
        ({"devices": ["/dev/nosuch"]}, "devices"),
        ({"reservation": 3}, "reservation"),
    )

    other: ClassVar[str]  # the path that does not hold the reservation

    @pytest.fixture(scope="class")
    @classmethod
    def disk(cls) -> str:
        ((name, other), _) = set_up()
        cls.other = f"/dev/{other}"
        return f"/dev/{name}"

    @pytest.fixture
    def table(self, disk: str) -> Iterator[Table]:
        yield {"type": "scsi_pr", "devices": [disk], "release_on_stop": True}
        send(disk, Out.REGISTER_AND_IGNORE, 0, 1)
        send(disk, Out.CLEAR, 1, 0)

    def break_it(self, table: Table) -> None:
        """One of its paths is not registered any more."""
        send(self.other, Out.REGISTER_AND_IGNORE, 0, 0)

    def effect(self, table: Table) -> bool:
        return cdb.reservation(send(table["devices"][0], In.READ_RESERVATION)) is not None


def send(device: str, action: In | Out, own: int = 0, other: int = 0) -> bytes:
    path = SgIo(Path(device))
    try:
        while True:
            if isinstance(action, In):
                reply = path.execute(cdb.reserve_in(action), b"", cdb.ROOM, 5)
            else:
                reply = path.execute(*cdb.reserve_out(action, 0, own, other), 0, 5)
            if not sense.again(reply):
                assert sense.good(reply), sense.words(reply)
                return reply.data
    finally:
        path.close()
