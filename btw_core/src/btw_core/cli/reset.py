"""`btw reset`: a package's switches as its file has them."""

from __future__ import annotations

import click

from .common import Given, packages_argument, setup_options
from .office import explain, office, preview_option


@click.command
@packages_argument(required=True, several=False)
@preview_option
@setup_options
def command(package: str, preview: bool, given: Given) -> None:
    """Forget what failures and people have switched: auto_run of PKG as configured, every node on, no order."""
    there = office(given.setup())
    view = there.package(package)
    for what, switch in [("auto_run", view.switch), *((f"off on {name}", each) for name, each in view.off.items())]:
        if switch is not None:
            click.echo(f"{'would be forgotten' if preview else 'forgotten'}: {what}{switch}")
    if not preview:
        there.ask("reset", package=package)
        there.look()
        explain(there, package)
