"""`btw generic`: setting and showing the values of this node's `generic` resources."""

from __future__ import annotations

import json
import sys

import click

from btw_core.cli.common import dir_option, fail, json_option, table
from btw_core.config import load_all
from btw_core.plugins import Plugins
from btw_core.settings import load_setup

from .generic import Generic
from .values import Unknown, means_up, read, write

_Found = list[tuple[str, Generic]]  # with the name of its package


@click.group()
def command() -> None:
    """Values that decide whether packages can be up on this node (resource type `generic`)."""


@command.command("set")
@click.argument("name")
@click.argument("value")
@dir_option
def set_(name: str, value: str, dir: str | None) -> None:
    """Set the generic resource NAME on this node to VALUE: up or down, or a whole number where it has `up`.

    Every package of this node that has a generic resource of that name gets it.
    """
    everything = _generics(dir)
    found = [(package, generic) for package, generic in everything if generic.name == name]
    if not found:
        there = ", ".join(sorted({generic.name for _, generic in everything})) or "none"
        fail(f"no package has a generic resource `{name}` (there are: {there})")
    for package, generic in found:
        try:
            means_up(value, generic.up)
        except Unknown as why:
            fail(f"{name} of {package}: {why}; nothing was set")
    for path in dict.fromkeys(generic.path for _, generic in found):
        try:
            write(path, value)
        except OSError as error:
            fail(f"{path}: {error.strerror}; whoever may write this file may set it")


@command.command()
@click.argument("name", default="")
@dir_option
@json_option
def show(name: str, dir: str | None, as_json: bool) -> None:
    """Show the values of this node, or that of NAME. Exit code 1 when one of them does not mean up."""
    rows = []
    for package, generic in _generics(dir):
        if name in ("", generic.name):
            value = said = ""
            try:
                value = read(generic.path)
                said = "up" if means_up(value, generic.up) else "down"
            except Unknown as why:
                said = f"unknown: {why}"
            rows.append({"name": generic.name, "package": package, "value": value, "up": generic.up, "says": said})
    if not rows:
        fail(f"no package has a generic resource{f' `{name}`' if name else ''}")
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        click.echo(table([list(map(str.upper, rows[0])), *([each or "-" for each in row.values()] for row in rows)]))
    sys.exit(any(row["says"] != "up" for row in rows))


def _generics(dir: str | None) -> _Found:
    """Of every package that can be read. Raises ConfigError."""
    setup = load_setup(dir)
    packages, _ = load_all(setup.config, setup.places, Plugins())
    return [(p.name, each) for p in packages for each in p.resources if isinstance(each, Generic)]
