"""TOML with line numbers: tomllib reads, a small scan over the same text finds where each key stands."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from pathlib import Path
from typing import Any

import msgspec

from .resource import ConfigError, Problem

#: Keys and list indices from the top of a file, such as ("resource", 1, "address").
KeyPath = tuple[str | int, ...]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A file's content and the lines of its keys; `lines` is empty for content that was never TOML."""

    file: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = {}

    def line(self, *path: str | int) -> int:
        """The line of the key, of the nearest table around it when the key is not there, 0 when unknown."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)


def load(path: Path, *, optional: bool = False) -> Document:
    """Read a file; an `optional` one that is not there is empty. Blocks on the disk. Raises ConfigError (unreadable,
    not UTF-8, not TOML) with line and column."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if optional:
            return Document(file=str(path), data={})
        raise ConfigError([Problem(text="does not exist", file=str(path))]) from None
    except OSError as error:
        raise ConfigError([Problem(text=f"cannot be read: {error.strerror}", file=str(path))]) from error
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise ConfigError([Problem(text=what, remedy="save as UTF-8", file=str(path), line=line)]) from error
    return parse(text, str(path))


def parse(text: str, file: str) -> Document:
    """Decode the text of `file`. Raises ConfigError with line and column."""
    if text.startswith("\ufeff"):
        what = "begins with a byte order mark, which TOML does not allow"
        raise ConfigError([Problem(text=what, remedy="save as UTF-8 without one", file=file, line=1)])
    text = text.replace("\r\n", "\n")
    try:
        return Document(file=file, data=tomllib.loads(text), lines=_Scan(text).lines)
    except RecursionError:
        raise ConfigError([Problem(text="lists or tables nested too deeply", file=file)]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_broken(text, file, str(error))]) from error


# ---- what is wrong with broken TOML ------------------------------------------------------------------------------
_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)")
_UNIT = re.compile(r"=\s*[\d.]+\s*[a-zA-Z]+")
_WORD = re.compile(r"=\s*([^\s\"'\[{#][^#]*?)\s*(#.*)?$")


def _broken(text: str, file: str, message: str) -> Problem:
    rows = text.split("\n")
    match = _PLACE.fullmatch(message)
    what = match[1] if match else message
    line, column = (int(match[2]), int(match[3])) if match and match[2] else (len(rows), len(rows[-1]) + 1)
    if line > 1 and column == 1 and "newline" not in what and not rows[line - 1].strip():
        line, column = line - 1, len(rows[line - 2]) + 1  # tomllib points behind the end of the line it means
    row = rows[line - 1].strip()
    return Problem(
        text=f"not TOML: {what} in column {column} of `{row[:60]}`", remedy=_meant(what, row), file=file, line=line
    )


def _meant(what: str, row: str) -> str:
    """What people usually mean who write such a line."""
    if "Cannot declare" in what or "namespace" in what:
        return f"a list of tables is written [{row}] each time" if re.match(r"\[\w", row) else "this stands twice"
    if "overwrite" in what or "already" in what:
        return "this key stands twice in its table; keep one"
    if "Unclosed" in what or "Expected ']'" in what:
        return "a closing bracket is missing"
    if row.endswith("="):
        return "the value is missing"
    if _UNIT.search(row):
        return 'write a value with a unit in quotes: "10s"'
    word = _WORD.search(row)
    if word and word[1].lower() in ("true", "false", "yes", "no", "on", "off"):
        return "a switch is written true or false"
    if word:
        return f'write text in quotes: "{word[1]}"' if '"' not in word[1] else "a quote is missing or too many"
    if "Unterminated" in what or "Illegal character" in what:
        return "a closing quote is missing, or a backslash needs single quotes around the text"
    if "escape" in what.lower() or "backslash" in what.lower():
        return "text with backslashes goes into single quotes"
    if "=" not in row and not row.startswith("["):
        return "a line is `key = value`, `[table]`, or begins with #"
    return "see toml.io for how values are written"


# ---- where the keys of valid TOML stand --------------------------------------------------------------------------
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_KEY = re.compile(r"""[ \t]*([A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')[ \t]*""")
_STRING = re.compile(r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\]|\\.)*"|'[^']*\'''', re.DOTALL)
_SCALAR = re.compile(r"[^,\]}#\n]+")


class _Scan:
    """Walks text that tomllib has accepted, so that only what tells keys from values needs to be understood."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._at = 0
        self._lists: dict[KeyPath, int] = {}  # arrays of tables: how many elements so far
        table: KeyPath = ()
        self._blank()
        while self._at < len(text):
            if text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._blank()

    def _blank(self) -> None:
        self._at = self._match(_BLANK).end()

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        assert match is not None  # tomllib has accepted this text
        return match

    def _mark(self, path: KeyPath) -> None:
        self.lines.setdefault(path, bisect_right(self._starts, self._at))

    def _keys(self) -> list[str]:
        """A dotted key; leaves `_at` behind it."""
        keys = []
        while True:
            match = self._match(_KEY)
            quoted = match[1][0] in "\"'"
            keys.append(tomllib.loads(f"key = {match[1]}")["key"] if quoted else match[1])
            self._at = match.end()
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _enter(self, path: KeyPath, key: str | int) -> KeyPath:
        """One key deeper; an array of tables stands for its last element."""
        path = (*path, key)
        return (*path, self._lists[path] - 1) if path in self._lists else path

    def _header(self) -> KeyPath:
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        start, self._at = self._at, self._at + brackets
        *outer, last = self._keys()
        end, self._at = self._at + brackets, start
        path: KeyPath = ()
        for key in outer:
            self._mark((*path, key))
            path = self._enter(path, key)
        self._mark((*path, last))
        if brackets == 2:
            self._lists[*path, last] = self._lists.get((*path, last), 0) + 1
        path = self._enter(path, last)
        self._mark(path)
        self._at = end
        return path

    def _pair(self, table: KeyPath) -> None:
        start = self._at
        keys = self._keys()
        end, self._at = self._at, start
        path = table
        for key in keys:
            path = self._enter(path, key)
            self._mark(path)
        self._at = end + 1  # behind "="
        self._at = self._match(_SPACE).end()
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        first = self._text[self._at]
        if first == "[":
            self._items(path, "]")
        elif first == "{":
            self._items(path, "}")
        else:
            self._at = self._match(_STRING if first in "\"'" else _SCALAR).end()

    def _items(self, path: KeyPath, close: str) -> None:
        """The elements of a list, or the pairs of an inline table."""
        self._at += 1
        count = 0
        self._blank()
        while self._text[self._at] != close:
            if close == "]":
                self._mark((*path, count))
                self._value((*path, count))
            else:
                self._pair(path)
            count += 1
            self._blank()
            if self._text[self._at] == ",":
                self._at += 1
                self._blank()
        self._at += 1
