"""`btw run`: keep packages running, in the foreground or in the background."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from .common import Given, fail, packages_argument, setup_options

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from ..settings import Setup

#: Seconds that a manager in the background may take until it answers: loading plugins, asking package scripts.
BEGIN = 60.0


@click.command
@packages_argument(required=True)
@click.option("-d", "--detach", is_flag=True, help="In the background; returns once the manager answers.")
@click.option("--kept", is_flag=True, hidden=True, help="Be the manager that a keeper looks after.")
@setup_options
def command(
    packages: tuple[str, ...],
    detach: bool,
    kept: bool,
    dir: str | None,
    node: str | None,
    lock: str | None,
    plugins: str | None,
) -> None:
    """Keep the packages PKG running on exactly one node: this one, or any other that runs them too.

    Shows the journal. Ctrl-C (INT), TERM and HUP halt the packages here, in order; once more says what it waits for.
    USR1 goes on with the btw that is installed now, without stopping anything.
    """
    given = Given(dir, node, lock, plugins).absolute()
    if detach:
        sys.exit(_detach(packages, given))
    setup = given.setup()
    if not kept:
        _become(setup, _keeper(setup, packages, given))
    import asyncio
    import json

    from ..kept import outdated
    from ..node import run_node
    from ..pulse import KEEPER

    keeper = json.loads(os.environ.pop(KEEPER))
    changed = outdated(keeper, _keeper(setup, packages, given))
    if changed:
        changed = f"btw.toml was changed, but its keeper does what it was started with: {changed}; to change that, halt"
        changed += " the packages and begin again (systemctl restart btw)"
    running = run_node(setup, packages, given.arguments(), screen=sys.stdout, keeper=keeper, unheeded=changed)
    sys.exit(asyncio.run(running))


def _keeper(setup: Setup, packages: tuple[str, ...], given: Given) -> list[str]:
    """The command of the keeper."""
    config, places = setup.config, setup.places
    words = [sys.executable, "-P", "-m", "btw_core.keeper"]
    words += ["--pulse", str(places.run / config.node / f"{packages[0]}.pulse"), "--node", config.node]
    words += ["--journal", str(places.state / config.node / "journal.jsonl"), "--self-fence", config.self_fence]
    if config.window:
        words += ["--watchdog", config.watchdog, "--window", str(config.window)]
    if config.priority:
        words += ["--priority", str(config.priority)]
    manager = [sys.executable, "-P", "-m", "btw_core.cli", "run", "--kept", *packages, *given.options()]
    return [*words, "--", *manager]


def _become(setup: Setup, keeper: list[str]) -> NoReturn:
    """From here on the standard library is enough. Raises ConfigError, OSError."""
    setup.places.ensure()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(keeper[0], keeper)


def _detach(packages: tuple[str, ...], given: Given) -> int:
    import subprocess

    setup = given.setup()
    setup.places.ensure()
    directory = setup.places.log / setup.config.node
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = directory / f"{packages[0]}.log"
    with log.open("ab") as file:
        begin = file.tell()
        process = subprocess.Popen(
            _keeper(setup, packages, given),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd="/",  # hold no file system that somebody may want to unmount
            start_new_session=True,
        )
    socket = setup.places.run / setup.config.node / f"{packages[0]}.sock"
    code = _wait(process, socket)
    if code is None:
        click.echo(f"btw run {' '.join(packages)}: pid {process.pid}, node {setup.config.node}, log {log}")
        return 0
    with log.open("rb") as file:
        file.seek(begin)
        click.echo(file.read(64 * 1024).decode(errors="replace"), err=True, nl=False)
    return code


def _wait(process: subprocess.Popen[bytes], socket: Path) -> int | None:
    """None: it answers. Else how it ended."""
    import time

    from ..control import NoAnswer, ask

    end = time.monotonic() + BEGIN
    while time.monotonic() < end:
        code = process.poll()
        if code is not None:
            return code if code > 0 else 1
        try:
            if next(ask(socket, {"command": "ping"}, 1.0), {}).get("keeper") == process.pid:
                return None
        except (NoAnswer, OSError):
            time.sleep(0.05)
    return fail(f"pid {process.pid} has not answered for {BEGIN:g} s; it goes on, see its log")
