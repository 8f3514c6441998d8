"""`btw node`: the nodes of the cluster; drain and resume one."""

from __future__ import annotations

import sys
import time

import click

from .common import Given, fail, setup_options, table
from .office import LOOK, Office, foresee, office, play, preview_option, wait_option, why_option


@click.group
def command() -> None:
    """Show the nodes, have one run nothing for a while, let it take part again."""


@command.command("list")
@setup_options
def list_(given: Given) -> None:
    """Show every node that the cluster knows, and what it runs."""
    there = office(given.setup())
    rows = [["NODE", "STATE", "RUNS"]]
    for name, each in there.view.nodes.items():
        runs = [package for package, view in sorted(there.view.packages.items()) if name in view.at]
        gone = "its btw has ended" if each.serves == () and not each.lost else ""
        state = "lost" if each.lost else gone or (f"drained: {each.drained}" if each.drained else "up")
        rows.append([name, state, " ".join(runs) or "-"])
    click.echo(table(rows))


@command.command()
@click.argument("name", metavar="[NODE]", required=False)
@preview_option
@why_option
@wait_option
@setup_options
def drain(name: str | None, preview: bool, why: str, wait: float, given: Given) -> None:
    """Have NODE (this one) run nothing, until `btw node resume`: what it runs goes to others, in order.

    Waits until nothing is left there. What no other node can run is halted.
    """
    setup = given.setup()
    there, name = office(setup), name or setup.config.node
    words = f"node {name} drained"
    if preview:
        play(there.view, words)
        return
    foresee(there.view, words)
    there.ask("ask", words=words, why=why)
    left = _empty(there, name, wait)
    if left:
        fail(f"still on {name}: {', '.join(left)}; see btw why PKG")
    click.echo(f"{name} is drained; btw node resume {name} lets it take part again")


def _empty(there: Office, name: str, seconds: float) -> list[str]:
    """What is left on the node."""
    end = time.monotonic() + seconds
    while True:
        there.look()
        left = [f"{package} ({view.at[name]})" for package, view in there.view.packages.items() if name in view.at]
        if not left or time.monotonic() >= end:
            return left if seconds else []
        time.sleep(LOOK)


@command.command()
@click.argument("name", metavar="[NODE]", required=False)
@preview_option
@setup_options
def resume(name: str | None, preview: bool, given: Given) -> None:
    """Let NODE (this one) take part again."""
    setup = given.setup()
    there, name = office(setup), name or setup.config.node
    words = f"node {name} resumed"
    if preview:
        play(there.view, words)
        sys.exit(0)
    foresee(there.view, words)
    there.ask("ask", words=words)
    click.echo(f"{name} takes part again")
