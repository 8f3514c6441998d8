"""One file's tables against what may stand in them: collects every problem with its line instead of the first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .parameters import closest, convert, fields, parameters
from .resource import ConfigError, Problem
from .toml import Document, KeyPath


class Reader:
    """Decodes tables of one document. Problems gather in `problems` until `finish`."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def problem(self, text: str, remedy: str = "", *path: str | int) -> None:
        """Something is wrong with the key at `path`."""
        key = next((str(part) for part in reversed(path) if isinstance(part, str)), "")
        file, line = self.document.file, self.document.line(*path)
        self.problems.append(Problem(text=text, remedy=remedy, file=file, line=line, key=key))

    def adopt(self, problems: Iterable[Problem], *path: str | int) -> None:
        """Problems that somebody else found with the key at `path`."""
        for each in problems:
            self.problem(each.text, each.remedy, *path)

    def table(
        self, struct: type[msgspec.Struct], table: Mapping[str, Any], path: KeyPath, home: Mapping[str, str]
    ) -> dict[str, Any]:
        """The valid values of a table by key of `struct`. `home` says for keys of other tables where they belong."""
        values = {}
        for field in fields(struct):
            key = field.encode_name
            if key not in table:
                continue
            try:
                values[key] = convert(table[key], field.type)
            except ValueError as error:
                self.problem(str(error), "", *path, key)
        for each in parameters(struct):
            if each.required and each.name not in table:
                example = each.example or f"({each.type})"
                meaning = f" ({each.meaning})" if each.meaning else ""
                self.problem(f"`{each.name}` is missing{meaning}", f"add {each.name} = {example}", *path, each.name)
        known = [each.name for each in parameters(struct)]
        for key in table:
            if key not in known:
                self.unknown(key, path, known, home)
        return values

    def unknown(self, key: str, path: KeyPath, known: Iterable[str], home: Mapping[str, str]) -> None:
        """A key that may not stand in the table at `path`."""
        if key in home:
            self.problem(f"`{key}` belongs {home[key]}", "move it there", *path, key)
        elif near := closest(key, known):
            self.problem(f"unknown key `{key}`", f"did you mean `{near}`?", *path, key)
        elif near := closest(key, home):
            self.problem(f"unknown key `{key}`", f"did you mean `{near}`, which belongs {home[near]}?", *path, key)
        else:
            self.problem(f"unknown key `{key}`", f"allowed here: {', '.join(known)}", *path, key)

    def finish(self) -> None:
        """Raises ConfigError when there was any problem, in the order of the file."""
        if self.problems:
            raise ConfigError(sorted(self.problems, key=lambda each: each.line))
