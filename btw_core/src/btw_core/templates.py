"""`btw new`: a package file that explains itself, generated from the resource types."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from .parameters import PLACEHOLDER, Parameter, literal, parameters
from .plugins import LAYERS
from .resource import Resource
from .settings import PackageTable


def package_file(name: str, types: Sequence[tuple[str, type[Resource]]]) -> str:
    """The text of packages/NAME.toml with the types in the usual order; what is commented out shows the default."""
    ordered = sorted(types, key=lambda each: LAYERS.index(each[1].layer))
    counts = Counter(tag for tag, _ in ordered)
    blocks = [
        f"# Package `{name}`. What is commented out shows its default. Check this file: btw check {name}\n"
        '# A length of time is a number of seconds, or text with a unit: "500ms", "10s", "2m", "1h".',
        "\n".join(["[package]", *_rows(PackageTable)]),
        "# Resources start in this order and stop in the reverse one.",
    ]
    for tag, cls in ordered:
        rows = [f"# {summary(cls)}" if summary(cls) else "", "[[resource]]", f"type = {literal(tag)}"]
        blocks.append("\n".join([*filter(None, rows), *_rows(cls, {"name": literal(tag)} if counts[tag] == 1 else {})]))
    return "\n\n".join(blocks) + "\n"


def summary(cls: type[Resource]) -> str:
    """The first line of its docstring ("" when it only inherits one)."""
    return (cls.__dict__.get("__doc__") or "").strip().partition("\n")[0]


def _rows(struct: type[msgspec.Struct], defaults: Mapping[str, str] = {}) -> list[str]:
    rows = []
    for each in parameters(struct):
        required = "required" if each.required else ""
        comment = ": ".join(filter(None, [", ".join(filter(None, [each.type, required])), each.meaning]))
        rows += [f"# {line}" for line in textwrap.wrap(comment, 116)]
        value = _value(each, defaults)
        rows.append(f"{each.name} = {value}" if each.required else f"#{each.name} = {value}")
    return rows


def _value(parameter: Parameter, defaults: Mapping[str, str]) -> str:
    default = defaults.get(parameter.name, parameter.default)
    if default is None:
        default = parameter.example
    return literal(PLACEHOLDER) if default is None else default
