"""btw-scsi-pr on the Linux target, inside one machine: against sg_persist, and the kit of resource types."""

from __future__ import annotations

import re
import sys

import pytest

from vm.guest import pr_contract
from vm.lab import Lab
from vm.machine import TESTS

pytestmark = pytest.mark.timeout(1800)
HERE = {"PYTHONPATH": str(TESTS)}
#: Sequences each time; more of them with --strikes.
SEQUENCES = 30
#: Rules of the kit that are tried each time.
LIFE = "never_ran or stop_may_be_repeated or put_back"


def test_same_as_sg_persist(request: pytest.FixtureRequest) -> None:
    """Random sequences of all commands but PREEMPT AND ABORT and of all six types, by two initiators: the disk answers
    btw as it answers sg_persist, and both read the same from it."""
    count = SEQUENCES * request.config.getoption("--strikes", 1)
    with Lab(machines=1) as lab:
        command = [sys.executable, "-m", "vm.guest.pr_oracle", str(count)]
        said = lab["n1"].run(*command, env=HERE, timeout=240 + 3 * count).out
    print(f"\n{said}")
    assert f"sequences: {count}" in said
    assert len(set(re.findall(r"RESERVE good, type (\d)", said))) == 6, said
    assert "PREEMPT good" in said and "PREEMPT conflict" in said, said


def test_the_kit_of_resource_types(request: pytest.FixtureRequest) -> None:
    """Every rule of a resource, on a real disk with two paths; those that take minutes only with --strikes."""
    rules = [] if request.config.getoption("--strikes", 1) > 1 else ["-k", LIFE]
    with Lab(machines=1) as lab:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", pr_contract.__file__, *rules]
        done = lab["n1"].run(*command, env=HERE, timeout=600, check=False)
    print(f"\n{done.out[-300:]}")
    assert done.code == 0 and re.search(r"\d+ passed", done.out), done.out + done.err
