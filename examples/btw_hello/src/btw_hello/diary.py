"""Extension `hello-diary`: changes of state, `[plugins.hello-diary] diary = "/var/log/hello"`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def write(event: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Called for every event of the journal, in order, outside everything that decides."""
    file = settings.get("diary")
    if file is None or event["event"] != "transition" or event["before"] == event["state"]:
        return
    with open(file, "a") as diary:
        diary.write(f"{event['at']} {event['node']} {event['package']}: {event['before']} -> {event['state']}\n")
