"""What a daemon last took from its package files. A manager that follows another one goes on with that while something
is up here that the files, edited, broken or gone meanwhile, do not describe any more: who could stop it?

`@applied.json` beside the node's memory, valid as that is: after a crash of the computer nothing is up.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .clock import boot_id
from .config import Package, decode_package, load_together, package_names
from .disk import FileDisk
from .plugins import Plugins
from .resource import ConfigError, Problem
from .settings import Setup
from .toml import Document

NAME = "@applied.json"


class _Read(msgspec.Struct, frozen=True):
    """Of one package: its file, and what was read from it."""

    file: str
    data: dict[str, object]


def names(setup: Setup) -> list[str]:
    """Of all packages that a daemon may have to do with. Raises ConfigError: the directory cannot be read, and it has
    never been."""
    former = _remembered(setup)
    try:
        there = package_names(setup.places)
    except ConfigError:
        if not former:
            raise
        there = []
    return sorted({*there, *former})


def load(setup: Setup, plugins: Plugins) -> tuple[list[Package], list[Problem]]:
    """All packages as a daemon goes by them: as the files are, or as they were. Blocks on the disk and in plugins."""
    packages, problems = load_together(setup.config, setup.places, plugins)
    former = list(_former(setup, plugins))
    unlike = [text for each in former if (text := _unlike(each, packages)) and _may_be_up(setup, each.name)]
    if unlike:
        text = f"goes on with the package files as they were: {'; '.join(unlike)}"
        remedy = "btw apply shows the difference, and takes them over when it can"
        return former, [*problems, Problem(text=text, remedy=remedy, file=str(setup.places.packages))]
    _remember(setup, packages)
    return packages, problems


def _unlike(old: Package, packages: list[Package]) -> str:
    """Why it could not be stopped by the new ones as it was started, "" when it could."""
    new = next((each for each in packages if each.name == old.name), None)
    if new is None:
        return f"{old.name} may be up here, and its file is broken or gone"
    was, now = old.digests(), new.digests()
    changed = [key for key in {**was, **now} if key and was.get(key) != now.get(key)]
    return f"{old.name} may be up here, and its file has another {', '.join(changed)}" if changed else ""


def _may_be_up(setup: Setup, name: str) -> bool:
    try:
        saved = FileDisk(_file(setup).parent).load(name)
    except (OSError, ValueError):
        return True  # cannot tell
    return saved is not None and saved.may_be_up and saved.incarnation.boot == boot_id()


def _former(setup: Setup, plugins: Plugins) -> Iterator[Package]:
    for name, each in _remembered(setup).items():
        with contextlib.suppress(ConfigError):  # btw.toml or a plugin is another now
            yield decode_package(name, Document(file=each.file, data=each.data), setup.config, plugins)


def _remembered(setup: Setup) -> dict[str, _Read]:
    try:
        return msgspec.json.decode(_file(setup).read_bytes(), type=dict[str, _Read])
    except (OSError, ValueError):  # none yet, or torn: then the files count
        return {}


def _remember(setup: Setup, packages: list[Package]) -> None:
    file = _file(setup)
    read = {each.name: {"file": each.file, "data": each.document.data} for each in packages}
    with contextlib.suppress(OSError):  # a full disk: the files count
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(read, default=str))
        temporary.rename(file)


def _file(setup: Setup) -> Path:
    return setup.places.state / setup.config.node / NAME
