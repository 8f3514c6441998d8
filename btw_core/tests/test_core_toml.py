"""Line numbers in TOML, and what broken TOML is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btw_core.resource import ConfigError, Problem
from btw_core.toml import KeyPath, load, parse

bare = st.text("abcAZ09_-", min_size=1, max_size=4)
quoted = st.text("ab .#[]={},'é", max_size=4)
keys = st.one_of(bare.map(lambda key: (key, key)), quoted.map(lambda key: (f'"{key}"', key)))
single = ["1", "-2.5e3", "true", "1979-05-27 07:32:00", "07:32:00", '"a # ] } \\" b"', "'c:\\ \"'", '""', "''"]
multiple = ['"""\n[no]\nkey = 1 \\""" "" """""', "'''\n# no\n[[no]]''''", '""""""', '"""\\\\"""', "'''x\n= ''''' "]
scalars = st.sampled_from([*single, *multiple])


class Writer:
    """Writes a TOML document and notes the line of every key as it writes it."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[KeyPath, int] = {}

    def put(self, text: str) -> None:
        self.text += text

    def mark(self, path: KeyPath) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def gap(self) -> None:
        """Where a list may break the line."""
        self.put(self.draw(st.sampled_from(["", " ", "\n", "\n  # ], }\n\t"])))

    def value(self, path: KeyPath, depth: int = 0) -> None:
        kind = self.draw(st.sampled_from(["scalar", "scalar", "list", "inline"])) if depth < 3 else "scalar"
        if kind == "scalar":
            self.put(self.draw(scalars))
        elif kind == "list":
            self.put("[")
            for index in range(self.draw(st.integers(0, 3))):
                self.gap()
                self.mark((*path, index))
                self.value((*path, index), depth + 1)
                self.gap()
                self.put(",")
            self.gap()
            self.put("]")
        else:
            self.put("{")
            for index, names in enumerate(self.names()):
                self.put(", " if index else " ")
                self.pair(path, names, depth + 1)
            self.put(" }")

    def names(self) -> list[list[tuple[str, str]]]:
        """Dotted keys that do not get into each other's way: their first parts differ."""
        return self.draw(st.lists(st.lists(keys, min_size=1, max_size=3), max_size=3, unique_by=lambda key: key[0][1]))

    def pair(self, table: KeyPath, names: list[tuple[str, str]], depth: int = 0) -> None:
        path = table
        for _, name in names:
            path = (*path, name)
            self.mark(path)
        dot = self.draw(st.sampled_from([".", " . "]))
        self.put(dot.join(written for written, _ in names) + self.draw(st.sampled_from(["=", " =\t"])))
        self.value(path, depth)

    def body(self, path: KeyPath) -> None:
        for names in self.names():
            self.put(self.draw(st.sampled_from(["", "\n", "  ", "# a = 1\n"])))
            self.pair(path, names)
            self.put(self.draw(st.sampled_from(["\n", " # [x]\n", "\r\n"])))

    def document(self) -> None:
        self.body(())
        for number in range(self.draw(st.integers(0, 3))):
            name = f"t{number}/"  # quoted, and none of the keys above
            if self.draw(st.booleans()):
                self.mark((name,))
                self.put(f'["{name}"]\n')
                self.body((name,))
                continue
            for index in range(self.draw(st.integers(1, 3))):
                self.mark((name,))
                self.mark((name, index))
                self.put(f' [[ "{name}" ]] # x\n')
                self.body((name, index))
                if self.draw(st.booleans()):
                    deep = (name, index, "sub/", "deep")
                    self.mark(deep[:3])
                    self.mark(deep)
                    self.put(f'["{name}"."sub/".deep]\n')
                    self.body(deep)


def paths(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    """Every key path and index there is in a decoded document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path, *(each for key, inside in inner for each in paths(inside, (*path, key)))}


@st.composite
def written(draw: st.DrawFn) -> Writer:
    writer = Writer(draw)
    writer.document()
    return writer


@given(written())
def test_every_key_is_on_its_line(writer: Writer) -> None:
    """For random documents the scan finds exactly the keys that tomllib finds, each on the line where it stands."""
    document = parse(writer.text, "f.toml")
    assert set(document.lines) | {()} == paths(document.data)
    assert document.lines == writer.lines


def test_a_key_that_is_not_there_is_on_its_table() -> None:
    """A missing key is said to be where its table begins; nothing known is line 0."""
    document = parse('a = 1\n[[resource]]\n[[resource]]\ntype = "x"\n', "f")
    assert document.line("resource", 1, "address") == 3
    assert document.line("resource", 1, "type") == 4
    assert document.line("nothing") == 0


def refused(text: str) -> Problem:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.toml")
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("text", "line", "meant"),
    [
        ("a = 1\npace = 10s\n", 2, 'in quotes: "10s"'),
        ("pace = ten", 1, 'text in quotes: "ten"'),
        ("a = yes", 1, "true or false"),
        ("a =\nb = 1", 1, "value is missing"),
        ("a = 1\na = 2\n", 2, "twice"),
        ("[resource]\n[resource]\n", 2, "[[resource]]"),
        ('a = "x\nb = 1\n', 1, "closing quote"),
        ('a = "C:\\x"\n', 1, "single quotes"),
        ("a = [1,\n2\n", 2, "closing bracket"),
        ("[a\nb = 1", 1, "closing bracket"),
        ("hello\n", 1, "key = value"),
        ("\ufeffa = 1\n", 1, "save as UTF-8 without"),
    ],
)
def test_broken_toml_says_where_and_what_was_meant(text: str, line: int, meant: str) -> None:
    """A file that is not TOML is refused with the line and with what people usually mean who write so."""
    problem = refused(text)
    assert (problem.file, problem.line) == ("f.toml", line)
    assert meant in problem.remedy


def test_the_column_is_said() -> None:
    """The column of the fault is part of the message."""
    assert "in column 8 of `pace = ten`" in refused("\npace = ten").text


def test_nesting_without_end_is_an_error() -> None:
    """A list nested a hundred thousand times is a problem of the file, not a crash."""
    assert "nested too deeply" in refused("a = " + "[" * 100_000).text


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a directory, not UTF-8: each is a problem that names the file; only an optional one may be missing."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "latin").write_bytes(b"a = 1\nb = '\xff'\n")
    for name, text in [
        ("none", "none: does not exist"),
        ("directory", "directory: cannot be read: Is a directory"),
        ("latin", "latin:2: byte 0xff is not UTF-8"),
    ]:
        with pytest.raises(ConfigError, match=text):
            load(tmp_path / name)
    assert load(tmp_path / "none", optional=True).data == {}
