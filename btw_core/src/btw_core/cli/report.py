"""`btw report`: everything that somebody needs who is to find out what happened, in one archive."""

from __future__ import annotations

import contextlib
import io
import json
import platform
import re
import subprocess
import sys
import tarfile
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import __version__
from .common import PATIENCE, Given, fail, managers, read_store, setup_options
from .office import offices

if TYPE_CHECKING:
    from ..settings import Setup

#: Bytes of the end of each journal and log.
TAIL = 4 * 1024 * 1024
_WORD = r"[\w.-]*(?:pass|secret|token|cred|private|api_?key|\bkey\b)[\w.-]*"
#: A key that is called after a secret, wherever it stands, and what it is set to: several lines, quoted, or one word.
_SECRET = re.compile(
    rf"""(?is)({_WORD}["']?\s*[=:]\s*)(\"{{3}}.*?\"{{3}}|'{{3}}.*?'{{3}}|"(?:\\.|[^"\\])*"|'[^']*'|[^\s,;"'}}\])]+)"""
)
_ADDRESS = re.compile(r"//[^/@\s]*@")


@click.command
@click.option("-o", "--output", "file", metavar="FILE", help="Default: btw-report-NODE-TIME.tar.gz here.")
@setup_options
def command(file: str | None, given: Given) -> None:
    """Pack configuration, journals, logs, status of the managers here, the cluster's picture and the store's records
    into one archive, for a ticket. Passwords and keys are left out.
    """
    setup = given.setup()
    target = Path(file or f"btw-report-{setup.config.node}-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    parts: dict[str, str | bytes] = {}
    for name, make in _PARTS.items():
        try:
            parts |= make(setup)
        except Exception as error:  # noqa: BLE001 - what can be had is packed whatever is broken: that is what it is for
            parts[f"{name}.failed.txt"] = f"{type(error).__name__}: {error}\n"
    try:
        with tarfile.open(target, "w:gz") as archive:
            for name, content in sorted(parts.items()):
                data = content if isinstance(content, bytes) else content.encode()
                info = tarfile.TarInfo(f"btw-report/{name}")
                info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
                archive.addfile(info, io.BytesIO(data))
        target.chmod(0o600)
    except OSError as error:
        fail(f"{target}: {error.strerror}")
    click.echo(f"{target}: {', '.join(sorted(parts))}")


def redacted(text: str) -> str:
    """Without what follows a key that is called after a secret, and without users in addresses."""
    return _ADDRESS.sub("//(left out)@", _SECRET.sub(r"\1(left out)", text))


def _versions(setup: Setup) -> dict[str, str | bytes]:
    from importlib.metadata import distributions

    found = sorted(
        {f"{d.metadata['Name']} {d.version}" for d in distributions() if (d.metadata["Name"] or "").startswith("btw")}
    )
    lines = [f"btw {__version__}", f"python {sys.version}", platform.platform(), f"node {setup.config.node}", *found]
    return {"versions.txt": "\n".join(lines) + "\n"}


def _configuration(setup: Setup) -> dict[str, str | bytes]:
    files = [setup.places.config, *sorted(setup.places.packages.glob("*"))]
    texts = ((each, each.read_text(errors="replace")) for each in files if each.is_file())
    return {f"config/{each.name}": redacted(text) for each, text in texts}


def _journals(setup: Setup) -> dict[str, str | bytes]:
    found: dict[str, str | bytes] = {}
    files = [*setup.places.state.glob("*/journal.jsonl*"), *setup.places.log.glob("*/*.log")]
    for each in dict.fromkeys(files):
        found[f"journals/{each.parent.name}/{each.name}"] = _end(each)
    return found


def _logs(setup: Setup) -> dict[str, str | bytes]:
    """Those that package files name."""
    found: dict[str, str | bytes] = {}
    for file in sorted(setup.places.packages.glob("*.toml")):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # none, or the file is broken
            log = Path(tomllib.loads(file.read_text())["package"]["log"])
            found |= {f"logs/{file.stem}.log": _end(log)} if log.is_file() else {}
    return found


def _end(file: Path) -> str:
    with file.open("rb") as reader:
        reader.seek(max(0, file.stat().st_size - TAIL))
        return redacted(reader.read().decode(errors="replace"))


def _status(setup: Setup) -> dict[str, str | bytes]:
    found, troubles = managers(setup.places)
    said = {"managers": [answer for _, answer in found], "troubles": troubles}
    pictures = {each.node: each.raw for each in offices(setup.places, None, PATIENCE)}
    return {
        "status.json": redacted(json.dumps(said, indent=2, default=str)),
        "cluster.json": redacted(json.dumps(pictures, indent=2, default=str)),
    }


def _records(setup: Setup) -> dict[str, str | bytes]:
    records, trouble = read_store(setup)
    lines = [f"{each.key} {each.revision} {each.value.decode(errors='replace')}" for each in records or []]
    return {"store.txt": redacted("\n".join([*([trouble] if trouble else []), *lines]) + "\n")}


def _system(setup: Setup) -> dict[str, str | bytes]:
    found: dict[str, str | bytes] = {}
    for name in ("mountinfo", "net/dev", "loadavg", "meminfo", "uptime"):
        found[f"system/{name.replace('/', '-')}.txt"] = Path(
            "/proc/self" if name == "mountinfo" else "/proc", name
        ).read_text(errors="replace")
    for name, words in {
        "address": ["ip", "address"],
        "processes": ["ps", "-eo", "pid,ppid,stat,wchan:32,lstart,comm"],
    }.items():
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=10, check=False)
        found[f"system/{name}.txt"] = done.stdout
    return found


_PARTS = {
    "versions": _versions,
    "config": _configuration,
    "journals": _journals,
    "logs": _logs,
    "status": _status,
    "store": _records,
    "system": _system,
}
