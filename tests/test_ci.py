"""The verdict on a clean clone leaves no session out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]


def test_every_default_session_is_in_one_half_of_the_verdict() -> None:
    """.ci/run lets two kinds of sessions run at once; a session without such a tag would never run there."""
    noxfile = TOP / "noxfile.py"
    if not noxfile.exists():
        pytest.skip("needs the checkout")
    tree = ast.parse(noxfile.read_text())
    tags = {
        function.name: ast.literal_eval(keyword.value)
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call)
        for keyword in decorator.keywords
        if keyword.arg == "tags"
    }
    defaults = next(
        ast.literal_eval(each.value)
        for each in tree.body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "nox.options.sessions"
    )
    assert tags.keys() == set(defaults)
    assert sorted(tag for each in tags.values() for tag in set(each)) == ["calm"] * 4 + ["timed"] * (len(tags) - 4)
    script = (TOP / ".ci" / "run").read_text()
    assert "--tags calm" in script and "--tags timed" in script
