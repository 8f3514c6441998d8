"""`btw new`: write a commented package file."""

from __future__ import annotations

import click


@click.command
@click.argument("name")
@click.option(
    "-m",
    "--module",
    "modules",
    metavar="TYPE",
    multiple=True,
    help="A resource type, may be repeated; `all`: every installed one.",
)
@click.option("--dir", metavar="DIR", help="Everything below DIR instead of the system's places.")
@click.option("--plugins", metavar="NAMES", help="Allow only these resource plugins, such as vip,fs.")
@click.option("--stdout", is_flag=True, help="Print it instead of writing packages/NAME.toml.")
@click.option(
    "--from-running", is_flag=True, help="Instead: the addresses, mounts and units that are up on this node now."
)
def command(
    name: str, modules: tuple[str, ...], dir: str | None, plugins: str | None, stdout: bool, from_running: bool
) -> None:
    """Write the package file NAME with resources of the given types, every parameter explained.

    Example: btw new web -m exec -m flag
    """
    from ..running import package_file

    if bool(modules) == from_running:
        raise click.UsageError("give either -m TYPE (`btw plugin list` shows them) or --from-running")
    checked(name)
    text = package_file(name) if from_running else _text(name, modules, plugins)
    if stdout:
        click.echo(text, nl=False)
    else:
        click.echo(f"{write(name, text, dir)} written; edit it, then: btw check {name}")


def _text(name: str, modules: tuple[str, ...], restrict: str | None) -> str:
    from ..plugins import Plugins
    from ..resource import Resource
    from ..settings import words
    from ..templates import package_file

    plugins = Plugins(words(restrict))
    types: list[tuple[str, type[Resource]]] = []
    for module in modules:
        types += plugins.types().items() if module == "all" else [(module, plugins.resource_type(module))]
    return package_file(name, types)


def checked(name: str) -> None:
    """Raises ConfigError when it cannot name a package."""
    from ..resource import ConfigError, Problem
    from ..settings import NAME, NAME_RULE

    if not NAME.fullmatch(name):
        raise ConfigError([Problem(text=f"`{name}` is no package name, allowed: {NAME_RULE}")])


def write(name: str, text: str, dir: str | None) -> str:
    """Make the file, never over another one. Raises ConfigError."""
    from ..places import places
    from ..resource import ConfigError, Problem

    directory = places(dir).packages
    file = directory / f"{name}.toml"
    try:
        directory.mkdir(0o755, parents=True, exist_ok=True)
        if (directory / name).exists():
            text = f"there is a package `{name}` already"
            raise ConfigError([Problem(text=text, remedy="choose another name", file=str(directory / name))])
        with file.open("x") as out:
            out.write(text)
    except FileExistsError:
        text = "exists and is not written over"
        raise ConfigError([Problem(text=text, remedy="remove it or use --stdout", file=str(file))]) from None
    except OSError as error:
        raise ConfigError([Problem(text=f"cannot be written: {error.strerror}", file=str(file))]) from error
    return str(file)
