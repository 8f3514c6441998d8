"""Packages in a form of one's own: packages/NAME.hello, each line the path of a file that says hello.
The package is called as the file is: NAME.hello."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, Any] | None:
    """What packages/NAME.toml would say; None when the file is none of ours."""
    if path.suffix != ".hello":
        return None
    lines = [line.strip() for line in path.read_text().splitlines()]
    paths = [line for line in lines if line and not line.startswith("#")]
    if not paths:
        raise ValueError("no line with a path; write one, such as /run/hello")
    resources = [{"type": "hello", "name": f"hello{number}", "path": each} for number, each in enumerate(paths, 1)]
    return {"package": {"description": f"says hello in {len(paths)} files"}, "resource": resources}
