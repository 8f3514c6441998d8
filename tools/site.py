"""Hooks of mkdocs (mkdocs.yml): pages that are generated from the code, the READMEs of the distributions as pages,
files of the repository shown where a page asks for them, and links to files that are no pages.

A page shows a file with a line `{% file examples/btw_hello/src/btw_hello/banner.py %}`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import btw_core
from btw_core import Context, Resource, Store
from btw_core.cli import cli
from btw_core.hooks import Hooks
from btw_core.parameters import parameters
from btw_core.plugins import Plugins
from btw_core.templates import summary

ROOT = Path(__file__).resolve().parent.parent
FILE = re.compile(r"(?m)^\{% file (\S+) %\}$")
LINK = re.compile(r"(?<!!)\[([^]]*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Every distribution has its place in the navigation."""
    names = [readme.parent.name for readme in distributions()]
    pages = [{name.replace("_", "-"): f"distributions/{name}.md"} for name in names]
    config.nav = [*(config.nav or []), {"Distributions": pages}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages: dict[str, Callable[[], str]] = {"commands.md": commands, "types.md": types, "api.md": api}
    for path, page in pages.items():
        files.append(File.generated(config, path, content=page()))
    for readme in distributions():
        page_path = f"distributions/{readme.parent.name}.md"
        files.append(File.generated(config, page_path, content=readme.read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Files that a page shows, and links out of docs/: to a README they lead to its page, to other files of the
    repository they are only names."""
    here = PurePosixPath(page.file.src_uri)
    source = ROOT / "docs" / here
    if here.parts[0] == "distributions":
        source = next(readme for readme in distributions() if readme.parent.name == here.stem)

    def shown(found: re.Match[str]) -> str:
        path = ROOT / found[1]
        return f"```{path.suffix.removeprefix('.').replace('py', 'python')}\n{path.read_text()}```"

    def led(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        path, _, anchor = target.partition("#")
        if not path or "://" in target:
            return found[0]
        where = (source.parent / path).resolve()
        if not where.exists():
            return found[0]  # mkdocs says so, unless it is a page that is generated
        uri = uri_of(where)
        if uri is None:
            return text
        up = "../" * (len(here.parts) - 1)
        return f"[{text}]({up}{uri}{'#' * bool(anchor)}{anchor})"

    return LINK.sub(led, FILE.sub(shown, markdown))


def distributions() -> list[Path]:
    return [ROOT / "btw_core/README.md", *sorted(ROOT.glob("plugins/*/README.md"))]


def uri_of(path: Path) -> str | None:
    """The page or picture of a file, None when it is not on the site."""
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    return f"distributions/{path.parent.name}.md" if path in distributions() else None


# ---- pages
def commands() -> str:
    """Every command as `--help` shows it."""
    parts = ["# Commands", "As `btw --help` and `btw COMMAND --help` show them.", _help("btw", cli)]
    context = click.Context(cli, info_name="btw", max_content_width=110)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        parts += [f"## btw {name}", _help(f"btw {name}", command)]
        if isinstance(command, click.Group):
            for sub, each in sorted(command.commands.items()):
                parts += [f"### btw {name} {sub}", _help(f"btw {name} {sub}", each)]
    return "\n\n".join(parts) + "\n"


def _help(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name, max_content_width=110, terminal_width=110)
    return f"```text\n{command.get_help(context)}\n```"


def types() -> str:
    """Every parameter of every installed type, as `btw plugin show` has it."""
    plugins = Plugins()
    parts = ["# Types and their parameters", "As `btw plugin show TYPE` shows them; generated from the code."]
    for name, cls in plugins.types().items():
        found = plugins.found["btw.resources"][name]
        traits = [f"of {found.distribution}", f"layer {cls.layer}", *(["needs an explicit lock"] if cls.shared else [])]
        traits += [f"has {hook}" for hook in ("watch", "heal", "fence") if hasattr(cls, hook)]
        rows = ["| parameter | type | default | unit | meaning |", "|---|---|---|---|---|"]
        for each in parameters(cls):
            default = "required" if each.required else f"`{each.default}`" if each.default else ""
            cells = [f"`{each.name}`", each.type, default, each.unit, each.meaning]
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        parts += [f"## {name}", f"{summary(cls)} *({', '.join(traits)})*", "\n".join(rows)]
    return "\n\n".join(parts) + "\n"


def api() -> str:
    """What a plugin may use."""
    parts = [
        "# API for plugins",
        f"Version {btw_core.__version__}: it is the version of btw-core. A plugin requires a range of it, such as"
        " `btw-core>=0.1,<0.2`, and is refused with both versions named when it was made for another one. Before 1.0 a"
        " new minor version may change something here, after it only a new major version. Whatever is not on this page"
        " may change at any time.",
        "## Names of btw_core",
        "\n".join(f"- `{name}`" for name in btw_core.__all__),
        "## Hooks",
    ]
    for cls, title in ((Hooks, ""), (Context, "## Context"), (Resource, "## Resource"), (Store, "## Store")):
        parts += [title] if title else []
        parts += [text for name, member in vars(cls).items() if (text := _member(name, member))]
    return "\n\n".join(parts) + "\n"


def _member(name: str, member: Any) -> str:
    if name.startswith("_") or not inspect.isfunction(member):
        return ""
    signature = str(inspect.signature(member)).replace("'", "")
    doc = inspect.cleandoc(member.__doc__ or "")
    return f"### {name}\n\n```python\ndef {name}{signature}\n```\n\n{doc}"
