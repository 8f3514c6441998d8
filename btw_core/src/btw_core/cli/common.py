"""What the commands share: where things are, and completing the names of packages."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from ..control import Answer
    from ..places import Places
    from ..settings import Setup
    from ..store import Record

F = TypeVar("F", bound=Callable[..., Any])
#: Seconds for one question to a manager, and to the store.
PATIENCE = 3.0

dir_option = click.option("--dir", metavar="DIR", help="Everything below DIR instead of the system's places.")
node_option = click.option("--node", metavar="NODE", help="Name of this node.")
lock_option = click.option("--lock", metavar="SCHEME:REST", help="The store, instead of the one in btw.toml.")
plugins_option = click.option("--plugins", metavar="NAMES", help="Allow only these resource plugins, such as vip,fs.")
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


class Given(NamedTuple):
    """The options as they were given; None = not."""

    dir: str | None = None
    node: str | None = None
    lock: str | None = None
    plugins: str | None = None
    copy: str | None = None  # of btw.toml, to be read instead: no option

    def setup(self) -> Setup:
        """Raises ConfigError."""
        from ..settings import load_setup

        return load_setup(*self)

    def absolute(self) -> Given:
        """The same for a process with another working directory."""
        scheme, _, rest = (self.lock or "").partition(":")
        lock = f"local:{Path(rest).absolute()}" if scheme == "local" and rest else self.lock
        return self._replace(dir=self.dir and str(Path(self.dir).absolute()), lock=lock)

    def arguments(self) -> list[str]:
        """For the zygote: "" = not given."""
        return [each or "" for each in self]

    def options(self) -> list[str]:
        """For another btw."""
        words = {key: value for key, value in self._replace(copy=None)._asdict().items() if value is not None}
        return [word for key, value in words.items() for word in (f"--{key}", value)]


def setup_options(function: Callable[..., None]) -> Callable[..., None]:
    """--dir, --node, --lock, --plugins, which the command gets as one, `given`."""

    @functools.wraps(function)
    def command(dir: str | None, node: str | None, lock: str | None, plugins: str | None, **others: Any) -> None:
        function(given=Given(dir, node, lock, plugins), **others)

    for option in (plugins_option, lock_option, node_option, dir_option):
        command = option(command)
    return command


def packages_argument(*, required: bool, several: bool = True) -> Callable[[F], F]:
    """PKG..., completed by the shell."""
    metavar = "PKG" + ("..." if several else "")
    return click.argument(
        "packages" if several else "package",
        metavar=metavar if required else f"[{metavar}]",
        nargs=-1 if several else 1,
        required=required,
        callback=_named,
        shell_complete=complete_package,
    )


def _named(_ctx: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """The names as given. Raises UsageError before one that is none becomes part of a path."""
    from ..settings import NAME, NAME_RULE

    for name in (value,) if isinstance(value, str) else value or ():
        if not NAME.fullmatch(name):
            raise click.UsageError(f'package name: found "{name}", allowed: {NAME_RULE}')
    return value


def complete_package(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from ..places import places
    from ..resource import ConfigError

    try:
        names = package_names(places(ctx.params.get("dir")))
    except ConfigError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def package_names(places: Places) -> list[str]:
    """Packages by the look of their files: NAME.toml, or something that may be executed. Nothing is run."""
    names = []
    try:
        for file in places.packages.iterdir():
            fit = file.suffix == ".toml" or os.access(file, os.X_OK)
            if fit and file.is_file() and not file.name.startswith("."):
                names.append(file.name.removesuffix(".toml"))
    except OSError:
        return []
    return sorted(set(names))


def managers(places: Places, node: str | None = None) -> tuple[list[tuple[Path, Answer]], list[str]]:
    """(socket, its status) of every manager on this computer that answers, and what is wrong with the others. What a
    dead manager left is passed over, but while its keeper lives another one is waited for. Blocks at most PATIENCE
    seconds for each that hangs."""
    from ..control import NoAnswer, ask, sockets

    found, troubles = [], closed(places.run)
    end = time.monotonic() + PATIENCE
    paths = sorted({*sockets(places.run, node), *kept(places.run, node)})
    while paths:
        path = paths.pop(0)
        try:
            answer = next(ask(path, {"command": "status"}, PATIENCE), None)
        except (NoAnswer, ValueError) as error:
            if path in kept(places.run, node) and time.monotonic() < end:
                paths.append(path)
                time.sleep(0.05)
            elif path in kept(places.run, node):
                log = log_file(places, path.parent.name, path.stem)
                why = f"tail {log}" if log.exists() else "journalctl -u btw"
                troubles.append(f"{path.parent.name}: its keeper lives, its manager does not answer; why: {why}")
            elif not isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
                troubles.append(str(error))
            continue
        if answer is not None:
            found.append((path, answer))
    return found, troubles


def log_file(places: Places, node: str, slot: str) -> Path:
    """What a manager in the background prints."""
    return places.log / node / f"{slot.removeprefix('@')}.log"


def closed(run: Path) -> list[str]:
    """Nodes whose managers this user may not even see."""
    try:
        there = [path for path in sorted(run.iterdir()) if not os.access(path, os.R_OK | os.X_OK)]
    except FileNotFoundError:
        return []
    except OSError:
        there = [run]
    who = f"user {os.geteuid()} may not look into it: be root, or a member of the group btw"
    return [f"{path}: {who}" for path in there]


def kept(run: Path, node: str | None = None) -> list[Path]:
    """Where the managers answer, or will, whose keepers live."""
    from ..clock import boot_id, boottime
    from ..pulse import STALE, Pulse

    found = []
    for path in sorted(run.glob(f"{node or '*'}/*.pulse")):
        try:
            pulse = Pulse.look(path, boot_id())
            keeper = pulse.keeper()
            pulse.close()
        except (OSError, ValueError):
            continue
        if keeper is not None and boottime() - keeper.beat <= STALE:
            found.append(path.with_suffix(".sock"))
    return found


def read_store(setup: Setup) -> tuple[list[Record] | None, str]:
    """All records, or None and why they cannot be read; an embedded store that does not exist has none. Blocks for
    some seconds. Raises ConfigError."""
    from ..plugins import open_store
    from ..store import StoreUnavailable

    scheme, _, rest = setup.lock.partition(":")
    if scheme == "local" and not Path(rest).exists():
        return [], ""
    try:
        store = open_store(setup.lock, setup.config.plugins)
    except StoreUnavailable as error:
        return None, str(error)
    try:
        return store.list("", deadline=PATIENCE), ""
    except StoreUnavailable as error:
        return None, str(error)
    finally:
        store.close()


def table(rows: list[list[str]]) -> str:
    """Left-aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def seconds(amount: float) -> str:
    """ "3 s", "5 min", "2 h", "4 d"."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if amount >= size:
            return f"{amount / size:.0f} {unit}"
    return f"{amount:.0f} s"


def fail(text: str, code: int = 1) -> NoReturn:
    """Say it and leave."""
    click.echo(f"btw: {text}", err=True)
    sys.exit(code)
