"""`btw plugin`: what is installed, and what its parameters mean; a new plugin, and whether one keeps the rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .common import json_option, table
from .plugin_check import check
from .plugin_new import new

if TYPE_CHECKING:
    from ..plugins import Found, Plugins

#: So that whoever writes --dir after every command need not leave it out here.
_DIR = click.option("--dir", metavar="DIR", expose_value=False, help="Changes nothing: DIR has no plugins of its own.")


@click.group
def command() -> None:
    """Show plugins (resource types, locks, commands, extensions), begin one, check one."""


command.add_command(new)
command.add_command(check)


@command.command("list")
@_DIR
@json_option
def list_(as_json: bool) -> None:
    """List everything installed. Imports no plugin."""
    _answer(_rows, as_json)


@command.command
@click.argument("name")
@_DIR
@json_option
def show(name: str, as_json: bool) -> None:
    """Show NAME: its parameters (type, default, unit, meaning), where it comes from, its hooks."""
    _answer(lambda plugins: _details(plugins, name), as_json, _explained)


def _answer(
    ask: Callable[[Plugins], list[dict[str, Any]]], as_json: bool, text: Callable[[dict[str, Any]], str] | None = None
) -> None:
    from ..plugins import Plugins

    found = ask(Plugins())
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo("\n\n".join(text(each) for each in found) if text else table([list(row.values()) for row in found]))


def _rows(plugins: Plugins) -> list[dict[str, Any]]:
    from ..plugins import KINDS

    return [
        {"name": each.name, "kind": KINDS[group], "distribution": each.distribution, "version": each.version}
        for group, names in plugins.found.items()
        for each in names.values()
    ]


def _details(plugins: Plugins, name: str) -> list[dict[str, Any]]:
    from ..plugins import RESOURCES, missing
    from ..resource import ConfigError

    entries = [names[name] for names in plugins.found.values() if name in names]
    if not entries:
        raise ConfigError([missing(RESOURCES, name, plugins.found)])
    return [_detail(plugins, each) for each in entries]


def _detail(plugins: Plugins, each: Found) -> dict[str, Any]:
    import msgspec

    from ..parameters import parameters
    from ..plugins import KINDS, RESOURCES
    from ..templates import summary

    said: dict[str, Any] = {
        "name": each.name,
        "kind": KINDS[each.group],
        "distribution": each.distribution,
        "version": each.version,
        "module": each.module,
        "hooks": plugins.hooks(each),
    }
    if each.group != RESOURCES:
        return said
    cls = plugins.resource_type(each.name)
    return said | {
        "summary": summary(cls),
        "layer": cls.layer,
        "shared": cls.shared,
        "heals": hasattr(cls, "heal"),
        "fences": hasattr(cls, "fence"),
        "watches": hasattr(cls, "watch"),
        "parameters": [msgspec.to_builtins(parameter) for parameter in parameters(cls)],
    }


def _explained(said: dict[str, Any]) -> str:
    rows = [
        f"{said['kind']} {said['name']}, of {said['distribution']} {said['version']} ({said['module']})",
        f"hooks: {', '.join(said['hooks']) or 'none'}",
    ]
    if "parameters" not in said:
        return "\n".join(rows)
    traits = [text for key, text in _TRAITS.items() if said[key]]
    cells = [["parameter", "type", "default", "unit", "meaning"]] + [
        [
            each["name"],
            each["type"],
            "required" if each["required"] else each["default"] or "",
            each["unit"],
            each["meaning"],
        ]
        for each in said["parameters"]
    ]
    rows += [f"layer: {said['layer']}", *traits]
    return "\n".join([said["summary"], *rows, "", table(cells)]).lstrip()


_TRAITS = {
    "shared": "touches what other machines can touch: needs a lock that somebody chose",
    "heals": "can put back what vanished while running (heal)",
    "fences": "shuts out former holders of the lock (fence)",
    "watches": "notices changes by itself (watch)",
}
