"""`btw maintenance`: have failures of a package passed over while somebody works on it."""

from __future__ import annotations

import click

from .common import Given, packages_argument, setup_options
from .office import office, why_option


@click.command
@packages_argument(required=True, several=False)
@click.argument("switch", metavar="on|off", type=click.Choice(["on", "off"]))
@why_option
@setup_options
def command(package: str, switch: str, why: str, given: Given) -> None:
    """While it is on failures of PKG are noted and passed over: nothing is healed, stopped or moved for them.
    A lost lock, a lost node and what a person asks for count as ever.

    `off` is refused while the package is not healthy where it runs: it would fail at once.
    """
    there = office(given.setup())
    holder = next(iter(there.package(package).at), "")
    there.ask("maintenance", package=package, on=switch == "on", why=why)
    click.echo(f"maintenance of {package} is {switch}{f'; it is on {holder}' if holder else ''}")
