"""How a broken rule is told. Needs pytest (`pip install btw-core[testing]`)."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import ClassVar

import pytest


class Rules:
    """Base of every kit: each test is a rule, its name the rule's name and its docstring the rule."""

    #: Deadline in seconds of what must happen: the computer may be loaded.
    patience: ClassVar[float] = 30.0

    #: What its rules are about, in the summary of a run.
    btw_kit: ClassVar[str] = ""

    _rule = ""
    _where = "btw_core"

    @pytest.fixture(autouse=True)
    def _claim(self, request: pytest.FixtureRequest) -> None:
        name = request.function.__name__.removeprefix("test_")
        self._rule = f"{name}: {inspect.getdoc(request.function)}"

    def must(self, holds: bool, found: str, rule: str = "") -> None:
        """The rule of this test (or the one given, "name: text") is broken unless `holds`."""
        __tracebackhide__ = True
        if not holds:
            text = f"rule broken: {rule or self._rule}\nfound: {found}\nread: the docstrings of {self._where}"
            pytest.fail(text)

    def eventually(self, what: str, holds: Callable[[], bool], seconds: float | None = None) -> None:
        """It comes true in time."""
        __tracebackhide__ = True
        limit = self.patience if seconds is None else seconds
        until = time.monotonic() + limit
        while not holds():
            self.must(time.monotonic() < until, f"{what}: not within {limit:g} s")
            time.sleep(0.01)
