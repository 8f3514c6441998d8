"""Where things are: pure computation of paths, and one call that makes the directories."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .resource import ConfigError, Problem


@dataclass(frozen=True, kw_only=True)
class Places:
    """The paths of one installation. `state`, `run` and `log` hold one directory per node."""

    config: Path  # btw.toml
    packages: Path  # directory of package files
    state: Path  # state/NODE/PKG.json, state/NODE/journal.jsonl
    run: Path  # run/NODE/SLOT.sock
    log: Path  # log/NODE/PKG.log of `run -d`
    local_lock: Path  # the embedded store

    def ensure(self, *, packages: bool = True) -> None:
        """Make the directories that are missing. Blocks on the disk; may be repeated. Raises ConfigError when one
        cannot be made, is not writable, or (in /tmp, where anybody may have made it) belongs to somebody else. A
        manager can do without that of the `packages`: what is up it knows."""
        problems = [*_make(self.packages, 0o755)] if packages else []
        for directory in dict.fromkeys((self.state, self.run, self.log)):
            problems += _make(directory, 0o700) or _usable(directory)
        if problems:
            raise ConfigError(problems)


def places(directory: str | None = None, *, env: Mapping[str, str] | None = None, uid: int | None = None) -> Places:
    """All below `directory` (or BTW_DIR); else the system's places for root, the XDG base directories for others.
    Looks at nothing but the environment. Raises ConfigError for a user without a home directory."""
    env = os.environ if env is None else env
    uid = os.geteuid() if uid is None else uid
    if directory := directory or env.get("BTW_DIR"):
        top = Path(directory).absolute()
        return _below(top, state=top / "state", run=top / "run", log=top / "log")
    if uid == 0:
        return _below(Path("/etc/btw"), state=Path("/var/lib/btw"), run=Path("/run/btw"), log=Path("/var/log/btw"))
    try:
        home = Path(env.get("HOME") or Path.home())
    except RuntimeError:  # neither HOME nor an entry in passwd(5)
        text = f"user {uid} has no home directory"
        raise ConfigError([Problem(text=text, remedy="set HOME, or choose a place with --dir")]) from None
    state = _xdg(env, "XDG_STATE_HOME", home / ".local/state") / "btw"
    runtime = env.get("XDG_RUNTIME_DIR", "")
    run = Path(runtime) / "btw" if runtime.startswith("/") else Path(f"/tmp/btw-{uid}")
    # logs lie beside the state of their node: a directory "log" there would collide with a node of that name
    return _below(_xdg(env, "XDG_CONFIG_HOME", home / ".config") / "btw", state=state, run=run, log=state)


def _below(config: Path, *, state: Path, run: Path, log: Path) -> Places:
    return Places(
        config=config / "btw.toml",
        packages=config / "packages",
        state=state,
        run=run,
        log=log,
        local_lock=state / "local.db",
    )


def _xdg(env: Mapping[str, str], name: str, default: Path) -> Path:
    """A relative path is to be ignored (XDG Base Directory Specification, "Environment variables")."""
    value = env.get(name, "")
    return Path(value) if value.startswith("/") else default


def _make(directory: Path, mode: int) -> list[Problem]:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode, exist_ok=True)
    except FileExistsError:
        return [Problem(text="is in the way: it is not a directory", remedy="move it", file=str(directory))]
    except OSError as error:
        remedy = "choose another place with --dir, or run as its owner"
        return [Problem(text=f"directory cannot be made: {error.strerror}", remedy=remedy, file=str(directory))]
    return []


def _usable(directory: Path) -> list[Problem]:
    if directory.parent == Path("/tmp"):  # a guessable name where everybody may write: symlink(7) "sticky"
        seen = directory.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o077:
            text = f"is a {stat.filemode(seen.st_mode)} of user {seen.st_uid}, not a directory of ours with mode 0700"
            return [Problem(text=text, remedy="remove it, or set XDG_RUNTIME_DIR", file=str(directory))]
    if not os.access(directory, os.W_OK | os.X_OK):
        text = f"directory is not writable by user {os.geteuid()}"
        return [Problem(text=text, remedy="run as its owner, or choose another place with --dir", file=str(directory))]
    return []
