"""`btw plugin new`: a complete project of a plugin, whose tests pass as they are.

The files of the project lie in files/; `@word@` in their names and text is replaced.
"""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

from .. import __version__
from ..parameters import literal
from ..plugins import KINDS, find
from ..resource import ConfigError, Problem

FILES = Path(__file__).parent / "files"
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LONGEST = 40
_WORD = re.compile(r"@([a-z_]+)@")


def write(name: str, directory: Path) -> Path:
    """Makes the project of the resource type `name` in `directory`; its own directory. Blocks on the disk. Raises
    ConfigError when the name is none or taken, and when there is something at that place."""
    project = directory / f"btw_{name}"
    problems = _problems(name)
    if not problems and project.exists():
        text = "exists and is not written over"
        problems = [Problem(text=text, remedy="choose another name or directory", file=str(project))]
    if problems:
        raise ConfigError(problems)
    said = words(name)
    try:
        for file in sorted(FILES.rglob("*.in")):
            path = project / _filled(str(file.relative_to(FILES)), said).removesuffix(".in")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_filled(file.read_text(), said))
    except OSError as error:
        raise ConfigError([Problem(text=f"cannot be written: {error.strerror}", file=str(error.filename))]) from error
    return project


def words(name: str) -> dict[str, str]:
    """What is put in place of `@word@`."""
    major, minor = (int(part) for part in __version__.split(".")[:2])
    after = f"{major}.{minor + 1}" if major == 0 else str(major + 1)
    return {
        "name": name,
        "class": name.title().replace("_", ""),
        "dashed": name.replace("_", "-"),
        "needs": f"btw-core>={major}.{minor},<{after}",
        "tag": literal(name),
    }


def _problems(name: str) -> list[Problem]:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST or keyword.iskeyword(name):
        text = f"`{name}` cannot name a resource type"
        return [Problem(text=text, remedy=f"take lower-case letters, digits and _, at most {_LONGEST}: my_disk")]
    taken = [each for names in find().values() for each in names.values() if each.name == name]
    if taken:
        text = f"{KINDS[taken[0].group]} `{name}` is given by {taken[0].distribution} already"
        return [Problem(text=text, remedy="choose another name")]
    if find_spec(f"btw_{name}") is not None:
        return [Problem(text=f"there is a Python package btw_{name} already", remedy="choose another name")]
    return []


def _filled(text: str, said: dict[str, str]) -> str:
    return _WORD.sub(lambda found: said[found[1]], text)
