"""How often each fault strikes: once in a usual session, ten times every night."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--strikes 10`."""
    parser.addoption("--strikes", type=int, default=1, help="how often each fault strikes (1)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `strike` is repeated; the booted machines stay the same."""
    if "strike" in metafunc.fixturenames:
        metafunc.parametrize("strike", range(metafunc.config.getoption("--strikes", 1)))
