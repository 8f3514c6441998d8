"""`btw why`: why a package is where it is, or is not."""

from __future__ import annotations

import click

from .common import Given, packages_argument, setup_options
from .office import explain, office


@click.command
@packages_argument(required=True, several=False)
@click.option("--on", "on", metavar="NODE", help="Only for this node.")
@setup_options
def command(package: str, on: str | None, given: Given) -> None:
    """Say what decides where PKG runs: switch, order, lock, dependency or policy, for every node, and which command
    changes it."""
    there = office(given.setup())
    if there.trouble:
        click.echo(f"btw: the picture may be old: {there.trouble}", err=True)
    explain(there, package, on)
