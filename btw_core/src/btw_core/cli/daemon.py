"""`btw daemon`: this node's part in its cluster, for all packages of the packages directory."""

from __future__ import annotations

import sys

import click

from ..records import SLOT
from .common import Given, setup_options
from .keeping import become, detach, keeper, manage


@click.command
@click.option("-d", "--detach", "away", is_flag=True, help="In the background; returns once it answers.")
@click.option("--kept", is_flag=True, hidden=True, help="Be the manager that a keeper looks after.")
@setup_options
def command(away: bool, kept: bool, given: Given) -> None:
    """Run every package of the packages directory where its rules say, together with the daemons of the other nodes.

    Obeys nodes, policies, dependencies, switches (docs/cluster.md). INT, TERM and HUP hand over what runs here, in
    order, then end; once more halts it at once. USR1 goes on with the btw that is installed now, without stopping
    anything. `btw apply` takes changed package files over.
    """
    given = given.absolute()
    manager = ["daemon", "--kept", *given.options()]
    if kept:
        sys.exit(manage(given, (), SLOT, manager, sys.stdout))
    setup = given.setup()
    own = keeper(setup, SLOT, manager)
    if away:
        sys.exit(detach(setup, SLOT, own, "daemon"))
    become(setup, own)
