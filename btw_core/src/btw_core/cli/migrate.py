"""`btw migrate`: a package file from a back-to-work package script."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", metavar="NAME", help="Name of the package; default: the script's.")
@click.option("--dir", metavar="DIR", help="Everything below DIR instead of the system's places.")
@click.option("--stdout", is_flag=True, help="Print it instead of writing packages/NAME.toml.")
def command(script: Path, name: str | None, dir: str | None, stdout: bool) -> None:
    """Translate the configuration section of a back-to-work package SCRIPT into a package file.

    The script is not run. What could not be translated is named, in the file and on standard error; then the exit code
    is 1. A package script also works as it is: see btw-exec.
    """
    from ..migrate import migrate
    from ..resource import ConfigError, Problem
    from .new import checked, write

    package = name or script.name
    checked(package)
    text = script.read_text(errors="replace")
    migrated = migrate(package, text)
    if migrated.empty or "\0" in text:
        problem = Problem(text="sets nothing that a package script sets", remedy="is it one?", file=str(script))
        raise ConfigError([problem])
    if stdout:
        click.echo(migrated.text, nl=False)
    else:
        click.echo(f"{write(package, migrated.text, dir)} written; read it, then: btw check {package}")
    for each in migrated.left:
        click.echo(f"{script}: not translated: {each}", err=True)
    sys.exit(1 if migrated.left else 0)
