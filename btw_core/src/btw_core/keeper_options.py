"""The command line of a keeper. Standard library only."""

from __future__ import annotations

import argparse
from pathlib import Path

from .cutoff import KMSG, SYSRQ


def options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="btw_core.keeper", description="Look after the manager COMMAND.")
    parser.add_argument("--inherit", type=lambda text: tuple(map(int, text.split(","))), help=argparse.SUPPRESS)
    parser.add_argument("--pulse", type=Path, required=True, help="RUN/NODE/SLOT.pulse")
    parser.add_argument("--node", required=True)
    parser.add_argument("--journal", type=Path, required=True, help="STATE/NODE/journal.jsonl")
    parser.add_argument("--self-fence", choices=("none", "stop", "reboot", "watchdog"), default="none")
    parser.add_argument("--watchdog", type=Path, help="device")
    parser.add_argument("--window", type=float, default=0.0, help="W at most, seconds; 0: no watchdog")
    parser.add_argument("--sysrq", type=Path, default=SYSRQ, help="what reboots the node when b is written to it")
    parser.add_argument("--kmsg", type=Path, default=KMSG, help="where is written why")
    parser.add_argument("--priority", type=int, default=0, help="real-time priority; 0: none")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    found = parser.parse_args(arguments)
    found.command = found.command[1:] if found.command[:1] == ["--"] else found.command
    return found
