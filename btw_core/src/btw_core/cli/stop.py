"""`btw stop`: halt packages, of a `btw run` on this computer or of the cluster."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from .common import dir_option, fail, json_option, managers, packages_argument
from .office import Office, follow, foresee, offices, play, preview_option, wait_option, why_option

if TYPE_CHECKING:
    from pathlib import Path

    from ..control import Answer
    from ..places import Places

#: Seconds after stop_timeout for killing, for the release, and for the answer.
RELEASE = 10.0


@click.command
@packages_argument(required=True)
@click.option("--here", is_flag=True, help="Hand over: let another node run what runs on this one.")
@click.option("--on", "on", metavar="NODE", help="Only the instance on this node, of a multi_node package.")
@click.option("--node", metavar="NODE", help="Only on this node, when several run on this computer.")
@preview_option
@why_option
@wait_option
@dir_option
@json_option
def command(
    packages: tuple[str, ...],
    here: bool,
    on: str | None,
    node: str | None,
    preview: bool,
    why: str,
    wait: float,
    dir: str | None,
    as_json: bool,
) -> None:
    """Halt the packages PKG and wait until they are down.

    In a cluster of daemons: wherever they run; auto_run of a failover package is switched off, so that nobody starts it
    before `btw start` or `btw enable`. Where `btw run` has them: here, it ends with its last package, and another
    computer may start them. Exit code 1 when a package is stuck, with the reason.
    """
    from ..places import places

    where = places(dir)
    there = offices(where, node)
    ours = [name for name in packages if there and there[0].has(name) and _daemons(where, name)]
    failed = [name for name in ours if not _cluster(there[0], name, here, on, preview, why, wait)]
    packages = tuple(name for name in packages if name not in ours)
    if preview or not packages:
        sys.exit(1 if failed else 0)
    found, troubles = managers(where, node)
    for trouble in troubles:
        click.echo(f"btw: {trouble}", err=True)
    targets = {name: _where(name, found) for name in packages}
    missing = [name for name, its in targets.items() if not its]
    if missing:
        fail(f"nobody manages {', '.join(missing)} here{f' as node {node}' if node else ''}: see `btw status`")
    code, said = int(bool(failed)), []
    for name, its in targets.items():
        for path, host, limit in its:
            result = _stop(path, name, host, limit, as_json)
            said.append(result)
            code = code if result["ok"] else 1
    if as_json:
        click.echo(json.dumps(said, indent=2))
    sys.exit(code)


def _daemons(where: Places, name: str) -> bool:
    """No `btw run` of this computer has it."""
    return not any(
        package["package"] == name
        for _, answer in managers(where)[0]
        if not answer.get("daemon")
        for package in answer["packages"]
    )


def _cluster(there: Office, name: str, here: bool, on: str | None, preview: bool, why: str, wait: float) -> bool:
    """Through the daemon. False: it is not down."""
    view = there.package(name)
    if here and there.node not in view.at:
        fail(f"{name} is not on {there.node}")
    words = f"move {name}" if here else f"halt {name} on {on}" if on else f"halt {name}"
    if here and view.type == "multi_node":
        words = f"halt {name} on {there.node}"
    if preview:
        play(there.view, words)
        return True
    foresee(there.view, words)
    there.ask("ask", words=words, why=why)
    gone = there.node if here else on
    return follow(there, name, lambda each: gone not in each.at if gone else not each.at, wait)


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
