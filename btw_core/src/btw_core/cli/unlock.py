"""`btw unlock`: free the lock of a package, on a person's word that it is down everywhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..exits import BUSY
from .common import Given, fail, managers, packages_argument, setup_options
from .records import change

if TYPE_CHECKING:
    from ..lease import PackageRecord


@click.command
@packages_argument(required=True, several=False)
@click.option("--confirmed", is_flag=True, help="I made sure that it is down on every node.")
@setup_options
def command(package: str, confirmed: bool, given: Given) -> None:
    """Free the lock of PKG at once, whoever holds it, and forgive what is not known of former holders.

    Only when you made sure that PKG is down on every node: otherwise it will run twice. Without --confirmed it says
    who holds the lock, and changes nothing (exit code 1).
    """
    from ..config import load_package
    from ..lease import first, unlocked
    from ..plugins import Plugins

    setup = given.setup()
    if not confirmed:
        before, _ = change(setup, package, lambda record: record)
        click.echo(_explain(package, before))
        sys.exit(1)
    cause = "btw unlock --confirmed"
    found, troubles = managers(setup.places)
    if troubles:  # frozen, it may hold this very package, and goes on when it is let
        fail(f"{troubles[0]}: it may have {package} up; end it before (kill -9 its pid), then unlock", BUSY)
    running = [a["node"] for _, a in found for p in a["packages"] if _active(p, package)]
    if running:
        remedy = f"btw stop {package} --node {running[0]}"
        click.echo(f"btw: {package} is active on {running[0]} on this computer: {remedy}", err=True)
        sys.exit(BUSY)
    before, _ = change(setup, package, lambda record: unlocked(record, cause) if record else None)
    if before is None:
        lease = load_package(package, setup.config, setup.places, Plugins(setup.restrict)).spec.timing.lease
        _, after = change(setup, package, lambda record: unlocked(record or first(lease, cause), cause))
        if after is None:
            fail(f"there is no cluster in {setup.lock}, so no lock to free: btw run {package} just starts")
    click.echo(f"{package} is free: the next node that tries for it starts it")


def _active(said: dict[str, object], package: str) -> bool:
    return said["package"] == package and said["role"] == "active"


def _explain(package: str, record: PackageRecord | None) -> str:
    if record is None:
        state = "has no record in the lock store: it was never run in this cluster, or its record was lost"
    elif record.released or record.holder is None:
        state = f"is free already (last term {record.term}: {record.cause})"
    else:
        state = f"is held by {record.holder.node} (pid {record.holder.pid}), term {record.term}: {record.cause}"
    lines = [f"{package} {state}."]
    if record is not None and record.unfenced:
        nodes = ", ".join(sorted({debt.node for debt in record.unfenced}))
        lines.append(f"Not known to be down: {nodes}.")
    lines.append(
        f"Nothing was changed. If you made sure that {package} is down on every node: btw unlock {package} --confirmed"
    )
    return "\n".join(lines)
