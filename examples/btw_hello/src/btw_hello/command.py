"""`btw hello NAME`: a command of its own in `btw`."""

from __future__ import annotations

import click


@click.command
@click.argument("name")
def hello(name: str) -> None:
    """Say hello to NAME."""
    click.echo(f"hello {name}")
