"""The nodes of one disk, for the modules about its reservation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from btw_core.timing import Timing, violations
from vm.disks import Disks
from vm.lab import Lab

TIMES = Timing(pace=1, timeout=5, start_timeout=20, stop_timeout=5)


@pytest.fixture(scope="module")
def writers() -> Iterator[Disks]:
    """Booted once for a module."""
    assert violations(TIMES) == []
    with Lab(machines=4, etcd=1, disk=True, paths=2) as lab:
        yield Disks(lab, TIMES)


@pytest.fixture
def disks(writers: Disks, request: pytest.FixtureRequest) -> Iterator[Disks]:
    """A failed test shows all journals."""
    failed = request.session.testsfailed
    yield writers
    if request.session.testsfailed > failed:
        print(writers.told())


@pytest.fixture
def fenced(disks: Disks) -> Disks:
    """The package has a reservation."""
    if not disks.fenced or disks.lying:
        disks.set_up(fenced=True)
    return disks
