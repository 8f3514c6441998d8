"""`btw probe FILE`: what a package script answers."""

from __future__ import annotations

from pathlib import Path

import click

from btw_core.exits import CONFIGURATION

from .package_file import VARIABLES, read
from .script import called_as


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def probe(file: Path) -> None:
    """Show what a back-to-work package script answers.

    Calls FILE with `echo pace`, and when the answer is fit with `echo` timeout, start_timeout and stop_timeout; never
    with start, stop or status. Exit code 78 when it is no package script.
    """
    try:
        package = read(file)
        if package is None:
            reason = "does not exist" if not file.exists() else "is neither executable nor begins with #!"
            raise ValueError(f"{file} is no package script: it {reason}")
    except (OSError, ValueError) as error:
        click.echo(f"btw probe: {error}", err=True)
        raise SystemExit(CONFIGURATION) from None
    program, cwd = called_as(str(file))
    click.echo(f"{file}: called as {program} in {cwd}")
    for variable in VARIABLES:
        value = package["package"].get(variable)
        click.echo(f"  {variable:<14} {'not set, the default holds' if value is None else f'{value:g} s'}")
    if not package["package"]:
        click.echo("It answered nothing at all, as a program that ignores its arguments does: see that it is a script.")
