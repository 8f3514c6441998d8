"""Reading a package script: what it answers to `echo VAR`.

A program that ignores its arguments may do anything when it is called, so the first question is one that a package
script answers without doing anything; the others follow only when that answer was fit.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from btw_core import Failed
from btw_core.command import ending, execute
from btw_core.resource import Completed

from .script import called_as

#: Seconds for one answer.
LIMIT = 5.0
VARIABLES = ("pace", "timeout", "start_timeout", "stop_timeout")


def read(path: Path, limit: float = LIMIT) -> dict[str, Any] | None:
    """The package that the file describes, or None when it is no script. Raises ValueError when it looks like one but
    is not. Blocks at most four times `limit`; runs the file."""
    if path.name.startswith(".") or path.name.endswith("~") or not path.is_file():
        return None  # hidden files and copies that editors leave
    if not os.access(path, os.X_OK):
        with path.open("rb") as file:
            if file.read(2) == b"#!":
                raise ValueError(f"{path} looks like a package script, but may not be executed: chmod +x {path}")
        return None
    answers = {variable: value for variable in VARIABLES if (value := ask(path, variable, limit)) is not None}
    return {"package": answers, "resource": [{"type": "script", "path": str(path.absolute())}]}


def ask(path: Path, variable: str, limit: float) -> float | None:
    """What the script prints for a variable, in seconds; None when it prints nothing (the default holds). Raises
    ValueError for anything else. Blocks at most `limit`."""
    done = _echo(path, variable, limit)
    text = done.output.strip()
    if done.code == 0 and not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if done.code == 0 and math.isfinite(value):
        return value
    said = repr(text if len(text) <= 100 else text[:99] + "…") if text else "nothing"
    verdict = f"{path} is no package script: " if variable == VARIABLES[0] else f"{path}: "
    raise ValueError(
        f"{verdict}`echo {variable}` printed {said}, {ending(done.code)}; "
        "allowed: a plain number of seconds or nothing, exit code 0"
    )


def _echo(path: Path, variable: str, limit: float) -> Completed:
    program, cwd = called_as(str(path))
    try:
        # standard error is left out, as in $(packages/NAME echo pace): a warning of the shell is no answer
        return execute([program, "echo", variable], limit=limit, env=os.environ, cwd=cwd, stderr=False)
    except Failed as error:
        raise ValueError(f"{path} is no package script: {error}") from None
