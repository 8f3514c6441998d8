"""`[plugins.on-event]`: a command for every journal event."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from btw_core import Failed
from btw_core.command import ending, execute, last_said

#: Seconds for one event; a command that is slower loses events, nothing else.
LIMIT = 10.0


def tell(event: Mapping[str, Any], settings: Mapping[str, Any], limit: float = LIMIT) -> None:
    """Run `settings["command"]` with the event as one line of JSON on standard input. Blocks at most `limit` seconds
    and the time to kill. A failure is a line on standard error: it must not disturb what it reports about."""
    command = settings.get("command")
    if command is None:
        return
    words = command if isinstance(command, list) else [command]
    if not words or not all(isinstance(word, str) and word for word in words):
        _complain(f"command = {command!r}: allowed are a string or a list of strings, none empty")
        return
    line = json.dumps(dict(event), default=str, ensure_ascii=False) + "\n"
    try:
        done = execute(command, limit=limit, env=os.environ, input=line)
    except Failed as error:
        _complain(str(error))
        return
    if done.code != 0:
        _complain(f"{ending(done.code)}{last_said(done.output)}")


def _complain(text: str) -> None:
    print(f"btw: [plugins.on-event] {text}", file=sys.stderr, flush=True)
