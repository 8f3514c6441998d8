"""`btw events`: the journals of all nodes of this computer, in the order of time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from .common import dir_option, json_option, packages_argument

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command
@packages_argument(required=False)
@click.option("--node", metavar="NODE", help="Only of this node.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option("--since", metavar="TIME", help="Only since: 10m, 2h, 3d ago, or a date and time (2026-01-31T12:00).")
@dir_option
@json_option
def command(
    packages: tuple[str, ...], node: str | None, follow: bool, since: str | None, dir: str | None, as_json: bool
) -> None:
    """Show what happened to the packages PKG (to all without PKG), each decision with its cause."""
    from ..journal import human
    from ..places import places

    begin = _instant(since) if since else None
    tail = Tail(places(dir).state, node)
    silent = set(packages)
    while True:
        for event in tail.read():
            if packages and event.get("package") not in packages:
                continue
            silent.discard(event.get("package"))
            if begin is None or datetime.fromisoformat(event["at"]) >= begin:
                click.echo(json.dumps(event, ensure_ascii=False) if as_json else human(event))
        if not follow:
            for name in sorted(silent):
                click.echo(f"btw: the journals here have no line about {name}", err=True)
            return
        time.sleep(0.1)


class Tail:
    """Reads what was added to the journals of every node below `state`, again and again."""

    def __init__(self, state: Path, node: str | None = None) -> None:
        self._state, self._node = state, node
        self._positions: dict[tuple[int, int], int] = {}  # device and inode: a journal keeps them when it is renamed

    def read(self) -> list[dict[str, Any]]:
        """New events, by time. Blocks on the disk."""
        events = []
        for name in ("journal.jsonl.1", "journal.jsonl"):
            for file in self._state.glob(f"{self._node or '*'}/{name}"):
                events += list(self._new(file))
        return sorted(events, key=lambda event: datetime.fromisoformat(event["at"]))

    def _new(self, file: Path) -> Iterator[dict[str, Any]]:
        import os

        from ..journal import parse

        try:
            reader = file.open("rb")
        except FileNotFoundError:  # it is being rotated
            return
        with reader:
            seen = os.fstat(reader.fileno())
            key = (seen.st_dev, seen.st_ino)
            reader.seek(self._positions.get(key, 0))
            for line in reader:
                if not line.endswith(b"\n"):
                    break  # being written
                self._positions[key] = self._positions.get(key, 0) + len(line)
                event = parse(line)
                if event is not None and "at" in event:
                    yield event


def _instant(since: str) -> datetime:
    now = datetime.now().astimezone()
    if since[:-1].isdecimal() and since[-1:] in _UNITS:
        return now - timedelta(seconds=int(since[:-1]) * _UNITS[since[-1]])
    try:
        return datetime.fromisoformat(since).astimezone()
    except ValueError:
        text = f"found {since}, allowed: a number with s, m, h or d, or a date and time such as {now:%Y-%m-%dT%H:%M}"
        raise click.BadParameter(text, param_hint="--since") from None
