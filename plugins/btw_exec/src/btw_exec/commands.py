"""What the types share: parameters that hold a command, the meaning of exit codes, checks of a command."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from btw_core import CannotTell, Problem, Status
from btw_core.command import ending, last_said
from btw_core.resource import Completed

#: A string goes through /bin/sh -c; a list is executed as it is.
Command = str | tuple[str, ...]
Cwd = Annotated[str, Meta(description="working directory; empty: the one btw was started in", examples=["/"])]
Env = Annotated[dict[str, str], Meta(description="additional environment variables", examples=[{"LANG": "C.UTF-8"}])]

_STATUS = {0: Status.UP, 1: Status.DOWN, 2: Status.DEGRADED, 3: Status.CRITICAL}
#: Seconds for `sh -n`, which only parses.
_PARSE_LIMIT = 5.0


def status_of(done: Completed) -> Status:
    """0 up, 1 down, 2 degraded, 3 critical. Raises CannotTell for anything else."""
    if done.code in _STATUS:
        return _STATUS[done.code]
    raise CannotTell(f"{ending(done.code)} is none of 0, 1, 2, 3{last_said(done.output)}")


def command_problems(key: str, command: Command, cwd: str, env: Mapping[str, str]) -> list[Problem]:
    """What is wrong with a command on this node. A string is parsed, nothing is run. Blocks for some milliseconds."""
    if not command or not command[0]:
        return [Problem(key=key, text=f"{key} is empty", remedy="give a command, as a string or a list of words")]
    if isinstance(command, str):
        return _shell_problems(key, command)
    program = command[0]
    if "/" not in program:
        if shutil.which(program, path=env.get("PATH")) is None:
            remedy = "install it, correct the name, or give the full path"
            return [Problem(key=key, text=f"{key}: no program {program} in PATH", remedy=remedy)]
        return []
    if not program.startswith("/") and not cwd:
        text = f"{key}: {program} is relative to the directory that btw happens to be started in"
        return [Problem(key=key, text=text, remedy="give the full path, or set cwd")]
    return executable_problems(key, Path(cwd or "/", program))


def _shell_problems(key: str, command: str) -> list[Problem]:
    """A string that the shell cannot parse ends with exit code 2, which a status would pass on as degraded."""
    try:
        done = subprocess.run(
            ["/bin/sh", "-n", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PARSE_LIMIT,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return [Problem(key=key, text=f"{key}: /bin/sh cannot read it: {error}", remedy="correct the command")]
    if done.returncode == 0:
        return []
    return [Problem(key=key, text=f"{key}: {done.stderr.strip()}", remedy="correct the command")]


def executable_problems(key: str, path: Path) -> list[Problem]:
    """A program file that is missing, no file, or without its run bit."""
    try:
        is_file = path.is_file()
    except OSError as error:
        return [Problem(key=key, text=f"{key}: {path}: {error.strerror}", remedy="make it reachable")]
    if not is_file:
        what = "is no file" if os.path.lexists(path) else "does not exist"
        return [Problem(key=key, text=f"{key}: {path} {what}", remedy="install it or correct the path")]
    if not os.access(path, os.X_OK):
        return [Problem(key=key, text=f"{key}: {path} may not be executed", remedy=f"chmod +x {path}")]
    return []


def relative_problems(key: str, path: str, example: str = "") -> list[Problem]:
    """A path that means another file in another directory."""
    if Path(path).is_absolute():
        return []
    text = f"{key} = {path} is relative to the directory that btw happens to be started in"
    return [Problem(key=key, text=text, remedy=f"give the full path{example}")]


def cwd_problems(cwd: str) -> list[Problem]:
    """A working directory that is relative or missing."""
    if not cwd:
        return []
    if found := relative_problems("cwd", cwd):
        return found
    if not Path(cwd).is_dir():
        return [Problem(key="cwd", text=f"cwd = {cwd} is no directory", remedy=f"mkdir -p {cwd}, or correct it")]
    return []
