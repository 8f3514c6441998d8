"""How often each fault strikes, and how often data moves: a little in a usual session, more every night."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--strikes 10`, `--rounds 50`, `--data 20`."""
    parser.addoption("--strikes", type=int, default=1, help="how often each fault strikes (1)")
    parser.addoption("--rounds", type=int, default=5, help="how often each fault meets who writes to a disk (5)")
    parser.addoption("--data", type=int, default=2, help="planned moves, and kills, that data outlive (2)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `strike`, `round` or `data` is repeated; the booted machines stay the same."""
    for name, option in (("strike", "--strikes"), ("round", "--rounds"), ("data", "--data")):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, range(metafunc.config.getoption(option, 1)))
