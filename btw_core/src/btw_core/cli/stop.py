"""`btw stop`: halt what a `btw run` on this computer manages."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from .common import dir_option, fail, json_option, managers, packages_argument

if TYPE_CHECKING:
    from pathlib import Path

    from ..control import Answer

#: Seconds after stop_timeout for killing, for the release, and for the answer.
RELEASE = 10.0


@click.command
@packages_argument(required=True)
@click.option("--node", metavar="NODE", help="Only on this node, when several run on this computer.")
@dir_option
@json_option
def command(packages: tuple[str, ...], node: str | None, dir: str | None, as_json: bool) -> None:
    """Halt the packages PKG here and wait until they are down; their `btw run` ends with its last package.

    Another computer may start them. Exit code 1 when a package is stuck, with the reason.
    """
    from ..places import places

    found, troubles = managers(places(dir), node)
    for trouble in troubles:
        click.echo(f"btw: {trouble}", err=True)
    targets = {name: _where(name, found) for name in packages}
    missing = [name for name, where in targets.items() if not where]
    if missing:
        fail(f"nobody manages {', '.join(missing)} here{f' as node {node}' if node else ''}: see `btw status`")
    code, said = 0, []
    for name, where in targets.items():
        for path, on, limit in where:
            result = _stop(path, name, on, limit, as_json)
            said.append(result)
            code = code if result["ok"] else 1
    if as_json:
        click.echo(json.dumps(said, indent=2))
    sys.exit(code)


def _where(name: str, found: list[tuple[Path, Answer]]) -> list[tuple[Path, str, float]]:
    """Its managers on this computer, with stop_timeout; stand-bys first: they would take what is halted elsewhere."""
    here = [
        (package["role"] == "active", path, str(answer["node"]), float(package["stop_timeout"]))
        for path, answer in found
        for package in answer["packages"]
        if package["package"] == name
    ]
    return [(path, node, limit) for _, path, node, limit in sorted(here)]


def _stop(path: Path, name: str, node: str, limit: float, quiet: bool) -> dict[str, Any]:
    from ..control import NoAnswer, ask
    from ..journal import human

    result: dict[str, Any] = {"package": name, "node": node, "ok": False, "cause": ""}
    request = {"command": "halt", "package": name, "cause": f"btw stop (pid {os.getpid()}, uid {os.getuid()})"}
    try:
        for answer in ask(path, request, limit + RELEASE):
            if "ended" in answer:
                return result | {"ok": True, "cause": answer["cause"]} | _free(answer, quiet)
            event = answer.get("event", {})
            if event and not quiet:
                click.echo(human(event))
            if event.get("state") == "stuck":
                result["cause"] = f"stuck: {event.get('cause', '')}"
                break
    except (NoAnswer, ValueError) as error:
        result["cause"] = str(error)
    if not quiet:
        click.echo(f"btw: {name} on {node} is not halted: {result['cause'] or 'its manager ended'}", err=True)
    return result


def _free(answer: Answer, quiet: bool) -> dict[str, Any]:
    if not answer["free"] and not quiet:
        click.echo("the lock could not be given back: others wait until the lease has run out", err=True)
    return {"released": answer["free"]}
