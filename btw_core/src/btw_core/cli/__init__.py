"""The command line. `main` imports click and nothing else; each command is a module, imported when it is called."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from .. import __version__
from ..exits import CONFIGURATION, DEFECT, DONE, FAILED, INTERRUPTED, UNAVAILABLE, USAGE

#: Command -> what `btw --help` says, so that it need not import the module (`try` is a word of Python's: try_.py).
COMMANDS = {
    "run": "Keep packages running on exactly one node.",
    "daemon": "Run all packages of this node, together with the other nodes.",
    "start": "Run packages, where their rules say or on a named node.",
    "move": "Move a package to another node.",
    "why": "Say what decides where a package runs, and what changes it.",
    "try": "Start, stop or look at a package once, by hand.",
    "status": "Show what runs here, and what needs a person.",
    "stop": "Halt packages.",
    "events": "Show the journal: every decision with its cause.",
    "check": "Report everything that is wrong with the configuration.",
    "apply": "Take changed package files over, while everything runs.",
    "report": "Pack what a ticket needs into one archive.",
    "simulate": "Show what would happen in a cluster, and why.",
    "plugin": "Show what is installed; begin and check plugins.",
    "new": "Write a commented package file.",
    "migrate": "Translate a back-to-work package script.",
    "demo": "Watch a package fail over between two nodes on this computer.",
    "init": "Create a cluster in its lock store, once.",
    "unlock": "Free the lock of a package that is down everywhere.",
    "enable": "Switch auto_run of a package on, or its nodes.",
    "disable": "Switch auto_run of a package off, or its nodes.",
    "maintenance": "Have failures of a package passed over.",
    "reset": "Set a package's switches back to its file.",
    "node": "Show the nodes; drain and resume one.",
}
_MODULES = {"try": "try_", "init": "init_", "node": "node_"}


class Commands(click.Group):
    """Loads a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(plugin_commands().keys() - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module = import_module(f".{_MODULES.get(cmd_name, cmd_name)}", __name__)
            command: click.Command = module.command
            return command
        if cmd_name in plugin_commands():
            from ..plugins import Plugins

            return Plugins().command(cmd_name)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in COMMANDS and name not in plugin_commands():
            from ..parameters import closest

            near = closest(name, self.list_commands(ctx))
            hint = f"did you mean `{near}`?" if near else "see btw --help"
            ctx.fail(f"there is no command `{name}`; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From COMMANDS, not from the modules."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        others = {name: where for name, where in plugin_commands().items() if name not in COMMANDS}
        if others:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, f"of {others[name]}") for name in sorted(others)])


def plugin_commands() -> dict[str, str]:
    """Command -> distribution, read off the installed distributions' entry_points.txt (PyPA specification "Entry
    points"): importlib.metadata would double the time that `btw --help` takes. `btw plugin list` is thorough."""
    found: dict[str, str] = {}
    for directory in sys.path:
        for file in Path(directory).glob("*.dist-info/entry_points.txt"):
            section = ""
            for line in file.read_text(errors="replace").splitlines():
                if line.startswith("["):
                    section = line.strip()
                elif section == "[btw.commands]" and "=" in line:
                    distribution = file.parent.name.partition("-")[0].replace("_", "-")
                    found.setdefault(line.partition("=")[0].strip(), distribution)
    return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="btw", message="%(prog)s %(version)s")
def cli() -> None:
    """btw keeps a package running on exactly one of several nodes, and moves it when something fails.

    Exit codes: 0 done; 1 failed; 64 usage; 69 store unavailable; 75 busy; 78 configuration; `btw try PKG status` says
    0 up, 1 down, 2 degraded or cannot tell, 3 critical.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Never returns; a user never sees a traceback (BTW_DEBUG=1 shows it)."""
    sys.exit(_main(arguments))


def _main(arguments: list[str] | None) -> int:
    try:
        code = cli.main(arguments, prog_name="btw", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:  # `btw events | head`: nothing more can be shown, at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except Exception as error:  # noqa: BLE001 - the last boundary: whatever it is, the user gets one line
        return _explain(error)
    return code if isinstance(code, int) else DONE


def _explain(error: Exception) -> int:
    from ..resource import ConfigError
    from ..store import StoreUnavailable

    if isinstance(error, ConfigError):
        return _say(str(error), CONFIGURATION)
    if isinstance(error, StoreUnavailable):
        return _say(f"the lock store cannot be reached: {error}", UNAVAILABLE)
    if os.environ.get("BTW_DEBUG"):
        raise error
    if isinstance(error, OSError):
        remedy = "; it may have to be run as root" if isinstance(error, PermissionError) else ""
        place = f"{error.filename}: " if error.filename else ""
        return _say(f"{place}{error.strerror or error}{remedy}", FAILED)
    return _say(f"defect of btw: {type(error).__name__}: {error} (BTW_DEBUG=1 shows where)", DEFECT)


def _say(text: Any, code: int) -> int:
    click.echo(f"btw: {text}", err=True)
    return code
