"""`btw scsi-pr`: what a disk knows of reservations, and taking all of it away."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import click

from btw_core.cli.common import dir_option, fail, json_option, read_store
from btw_core.lease import SESSIONS
from btw_core.resource import ConfigError
from btw_core.settings import Setup, load_setup

from . import key as keys
from .cdb import Kind
from .doing import opened
from .path import PrPath, Trouble
from .units import NotFound, Sysfs, Unit

#: Seconds that a command may take.
TIMEOUT = 5.0
_devices = click.argument("devices", metavar="DEVICE...", nargs=-1, required=True)


@click.group()
def command() -> None:
    """What a disk knows of SCSI persistent reservations."""


@command.command()
@_devices
@dir_option
@json_option
def show(devices: tuple[str, ...], dir: str | None, as_json: bool) -> None:
    """Show the keys, the holder and the generation of DEVICE; of each key of this cluster its node and term."""
    cluster, nodes = _names(dir)
    said = [_described(unit, cluster, nodes) for unit in _units(devices)]
    click.echo(json.dumps(said) if as_json else "\n".join(map(_text, said)))
    sys.exit(any("error" in each for each in said))


@command.command()
@_devices
@dir_option
@click.option("--force", is_flag=True, help="I made sure that no node writes to it.")
def clear(devices: tuple[str, ...], dir: str | None, force: bool) -> None:
    """Take every key and the reservation away from DEVICE.

    For disaster only: afterwards a node that was shut out can write. Without --force it shows what there is, and
    changes nothing (exit code 1).
    """
    cluster, nodes = _names(dir)
    units = _units(devices)
    for unit in units:
        click.echo(_text(_described(unit, cluster, nodes)))
    if not force:
        click.echo("Only when no node uses it: btw scsi-pr clear --force; nothing was changed.")
        sys.exit(1)
    own = int(keys.key(cluster, "btw scsi-pr clear", 1))  # of the lowest term: the next holder preempts it if need be
    for unit in units:
        with opened(Sysfs(), unit, TIMEOUT, _warn) as paths:
            try:
                _clear(paths, own)
            except Trouble as trouble:
                fail(str(trouble))
        click.echo(f"{unit.wwid}: cleared")


def _clear(paths: Sequence[PrPath], own: int) -> None:
    """On the first path that answers. Raises Trouble."""
    failed: Trouble | None = None
    for path in paths:
        try:
            path.register(own, persist=False)
            path.clear(own)
        except Trouble as trouble:
            failed = trouble
        else:
            return
    if failed:
        raise failed
    fail("no path is alive")


# ---- what is said of a disk
def _described(unit: Unit, cluster: str, nodes: Iterable[str]) -> dict[str, Any]:
    paths = {way.name: f"{way.address} {way.state}" for way in unit.ways}
    said: dict[str, Any] = {"wwid": unit.wwid, "paths": paths}
    with opened(Sysfs(), unit, TIMEOUT, _warn) as ways:
        trouble = "no path is alive"
        for path in ways:
            try:
                return said | _answers(path, cluster, nodes)
            except Trouble as error:
                trouble = str(error)
    return said | {"error": trouble}


def _answers(path: PrPath, cluster: str, nodes: Iterable[str]) -> dict[str, Any]:
    """Raises Trouble."""
    found, held = path.keys(), path.reservation()
    try:
        initiators = [(each.key, each.initiator) for each in path.full_status()]
    except Trouble:  # an old disk does not know the question
        initiators = []
    shown = []
    for number, count in sorted(Counter(found.keys).items()):
        whose = _whose(number, cluster, nodes)
        ways = sorted({name for key, name in initiators if key == number})
        shown.append({"key": keys.shown(number), **whose, "registrations": count, "initiators": ways})
    holder = None
    if held is not None:
        words = Kind(held.kind).name.lower().replace("_", " ") if held.kind in list(Kind) else "unknown"
        holder = {"key": keys.shown(held.key), **_whose(held.key, cluster, nodes), "type": held.kind, "words": words}
    return {"generation": found.generation, "holder": holder, "keys": shown}


def _whose(number: int, cluster: str, nodes: Iterable[str]) -> dict[str, Any]:
    found = keys.parts(number)
    if not cluster or found.cluster != keys.key(cluster, "", 1).cluster:
        return {}
    return {"node": keys.name(found.node, nodes), "term": found.term}


def _text(said: dict[str, Any]) -> str:
    lines = [said["wwid"], "  paths       " + ", ".join(f"{name} {what}" for name, what in said["paths"].items())]
    if "error" in said:
        return "\n".join([*lines, f"  {said['error']}"])
    holder = said["holder"]
    held = f"{_named(holder)}; type {holder['type']}, {holder['words']}" if holder else "nobody: any machine can write"
    lines += [f"  holder      {held}", f"  generation  {said['generation']}"]
    for each in said["keys"]:
        ways = f" ({', '.join(each['initiators'])})" if each["initiators"] else ""
        lines.append(f"  registered  {_named(each)}; paths: {each['registrations']}{ways}")
    return "\n".join(lines if said["keys"] else [*lines, "  registered  nobody"])


def _named(said: dict[str, Any]) -> str:
    if said["key"] == "0x0":
        return "all that are registered"
    whose = f"node {said['node']}, term {said['term']}" if "node" in said else "not of this cluster"
    return f"{said['key']} = {whose}"


# ---- what is known
def _names(dir: str | None) -> tuple[str, list[str]]:
    """The cluster's name, and those of its nodes as far as they are known: this one, and those in the lock store."""
    try:
        setup = load_setup(dir)
        return setup.config.cluster, sorted({setup.config.node, *_nodes(setup)})
    except ConfigError as error:
        _warn(f"{error}: keys are shown without nodes and terms")
        return "", []


def _nodes(setup: Setup) -> set[str]:
    """Raises ConfigError."""
    records, why = read_store(setup)
    if records is None:
        _warn(f"{why}: nodes are shown by their numbers")
    return {record.key.split("/")[1] for record in records or () if record.key.startswith(SESSIONS)}


def _units(devices: Sequence[str]) -> tuple[Unit, ...]:
    try:
        return Sysfs().units(devices)
    except NotFound as error:
        fail(str(error))


def _warn(text: str) -> None:
    click.echo(f"btw: {text}", err=True)
