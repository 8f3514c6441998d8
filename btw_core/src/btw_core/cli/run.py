"""`btw run`: keep packages running, in the foreground or in the background."""

from __future__ import annotations

import sys

import click

from .common import Given, packages_argument, setup_options
from .keeping import become, detach, keeper, manage


@click.command
@packages_argument(required=True)
@click.option("-d", "--detach", "away", is_flag=True, help="In the background; returns once the manager answers.")
@click.option("--kept", is_flag=True, hidden=True, help="Be the manager that a keeper looks after.")
@setup_options
def command(packages: tuple[str, ...], away: bool, kept: bool, given: Given) -> None:
    """Keep the packages PKG running on exactly one node: this one, or any other that runs them too.

    Shows the journal. Ctrl-C (INT), TERM and HUP halt the packages here, in order; once more says what it waits for.
    USR1 goes on with the btw that is installed now, without stopping anything.
    """
    given, slot = given.absolute(), packages[0]
    manager = ["run", "--kept", *packages, *given.options()]
    if kept:
        sys.exit(manage(given, packages, slot, manager, sys.stdout))
    setup = given.setup()
    own = keeper(setup, slot, manager)
    if away:
        sys.exit(detach(setup, slot, own, f"run {' '.join(packages)}"))
    become(setup, own)
