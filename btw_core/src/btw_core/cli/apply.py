"""`btw apply`: take changed package files over, on this node, without touching what did not change."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from .common import Given, fail, setup_options
from .office import LOOK, Office, office

if TYPE_CHECKING:
    from ..config import Package
    from ..settings import Setup

#: Seconds until another manager has loaded everything.
LIMIT = 60.0
_Digests = dict[str, dict[str, str]]


@click.command
@click.option("--preview", is_flag=True, help="Only show the difference.")
@setup_options
def command(preview: bool, given: Given) -> None:
    """Show what changed in the package files since this node's daemon read them, resource by resource, then have it
    read them again. What runs goes on: no start, no stop. Then compares what every node has.

    Refused while a package whose resources changed, or that was removed, is up here: halt it first. Exit code 1:
    refused, or the nodes' configurations differ.
    """
    setup = given.setup()
    there = office(setup)
    if there.node != setup.config.node:
        fail(f"the daemon that answers here is that of {there.node}: btw apply --node {there.node}")
    packages = _read(setup)
    had = there.digests.get(there.node, {})
    have = {each.name: each.digests() for each in packages if not each.refused_on(setup.config.node)}
    lines, refused = _difference(there, had, have)
    click.echo("\n".join(lines) or "nothing changed")
    if refused:
        fail("not applied:\n  " + "\n  ".join(refused))
    if (lines or there.problems) and not preview:  # what it had found wrong is to be looked at once more
        new = _new(there, packages)
        there.ask("reload")
        _wait(there)
        now = there.digests.get(there.node, {})
        without = [name for name in {**have, **now} if have.get(name) != now.get(name)]
        if without:
            fail(f"applied on {there.node}, but not {', '.join(without)}: btw status says why")
        click.echo(f"applied on {there.node}")
        for name in new:
            words = "is new: on a store of several computers it starts when the longest lease has passed"
            click.echo(f"{name} {words}; at once, if you are sure that it runs nowhere: btw unlock {name} --confirmed")
    sys.exit(1 if _compare(there, have) else 0)


def _read(setup: Setup) -> list[Package]:
    """Leaves with exit code 78 when anything is wrong with any."""
    from ..checks import check
    from ..config import load_together
    from ..plugins import Plugins
    from ..resource import ConfigError

    plugins = Plugins(setup.restrict)
    errors = [each for each in check(setup, plugins).problems if each.severity == "error"]
    if errors:
        raise ConfigError(errors)
    return load_together(setup.config, setup.places, plugins)[0]


def _difference(there: Office, had: _Digests, have: _Digests) -> tuple[list[str], list[str]]:
    """A line for each thing that changed, and why it cannot be taken over now."""
    lines, refused = [], []
    for name in sorted({*had, *have}):
        old, new = had.get(name), have.get(name)
        at = there.view.packages[name].at if name in there.view.packages else {}
        up = there.node in at
        if old == new:
            continue
        if old is None or new is None:
            lines.append(f"{'+' if old is None else '-'} package {name}")
            if new is None and up:
                refused.append(f"{name} is removed, but {at[there.node]} here: btw stop {name}, or btw move {name}")
            continue
        lines.append(f"~ package {name}")
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        for key in changed:
            sign = "+" if key not in old else "-" if key not in new else "~"
            lines.append(f"  {sign} {f'resource {key}' if key else '[package], [[dependency]]'}")
        if up and any(changed):
            touched = ", ".join(key for key in changed if key)
            refused.append(
                f"{name} is {at[there.node]} here, and {touched} changed: btw stop {name}, apply, btw start {name}"
            )
    return lines, refused


def _new(there: Office, packages: list[Package]) -> list[str]:
    """What no node has had. Its lock has no record, which looks just like one that was lost."""
    known = {name for digests in there.digests.values() for name in digests}
    mine = (each for each in packages if not each.refused_on(there.node) and not each.spec.instance)
    return [each.name for each in mine if each.name not in known]


def _wait(there: Office) -> None:
    """Until another manager has loaded everything."""
    end, before = time.monotonic() + LIMIT, there.life
    while time.monotonic() < end:
        there.look()
        if there.life != before:
            return
        time.sleep(LOOK)
    fail(f"the daemon has not taken it over within {LIMIT:g} s: see btw events")


def _compare(there: Office, have: _Digests) -> bool:
    """Every node's configuration against this one's. True: they differ."""
    differ = False
    for other, digests in sorted(there.digests.items()):
        if other == there.node:
            continue
        for name in sorted(have.keys() & digests.keys()):
            changed = [
                key or "[package]"
                for key in {**have[name], **digests[name]}
                if have[name].get(key) != digests[name].get(key)
            ]
            if changed:
                differ = True
                click.echo(f"{other} has another {name}: {', '.join(changed)}; copy the file there, then: btw apply")
        for name in sorted(have.keys() - digests.keys()):
            nodes = there.view.nodes_of(there.view.packages[name]) if name in there.view.packages else ()
            if other in nodes:
                differ = True
                click.echo(f"{other} does not have {name}: copy the file there, then: btw apply")
    return differ
