"""A plugin's project as if it were installed: what importlib.metadata looks for, made from its pyproject.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..plugins import GROUPS
from ..resource import ConfigError, Problem

Points = Mapping[str, Mapping[str, str]]


class Project:
    """`directory` holds a pyproject.toml (PyPA specification "pyproject.toml", table `[project]`). Raises
    ConfigError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        file = directory / "pyproject.toml"
        try:
            data = tomllib.loads(file.read_text())
        except FileNotFoundError:
            remedy = "name the directory of a plugin's project, or an installed resource type"
            raise ConfigError([Problem(text="there is no such file", remedy=remedy, file=str(file))]) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError([Problem(text=f"is no TOML: {error}", file=str(file))]) from None
        project: dict[str, Any] = data.get("project", {})
        self.name = str(project.get("name", ""))
        self.version = str(project.get("version", "0"))
        self.requires = [str(each) for each in project.get("dependencies", [])]
        self.points: Points = project.get("entry-points", {})
        if not self.name or not set(self.points) & set(GROUPS):
            text = f"is no project of a plugin: it needs a name, and entry points in {', '.join(GROUPS)}"
            raise ConfigError([Problem(text=text, remedy="see what `btw plugin new` writes", file=str(file))])

    @property
    def sources(self) -> Path:
        """The directory that holds its packages."""
        source = self.directory / "src"
        return source if source.is_dir() else self.directory

    def lay_out(self, site: Path) -> None:
        """Writes its metadata into `site`; with that and `sources` on the path it is found as if installed."""
        information = site / f"{self.name.replace('-', '_')}-{self.version}.dist-info"
        information.mkdir(parents=True)
        head = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {self.version}"]
        lines = [*head, *(f"Requires-Dist: {each}" for each in self.requires)]
        (information / "METADATA").write_text("\n".join(lines) + "\n")
        rows: list[str] = []
        for group, names in self.points.items():
            rows += [f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]
        (information / "entry_points.txt").write_text("\n".join(rows) + "\n")
