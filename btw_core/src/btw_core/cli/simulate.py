"""`btw simulate`: what would happen in a cluster, step by step, with every cause. Changes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..exits import CONFIGURATION, USAGE
from .common import Given, fail, json_option, setup_options

if TYPE_CHECKING:
    from ..cluster import ClusterView
    from ..rehearsal import Rehearsal


@click.command
@click.argument("faults", metavar="[FAULT]...", nargs=-1)
@click.option("--view", "file", metavar="FILE", help="A picture of the cluster, TOML or JSON (- : standard input).")
@click.option("--nodes", metavar="NAMES", help="Without --view: the nodes, such as n1,n2,n3.")
@click.option("--faults", "known", is_flag=True, help="List what may befall a cluster, and end.")
@setup_options
@json_option
def command(
    faults: tuple[str, ...],
    file: str | None,
    nodes: str | None,
    known: bool,
    given: Given,
    as_json: bool,
) -> None:
    """Show what the nodes would do as things stand, then after each FAULT, until they are at rest.

    Without --view: from the package files here, nothing runs yet, and every node that they name is there. FAULT is such
    as "node n1 lost", "db fails on n2", "move web to n3" (--faults lists them). --json prints the steps and the picture
    at the end, which --view takes again: edit it and look once more. Exit code 1: something was refused.
    """
    from ..rehearsal import FAULTS, play, section

    if known:
        click.echo("\n".join(f"{words:<22}{meaning}" for words, (_, meaning) in FAULTS.items()))
        return
    view = _view(file) if file else _configured(given, nodes)
    _refuse_flaws(view)
    try:
        played = play(view, faults)
    except ValueError as error:
        fail(str(error), USAGE)
    if as_json:
        click.echo(json.dumps(_json(played), indent=2))
    else:
        click.echo("\n\n".join(section(each) for each in played))
    sys.exit(1 if any(each.restless or each.refused for each in played) else 0)


def _view(file: str) -> ClusterView:
    """Leaves with exit code 78 when it cannot be read."""
    import msgspec

    from ..cluster import ClusterView

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        content: Any = json.loads(text) if text.lstrip().startswith("{") else msgspec.toml.decode(text)
        if isinstance(content, dict) and "view" in content:
            content = content["view"]  # of --json
        return msgspec.convert(content, ClusterView)
    except OSError as error:
        fail(f"{file}: cannot be read: {error.strerror}", CONFIGURATION)
    except ValueError as error:  # msgspec's errors and JSON's are ValueErrors
        fail(f"{file}: {error}", CONFIGURATION)


def _configured(given: Given, nodes: str | None) -> ClusterView:
    """The picture before anything has happened. Raises ConfigError."""
    import msgspec

    from ..cluster import ClusterView, NodeView, PackageView
    from ..config import load_all
    from ..plugins import Plugins
    from ..resource import ConfigError
    from ..settings import words

    setup = given.setup()
    found, problems = load_all(setup.config, setup.places, Plugins(setup.restrict))
    if problems:
        raise ConfigError(problems)
    if not found:
        fail(f"there is no package in {setup.places.packages}; make one: btw new NAME -m exec", CONFIGURATION)
    names = words(nodes) or sorted({setup.config.node, *(each for package in found for each in package.nodes)})
    packages = {each.name: PackageView(**msgspec.structs.asdict(each.rules)) for each in found}
    return ClusterView(nodes={name: NodeView() for name in names}, packages=packages)


def _refuse_flaws(view: ClusterView) -> None:
    from ..dependencies import flaws

    found = [f"{flaw.package}: {flaw.text}; {flaw.remedy}" for flaw in flaws(view.packages)]
    if found:
        fail("\nbtw: ".join(found), CONFIGURATION)


def _json(played: list[Rehearsal]) -> dict[str, Any]:
    import msgspec

    return {
        "played": [
            {
                "fault": each.words,
                "refused": each.refused,
                "steps": [msgspec.to_builtins(step._asdict()) for step in each.steps],
                "restless": each.restless,
            }
            for each in played
        ],
        "decisions": msgspec.to_builtins(played[-1].plan.decisions),
        "view": msgspec.to_builtins(played[-1].view),
    }
