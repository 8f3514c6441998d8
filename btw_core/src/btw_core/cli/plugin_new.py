"""`btw plugin new`: begin a plugin."""

from __future__ import annotations

from pathlib import Path

import click


@click.command
@click.argument("name")
def new(name: str) -> None:
    """Begin a plugin with the resource type NAME: a project in ./btw_NAME whose tests pass as they are.

    Example: btw plugin new zpool
    """
    from ..scaffold import write

    project = write(name, Path())
    click.echo(f"{project}/ written. In it: pip install -e '.[testing]', then pytest; then make it yours.")
