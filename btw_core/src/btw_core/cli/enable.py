"""`btw enable`: switch a package on again, in the cluster or for a `btw run` of this node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from ..exits import BUSY, CONFIGURATION, USAGE
from .common import PATIENCE, Given, fail, packages_argument, setup_options
from .office import Office, explain, offices, play, preview_option, why_option

if TYPE_CHECKING:
    from ..settings import Setup


@click.command
@packages_argument(required=True, several=False)
@click.option("--on", "on", metavar="NODE", multiple=True, help="Node switching of this node; several may be given.")
@preview_option
@why_option
@setup_options
def command(package: str, on: tuple[str, ...], preview: bool, why: str, given: Given) -> None:
    """Switch auto_run of PKG on; with --on let these nodes run it again. What is idle starts.

    Where no daemon runs: let this node (or --node) run it again after `critical` switched it off here.
    """
    setup = given.setup()
    there = offices(setup.places, given.node)
    if there and there[0].has(package):
        _cluster(there[0], package, on, preview, why)
        return
    if on or preview:
        fail("no daemon answers here that knows it; without one: btw enable PKG --node NODE, on its computer", USAGE)
    node = setup.config.node
    if _ask(setup, package):
        click.echo(f"{package} is enabled on {node}; its manager tries for the lock again")
        return
    changed = _edit_memory(setup, package) | _edit_record(setup, package)
    click.echo(f"{package} is enabled on {node}" if changed else f"{package} was not switched off on {node}")


def _cluster(there: Office, package: str, on: tuple[str, ...], preview: bool, why: str) -> None:
    view = there.package(package)
    words = [f"enable {package} on {each}" for each in on]
    if not on or not (view.at or view.automatic.on):  # enabling an idle package on its nodes starts it
        words.append(f"enable {package}")
    for each in words:
        if preview:
            play(there.view, each)
        else:
            there.ask("ask", words=each, why=why)
    if not preview:
        there.look()
        explain(there, package)


def _ask(setup: Setup, package: str) -> bool:
    """Through the manager; False when none of this node has the package."""
    import os

    from ..control import ask
    from .common import managers

    for path, answer in managers(setup.places, setup.config.node)[0]:
        if any(each["package"] == package for each in answer["packages"]):
            cause = f"btw enable (pid {os.getpid()}, uid {os.getuid()})"
            next(ask(path, {"command": "enable", "package": package, "cause": cause}, PATIENCE), None)
            return True
    return False


def _edit_memory(setup: Setup, package: str) -> bool:
    """Under the lock that a manager would hold. Leaves with exit code 75 when one does."""
    from ..disk import Busy, FileDisk

    disk = FileDisk(setup.places.state / setup.config.node)
    try:
        if not (disk.directory / f"{package}.json").exists():
            return False
        disk.lock(package)
        saved = disk.load(package)
        if saved is None or not saved.off:
            return False
        disk.save(package, msgspec.structs.replace(saved, off=""))
        return True
    except Busy as error:
        fail(f"{error}; it does not answer on its control socket", BUSY)
    except ValueError as error:
        fail(str(error), CONFIGURATION)
    finally:
        disk.close()


def _edit_record(setup: Setup, package: str) -> bool:
    from ..lease import switched_on
    from .records import change

    before, after = change(setup, package, lambda record: record and switched_on(record, setup.config.node))
    return before != after
