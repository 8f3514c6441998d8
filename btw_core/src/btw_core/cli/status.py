"""`btw status`: what runs on this computer, and for all that is not well the cause and the command that mends it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ..cluster import RUNNING, Kind
from .common import (
    PATIENCE,
    Given,
    json_option,
    managers,
    package_names,
    packages_argument,
    read_store,
    seconds,
    setup_options,
    table,
)
from .office import Office, offices, remedies

if TYPE_CHECKING:
    from pathlib import Path

    from ..settings import Setup

Package = dict[str, Any]
_HEADER = ["PACKAGE", "NODE", "ROLE", "STATE", "SINCE", "TERM", "LOCK"]
_TROUBLES = ("store_trouble", "journal_trouble", "keeper_trouble", "lag")
_WORKING = ("starting", "halting", "failing")
#: Seconds in one of these states after which `status` looks at what the processes are at.
_SLOW = 5.0
#: What another node calls its phases, in the words of states.
_STATES = {"up": "running"}
_QUIET = ("stand-by", "running", "starting", "unknown", "halted")


@click.command
@packages_argument(required=False)
@click.option("--line", "as_lines", is_flag=True, help="One greppable line for each fact.")
@setup_options
@json_option
def command(packages: tuple[str, ...], as_lines: bool, given: Given, as_json: bool) -> None:
    """Show the packages PKG (all without PKG) as the managers on this computer see them, of all nodes that run here,
    those that nobody runs here, and where daemons of other computers have them."""
    setup = given.setup()
    everyone, troubles = managers(setup.places)
    found = [(path, answer) for path, answer in everyone if given.node in (None, answer["node"])]
    rows: list[Package] = [_closely(package, answer) for _, answer in found for package in answer["packages"]]
    managed = {(package["package"], answer["node"]) for _, answer in everyone for package in answer["packages"]}
    there = next(iter(offices(setup.places, given.node, PATIENCE)), None)
    rows += _elsewhere(there, rows) if there else []
    rows += _idle(setup, {row["package"] for row in rows}, managed, troubles)
    for _, answer in found:
        who = f"{answer['node']} (pid {answer['pid']})"
        troubles += [f"{who}: {answer[key]}" for key in _TROUBLES if answer.get(key)]
        troubles += [f"{who}: {text}" for text in answer.get("problems", ())]
    unknown = [name for name in packages if name not in {row["package"] for row in rows}]
    if unknown:
        troubles.append(f"there is no package {', '.join(unknown)} in {setup.places.packages}")
    rows = [row for row in rows if not packages or row["package"] in packages]
    rows.sort(key=lambda row: (row["package"], row["node"]))
    footer = [line for row in rows for line in advice(row)]
    footer += _whys(there, {row["package"] for row in rows}) if there else []
    footer += troubles
    if as_json:
        view = {"view": there.raw["view"]} if there else {}
        click.echo(json.dumps({"packages": rows, "advice": footer, **view}, indent=2))
    elif as_lines:
        _print_lines(rows, there)
    else:
        _show(rows, footer)
    sys.exit(1 if unknown else 0)


def _closely(row: Package, answer: dict[str, Any]) -> Package:
    """With what its processes are at, where that is of interest, and who would have to be killed to be rid of it."""
    from ..explain import operations

    stuck = row["state"] == "stuck"
    slow = row["state"] in _WORKING and row["seconds"] >= _SLOW
    seen = operations(answer.get("cgroup", ""), row["package"], everything=stuck) if stuck or slow else ()
    family = [answer[key] for key in ("keeper", "pid") if answer.get(key)]
    return row | {"processes": list(seen) or row.get("survivors", []), "managers": family}


def _elsewhere(there: Office, rows: list[Package]) -> Iterator[Package]:
    """What daemons of other computers have."""
    shown = {(row["package"], row["node"]) for row in rows}
    for name, package in there.view.packages.items():
        for node, phase in package.at.items():
            if (name, node) not in shown:
                lost = node in there.view.nodes and there.view.nodes[node].lost
                lock = f"held by {node}" + (", which is lost" if lost else "")
                row: Package = {"package": name, "node": node, "role": "active"}
                row |= {
                    "state": _STATES.get(phase, str(phase)),
                    "cause": "",
                    "seconds": None,
                    "term": None,
                    "resources": [],
                    "processes": [],
                    "off": "",
                }
                yield row | {"lock": lock, "managers": [], "working_on": ""}


def _whys(there: Office, names: set[str]) -> Iterator[str]:
    """For each package that runs nowhere: why, and what changes it."""
    for name in sorted(names & there.view.packages.keys()):
        package = there.view.packages[name]
        if name in there.maintenance:
            yield f"{name}: maintenance{there.maintenance[name]}: failures are passed over; btw maintenance {name} off"
        if any(phase in RUNNING for phase in package.at.values()):
            if not package.automatic.on and package.type is Kind.FAILOVER:
                yield f"{name}: nobody would take it over: auto_run is off{package.automatic}; btw enable {name}"
            continue
        causes = dict.fromkeys(each.cause for each in there.of(name))
        yield f"{name} runs nowhere: {'; '.join(causes) or 'no node may run it'}"
        yield from (f"  {line}" for line in remedies(there, name))


def _print_lines(rows: list[Package], there: Office | None) -> None:
    """`package:NAME|node:NODE|key=value`, as `cmviewcl -f line` has it."""
    for row in rows:
        head = f"package:{row['package']}|node:{row['node']}"
        for key in ("state", "role", "term", "lock"):
            click.echo(f"{head}|{key}={'' if row[key] is None else row[key]}")
        for each in row["resources"]:
            click.echo(f"{head}|resource:{each['resource']}|status={each['status'] or 'unknown'}")
    if there is None:
        return
    for name, known in there.view.nodes.items():
        click.echo(f"node:{name}|status={'down' if known.lost else 'up'}")
        click.echo(f"node:{name}|drained={known.drained}")
    for name, package in sorted(there.view.packages.items()):
        up = [node for node, phase in package.at.items() if phase in RUNNING]
        click.echo(f"package:{name}|status={'up' if up else 'down'}")
        click.echo(f"package:{name}|auto_run={'on' if package.automatic.on else 'off'}")
        click.echo(f"package:{name}|maintenance={'on' if name in there.maintenance else 'off'}")
        for node in there.view.nodes_of(package):
            click.echo(f"package:{name}|node:{node}|switching={'off' if node in package.off else 'on'}")


def _idle(setup: Setup, shown: set[str], managed: set[tuple[str, str]], troubles: list[str]) -> Iterator[Package]:
    """Packages that have a file but no manager here (on this computer; with --node, on that node); who holds them, if
    the store can say. `managed`: package and node of every manager on this computer."""
    names = [name for name in package_names(setup.places) if name not in shown]
    if not names:
        return
    from ..claim import describe
    from ..lease import PACKAGES, DamagedRecord, PackageRecord, decode
    from ..resource import ConfigError

    locks: dict[str, str] = {}
    try:
        records, trouble = read_store(setup)
    except ConfigError as error:
        records, trouble = None, str(error)
    if trouble:
        troubles.append(f"cannot read the lock store {setup.lock}: {trouble}")
    for record in records or []:
        if record.key.startswith(PACKAGES):
            try:
                text = describe(decode(PackageRecord, record.key, record.value), None, 0.0)
            except DamagedRecord as error:
                text = str(error)
            locks[record.key.removeprefix(PACKAGES)] = text
    for name in names:
        idle: Package = {"package": name, "node": setup.config.node, "role": "-", "state": "not run here", "cause": ""}
        idle |= {"seconds": None, "term": None, "resources": []}
        idle["left_up"] = [node for node in _left_up(setup.places.state, name) if (name, node) not in managed]
        yield idle | {"lock": locks.get(name, "cannot tell" if trouble else "never held")}


def _left_up(state: Path, name: str) -> list[str]:
    """Nodes of this computer whose memory says that a manager left the package up."""
    from ..disk import FileDisk

    found = []
    for file in state.glob(f"*/{name}.json"):
        try:
            saved = FileDisk(file.parent).load(name)
        except (OSError, ValueError):
            found.append(file.parent.name)  # cannot tell
            continue
        if saved is not None and saved.may_be_up:
            found.append(file.parent.name)
    return found


def advice(row: Package) -> Iterator[str]:
    """The cause of what is not well, and the command that mends it."""
    name, node, state = row["package"], row["node"], row["state"]
    who = f"{name} on {node}: {state}"
    if state == "not run here":
        for other in row["left_up"]:
            remedy = f"btw run {name} -d --node {other}, or btw try {name} stop --node {other}"
            yield f"{name}: may be up on {other}, with no manager: {remedy}"
        return
    if state == "stuck":
        yield from _way_out(row)
        return
    remedy = {
        "off": f"when its cause is mended: btw enable {name} --node {node}",
        "fencing": f"if you made sure that the former holder is down: btw unlock {name} --confirmed",
    }.get(state, f"see btw events {name}")
    if state not in _QUIET or row["processes"]:
        doing = f" ({row['working_on']})" if row.get("working_on") else ""
        yield f"{who}{doing}: {row['off'] or row['cause']}; {remedy}"
    yield from (f"  {process}" for process in row["processes"])
    for each in row["resources"]:
        if each["detail"] and each["status"] != "up":
            yield f"{name} on {node}: {each['resource']} {each['status'] or 'cannot tell'}: {each['detail']}"


def _way_out(row: Package) -> Iterator[str]:
    """Of a stop that failed, in the order in which to try."""
    name, node = row["package"], row["node"]
    yield f"{name} on {node}: stuck: {row['cause']}"
    yield from (f"  {process}" for process in row["processes"])
    hanging = [text.split()[1] for text in row["processes"] if ", state D" in text]
    others = [pid for text in row["processes"] if (pid := text.split()[1]) not in hanging]
    yield f"  mend what keeps it from stopping, then: btw stop {name} --node {node}"
    if others:
        yield f"  or end what is left: kill -9 {' '.join(others)}"
    if hanging:
        yield f"  no signal ends {', '.join(hanging)} (state D): only the end of what it waits for, or a reboot"
    ends = f"kill -9 {' '.join(map(str, row['managers']))}; btw unlock {name} --confirmed"
    yield f"  or, once you made sure that {name} is down on {node}: {ends}"


def _show(rows: list[Package], footer: list[str]) -> None:
    if rows:
        click.echo(table([_HEADER, *(_cells(row) for row in rows)]))
    else:
        click.echo("no packages; make one: btw new NAME -m exec")
    if footer:
        click.echo()
    for line in footer:
        click.echo(line)


def _cells(row: Package) -> list[str]:
    since = "-" if row["seconds"] is None else seconds(row["seconds"])
    return [row["package"], row["node"], row["role"], row["state"], since, str(row["term"] or "-"), row["lock"]]
