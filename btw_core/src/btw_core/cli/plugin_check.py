"""`btw plugin check`: the kits of btw_core.testing on a plugin, in a pytest of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from ..resource import Resource

_FAILED = 1


@click.command
@click.argument("what", default=".", metavar="[DIRECTORY|TYPE]")
@click.option(
    "--set",
    "values",
    metavar="KEY=VALUE",
    multiple=True,
    help="A parameter of TYPE as TOML writes it, may be repeated. Those that are required default to their examples.",
)
@click.option("-v", "--verbose", is_flag=True, help="Name every rule.")
def check(what: str, values: tuple[str, ...], verbose: bool) -> None:
    """Try the rules of btw on a plugin.

    On the project in DIRECTORY (default: this one), installed or not: its tests, what holds for a plugin as a whole,
    and that each of its resource types was tried. On an installed resource TYPE: every rule of a resource, but for
    what only its own tests can break. It is started and stopped on this computer, many times.

    Example: btw plugin check flag --set path='"/tmp/tried"'
    """
    if find_spec("pytest") is None:
        _refuse("the rules are tests of pytest, which is not installed", "pip install 'btw-core[testing]'")
    common = [sys.executable, "-P", "-m", "pytest", "--no-header", *(["-v"] if verbose else ["-q"])]
    if Path(what).is_dir() or os.sep in what:
        sys.exit(_project(Path(what).resolve(), common))
    table = {"type": what, **_table(what, values)}
    arguments = ["-p", "no:cacheprovider", "--pyargs", "btw_core.testing.installed", "--btw-table", json.dumps(table)]
    with tempfile.TemporaryDirectory(prefix="btw-") as directory:
        ini = Path(directory) / "pytest.ini"
        ini.write_text("[pytest]\n")
        sys.exit(_FAILED if subprocess.call([*common, "-rs", "-c", str(ini), *arguments], cwd=directory) else 0)


def _project(directory: Path, common: list[str]) -> int:
    """Its sources are tried where they lie, with its entry points laid out as if it were installed."""
    from ..plugins import RESOURCES
    from ..scaffold.layout import Project

    project = Project(directory)
    tests = directory / "tests"
    if not tests.is_dir():
        _refuse("there are no tests", f"see what `btw plugin new` writes into {tests.name}/", tests)
    types = ",".join(project.points.get(RESOURCES, {}))
    with tempfile.TemporaryDirectory(prefix="btw-") as site:
        project.lay_out(Path(site))
        path = os.pathsep.join([str(project.sources), site, *filter(None, [os.environ.get("PYTHONPATH")])])
        ours = ["--pyargs", "btw_core.testing.project", "--btw-project", project.name, "--btw-types", types]
        place = ["--rootdir", str(directory), "-c", str(directory / "pyproject.toml")]
        command = [*common, *place, str(tests), *ours]
        return _FAILED if subprocess.call(command, cwd=directory, env={**os.environ, "PYTHONPATH": path}) else 0


def _table(name: str, values: tuple[str, ...]) -> dict[str, Any]:
    """What `--set` says, and the examples of the parameters that are required."""
    import tomllib

    from ..parameters import parameters
    from ..plugins import Plugins

    cls: type[Resource] = Plugins().resource_type(name)
    said: dict[str, Any] = {}
    for each in values:
        key, sign, value = each.partition("=")
        try:
            said[key.strip()] = tomllib.loads(f"value = {value if sign else ''}")["value"]
        except tomllib.TOMLDecodeError:
            remedy = "text needs quotes: --set path='\"/tmp/x\"'"
            _refuse(f"--set {each} is no KEY=VALUE as TOML writes it", remedy)
    for parameter in parameters(cls):
        if parameter.required and parameter.name not in said:
            if parameter.example is None:
                _refuse(f"{name} needs `{parameter.name}`, which has no example", f"--set {parameter.name}=...")
            said[parameter.name] = tomllib.loads(f"value = {parameter.example}")["value"]
    return said


def _refuse(text: str, remedy: str, file: Path | None = None) -> NoReturn:
    from ..resource import ConfigError, Problem

    raise ConfigError([Problem(text=text, remedy=remedy, file=str(file or ""))])
