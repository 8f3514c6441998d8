"""The btw.toml that a manager and its zygote go by: a copy, RUN/NODE/SLOT.toml, made while nothing is up here.

What is edited later, or broken, must not meet whoever takes the place of a dead one, who could not go on with what is
up. The package files of a daemon have `applied` for that.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .clock import boot_id
from .places import places
from .pulse import Pulse
from .resource import ConfigError
from .settings import load_setup


def settled(pulse: Path, dir: str | None, node: str | None, lock: str | None) -> tuple[Path | None, str]:
    """The copy beside `pulse`, made anew unless something is up (None: it cannot be written, so the file counts); and
    what of btw.toml is not heeded, with the remedy. Blocks on the disk. Raises ConfigError."""
    file, copy = places(dir).config, _copy(pulse)
    text = _read(file) or b""  # a missing one is all defaults; what else is wrong with it is found below
    former = _read(copy) if _up(pulse) else None
    if former is not None:
        with contextlib.suppress(ConfigError):  # the btw that is installed now does not take the old one any more
            load_setup(dir, node, lock, copy=str(copy))
            return copy, _unheeded(file, text != former, dir, node, lock)
    load_setup(dir, node, lock)
    try:
        descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:  # it may hold passwords
            stream.write(text)
    except OSError:
        copy.unlink(missing_ok=True)
        return None, ""
    return copy, ""


def _unheeded(file: Path, changed: bool, dir: str | None, node: str | None, lock: str | None) -> str:
    if not changed:
        return ""
    try:
        load_setup(dir, node, lock)
    except ConfigError as error:
        why = f"{error.problems[0]}; when it is mended"
    else:
        why = f"{file} was changed; to have it taken over"
    what = "goes on with btw.toml as it was when nothing was up here"
    return f"{what}: {why}: systemctl reload btw, or kill -USR1 of the keeper"


def forget(pulse: Path, *, replaced: bool) -> None:
    """The manager ends: whoever comes next takes btw.toml as it is then, where this one made room for it in order
    (`replaced`) or left nothing up."""
    if replaced or not _up(pulse):
        _copy(pulse).unlink(missing_ok=True)


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _copy(pulse: Path) -> Path:
    return pulse.with_suffix(".toml")


def _up(pulse: Path) -> bool:
    """Something may be up here, by what a manager said last."""
    try:
        look = Pulse.look(pulse, boot_id())
    except (OSError, ValueError):
        return False
    half = look.manager()
    look.close()
    return half is not None and bool(half.leases)
