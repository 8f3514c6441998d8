"""`btw move`: move a package to another node."""

from __future__ import annotations

import sys

import click

from .common import Given, packages_argument, setup_options
from .office import follow, foresee, office, play, preview_option, wait_option, why_option


@click.command
@packages_argument(required=True, several=False)
@click.argument("to", metavar="[NODE]", required=False)
@preview_option
@why_option
@wait_option
@setup_options
def command(package: str, to: str | None, preview: bool, why: str, wait: float, given: Given) -> None:
    """Move PKG, with what has to be on its node, to NODE (without NODE: to the next of its nodes that can).

    Refused where it could not run there. Says first what will happen, waits, and says for how long it was not up.
    """
    there = office(given.setup())
    words = f"move {package} to {to}" if to else f"move {package}"
    before = dict(there.package(package).at)
    if preview:
        play(there.view, words)
        return
    foresee(there.view, words)
    there.ask("ask", words=words, why=why)
    there_now = lambda each: any(p == "up" and n not in before and to in (None, n) for n, p in each.at.items())  # noqa: E731
    if not follow(there, package, there_now, wait):
        sys.exit(1)
