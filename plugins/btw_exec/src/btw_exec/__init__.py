"""btw-exec: programs, services, flag files and back-to-work package scripts.

Only the hooks; each imports what it needs when it is called, so that a command loads no more than it uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btw_core import Resource, hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def btw_resource_types() -> list[type[Resource]]:
    from .external import External
    from .flag import Flag
    from .generic import Generic
    from .program import Program
    from .script import Script
    from .service import Service

    return [Program, Service, Flag, Script, External, Generic]


@hookimpl
def btw_package_file(path: Path) -> dict[str, Any] | None:
    from .package_file import read

    return read(path)


@hookimpl
def btw_event(event: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    from .on_event import tell

    tell(event, settings)


@hookimpl
def btw_commands() -> Mapping[str, click.Command]:
    from .generic_command import command
    from .probe import probe

    return {"probe": probe, "generic": command}
