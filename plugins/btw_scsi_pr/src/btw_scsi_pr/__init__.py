"""btw-scsi-pr: SCSI-3 persistent reservations. Only the hooks; everything else is imported when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from btw_core import Resource, hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def btw_resource_types() -> list[type[Resource]]:
    from .scsi_pr import ScsiPr

    return [ScsiPr]


@hookimpl
def btw_commands() -> Mapping[str, click.Command]:
    from .show import command

    return {"scsi-pr": command}
