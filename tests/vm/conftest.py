"""What modules of booted machines share: the journals of a failed test, and the nodes of one disk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from btw_core.timing import Timing, violations
from vm.disks import Disks
from vm.lab import Lab

TIMES = Timing(pace=1, timeout=5, start_timeout=20, stop_timeout=5)


@pytest.fixture(autouse=True)
def journals(request: pytest.FixtureRequest) -> Iterator[None]:
    """A failed test shows all of its machines, whatever they are called in its module."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        machines = {id(each): each for each in request.node.funcargs.values() if hasattr(each, "told")}
        for each in machines.values():
            print(each.told())


@pytest.fixture(scope="module")
def disks() -> Iterator[Disks]:
    """Booted once for a module."""
    assert violations(TIMES) == []
    with Lab(machines=4, etcd=1, disk=True, paths=2) as lab:
        yield Disks(lab, TIMES)


@pytest.fixture
def fenced(disks: Disks) -> Disks:
    """The package has a reservation."""
    if not disks.fenced or disks.lying:
        disks.set_up(fenced=True)
    return disks
