"""`btw start`: run packages, on the node that their rules say or on a named one."""

from __future__ import annotations

import sys

import click

from .common import Given, packages_argument, setup_options
from .office import follow, foresee, office, play, preview_option, wait_option, why_option


@click.command
@packages_argument(required=True)
@click.option("--on", "on", metavar="NODE", help="On this node.")
@preview_option
@why_option
@wait_option
@setup_options
def command(packages: tuple[str, ...], on: str | None, preview: bool, why: str, wait: float, given: Given) -> None:
    """Run the packages PKG by hand; auto_run stays as it is. Says first what will happen, then waits until they are up.

    Exit code 1: refused, or not up in time, with the reason and the command that mends it.
    """
    there, code = office(given.setup()), 0
    for name in packages:
        there.package(name)
        words = f"run {name} on {on}" if on else f"run {name}"
        if preview:
            play(there.view, words)
            continue
        foresee(there.view, words)
        there.ask("ask", words=words, why=why)
        up = lambda each: any(phase == "up" and on in (None, node) for node, phase in each.at.items())  # noqa: E731
        if not follow(there, name, up, wait):
            if there.package(name).order is not None:
                click.echo(f"btw: {name} is not up; the order stands until it is, or: btw stop {name}", err=True)
            code = 1
    sys.exit(code)
