"""`btw disable`: switch off auto_run, or a package's nodes."""

from __future__ import annotations

import click

from .common import Given, packages_argument, setup_options
from .office import explain, office, play, preview_option, why_option


@click.command
@packages_argument(required=True, several=False)
@click.option("--on", "on", metavar="NODE", multiple=True, help="Node switching of this node; several may be given.")
@preview_option
@why_option
@setup_options
def command(package: str, on: tuple[str, ...], preview: bool, why: str, given: Given) -> None:
    """Switch auto_run of PKG off: nobody starts it, or takes it over, by itself. With --on only these nodes do not.

    Never halts anything.
    """
    there = office(given.setup())
    there.package(package)
    for words in [f"disable {package} on {each}" for each in on] or [f"disable {package}"]:
        if preview:
            play(there.view, words)
        else:
            there.ask("ask", words=words, why=why)
    if not preview:
        there.look()
        explain(there, package)
