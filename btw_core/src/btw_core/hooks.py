"""The hooks that plugins implement (pluggy, project name "btw"). Each is used by a shipped plugin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from .resource import Resource
    from .store import StoreFactory

PROJECT = "btw"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    @hookspec
    def btw_resource_types(self) -> list[type[Resource]]:  # type: ignore[empty-body]
        """The resource types of this plugin; each tag must be one of its `btw.resources` entry-point names.
        Called once, in every process that reads packages (never in the manager)."""

    @hookspec
    def btw_stores(self) -> Mapping[str, StoreFactory]:  # type: ignore[empty-body]
        """Scheme -> factory. Called in the manager."""

    @hookspec(firstresult=True)
    def btw_package_file(self, path: Path) -> dict[str, Any] | None:
        """For a file in the packages directory that is not NAME.toml: its content as a package file would say it
        (`{"package": {...}, "resource": [{...}]}`), or None when it is none of this plugin's. Raises ValueError with
        the reason when it looks like one but is not. May run programs, for some seconds."""

    @hookspec
    def btw_event(self, event: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Every journal event, in order, in a thread of the observer; decides nothing. `settings` is the table
        `[plugins.NAME]` of btw.toml with NAME the plugin's entry point. A hook that hangs loses
        events, nothing else."""

    @hookspec
    def btw_commands(self) -> Mapping[str, click.Command]:  # type: ignore[empty-body]
        """Further commands of `btw`; each name must be one of the plugin's `btw.commands` entry-point names."""
