"""btw-hello: a plugin with every hook that there is, each as small as can be.

Only the hooks; each imports what it needs when it is called, so that a command loads no more than it uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btw_core import Resource, StoreFactory, hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def btw_resource_types() -> list[type[Resource]]:
    from .banner import Hello

    return [Hello]


@hookimpl
def btw_stores() -> Mapping[str, StoreFactory]:
    from .store import open_store

    return {"hello": open_store}


@hookimpl
def btw_commands() -> Mapping[str, click.Command]:
    from .command import hello

    return {"hello": hello}


@hookimpl
def btw_event(event: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    from .diary import write

    write(event, settings)


@hookimpl
def btw_package_file(path: Path) -> dict[str, Any] | None:
    from .package_file import read

    return read(path)
