"""Becoming the keeper of a manager, in the foreground or in the background: what `btw run` and `btw daemon` share."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

from .common import Given, fail, log_file

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from ..settings import Setup

#: Seconds that a manager in the background may take until it answers: loading plugins, asking package scripts.
BEGIN = 60.0


def keeper(setup: Setup, slot: str, manager: Sequence[str]) -> list[str]:
    """The command of the keeper of `btw MANAGER...`."""
    config, places = setup.config, setup.places
    words = [sys.executable, "-P", "-m", "btw_core.keeper"]
    words += ["--pulse", str(places.run / config.node / f"{slot}.pulse"), "--node", config.node]
    words += ["--journal", str(places.state / config.node / "journal.jsonl"), "--self-fence", config.self_fence]
    if config.window:
        words += ["--watchdog", config.watchdog, "--window", str(config.window)]
    if config.priority:
        words += ["--priority", str(config.priority)]
    return [*words, "--", sys.executable, "-P", "-m", "btw_core.cli", *manager]


def become(setup: Setup, command: list[str]) -> NoReturn:
    """From here on the standard library is enough. Raises ConfigError, OSError."""
    setup.places.ensure()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(command[0], command)


def manage(given: Given, packages: Sequence[str], slot: str, manager: Sequence[str], screen: TextIO) -> int:
    """Be the manager that a keeper with its command in the environment looks after; no packages: a daemon. Returns
    the exit code. Raises ConfigError, OSError."""
    import asyncio
    import json
    from pathlib import Path

    from ..exits import LEFT
    from ..kept import outdated
    from ..node import Node
    from ..pulse import KEEPER
    from ..settled import forget, settled

    kept = json.loads(os.environ.pop(KEEPER))
    pulse = Path(kept[kept.index("--pulse") + 1])
    copy, unheeded = settled(pulse, given.dir, given.node, given.lock)
    given = given._replace(copy=str(copy) if copy else None)
    setup = given.setup()
    changed = outdated(kept, keeper(setup, slot, manager))
    if changed:
        unheeded = f"btw.toml was changed, but its keeper does what it was started with: {changed}; to change that,"
        unheeded += " halt the packages and begin again (systemctl restart btw)"
    node = Node(setup, packages, given.arguments(), screen=screen, keeper=kept, unheeded=unheeded)
    code = asyncio.run(node.run())
    forget(pulse, replaced=code == LEFT)
    return code


def detach(setup: Setup, slot: str, command: list[str], name: str) -> int:
    """In the background; returns once the manager answers. `name`: what to call it."""
    import subprocess

    setup.places.ensure()
    log = log_file(setup.places, setup.config.node, slot)
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("ab") as file:
        begin = file.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd="/",  # hold no file system that somebody may want to unmount
            start_new_session=True,
        )
    code = _wait(process, setup.places.run / setup.config.node / f"{slot}.sock")
    if code is None:
        click.echo(f"btw {name}: pid {process.pid}, node {setup.config.node}, log {log}")
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
