"""What the pages of docs/ say about btw is so: commands, options, hooks, causes, examples, links."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from btw_core import fsm
from btw_core.cli import cli
from btw_core.hooks import Hooks
from btw_core.parameters import convert, fields
from btw_core.plugins import RESOURCES, Plugins
from btw_core.settings import PackageTable

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"]
READMES = [*ROOT.glob("*/README.md"), *ROOT.glob("plugins/*/README.md"), *ROOT.glob("examples/*/README.md")]
#: `btw ...` as a line of code or in backticks, without what it prints.
COMMAND = re.compile(r"(?m)(?:^ {4}|^\$ |`)btw ([a-z][^`#\n|]*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"(?m)^\{% file (\S+) %\}$")
TOML = re.compile(r"^```toml[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for found in COMMAND.finditer(page.read_text()):
            yield page.name, re.split(r" && | \|| > ", found[1])[0].strip()


def test_every_command_in_the_pages_is_one() -> None:
    """With options that it has."""
    seen = list(commands())
    assert len(seen) > 30
    for page, line in seen:
        words = line.split()
        context = click.Context(cli, info_name="btw")
        command = cli.get_command(context, words[0])
        if command is None and words[0] in ("under", "itself"):
            continue  # prose
        assert command is not None, f"{page}: btw {line}"
        rest = words[1:]
        if isinstance(command, click.Group) and rest:
            command = command.commands[rest.pop(0)]
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        for word in rest:
            if re.fullmatch(r"--?[a-z][a-z-]*", word):
                assert word in known | {"--help", "-h"}, f"{page}: btw {line}: {word}"


def test_every_hook_is_shown() -> None:
    """docs/writing.md has an example of each, from a file that implements it."""
    text = (ROOT / "docs/writing.md").read_text()
    hooks = {name for name in vars(Hooks) if name.startswith("btw_")}
    assert set(re.findall(r"(?m)^### `(\w+)`:", text)) == hooks
    shown = [ROOT / name for name in FILE.findall(text)]
    assert all(path.is_file() for path in shown)
    example = (ROOT / "examples/btw_hello/src/btw_hello/__init__.py").read_text()
    assert set(re.findall(r"(?m)^def (btw_\w+)\(", example)) == hooks


def test_every_cause_is_explained() -> None:
    """Whatever the journal may say of a change of state stands in docs/troubleshooting.md."""
    text = (ROOT / "docs/troubleshooting.md").read_text()
    said = {cause.strip("`") for cause in re.findall(r"`[^`]+`", text)}
    causes = {row.why.replace("`", "'") for row in fsm.ROWS}
    assert causes <= said, sorted(causes - said)
    other = text.partition("## Lines that are no change of state")[2].partition("\n## ")[0]
    sources = "".join(path.read_text() for path in (ROOT / "btw_core/src/btw_core").glob("*.py"))
    fragments = [each for row in re.findall(r"(?m)^\| (`.*?) \|", other) for each in re.findall(r"`([^`]+)`", row)]
    assert fragments and all(each in sources for each in fragments), fragments


def test_examples_are_package_files() -> None:
    """Each TOML example has a package's keys, and types whose parameters are right, where they are installed."""
    plugins = Plugins()
    package = {field.encode_name: field.type for field in fields(PackageTable)}
    seen = 0
    for page in PAGES:
        for block in TOML.findall(page.read_text()):
            data = tomllib.loads(block)
            for key, value in data.get("package", {}).items():
                convert(value, package[key])
            for table in data.get("resource", []):
                assert table["type"] in plugins.found[RESOURCES], f"{page.name}: {table}"
                types = {field.encode_name: field.type for field in fields(plugins.resource_type(table["type"]))}
                for key in table.keys() - {"type"}:
                    convert(table[key], types[key])
                seen += 1
    assert seen >= 2


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    """As they are read in the repository; `nox -s docs` checks the site's, with anchors, and generates some pages."""
    generated = {"commands.md", "types.md", "api.md"}
    for target in LINK.findall(page.read_text()):
        path = target.partition("#")[0]
        if path and "://" not in path and path not in generated:
            assert (page.parent / path).exists(), f"{page.name}: {target}"


def test_what_is_said_of_a_package_that_does_not_run_is_said_so() -> None:
    """Quoted in the first two parts of docs/troubleshooting.md: words that btw prints, but for names and numbers."""
    text = (ROOT / "docs/troubleshooting.md").read_text().partition("## By journal line")[0]
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    said = [each for row in rows for each in re.findall(r"`([^`]+)`", row) if not each.startswith("btw ")]
    assert len(said) > 25
    source = "\n".join(path.read_text() for path in (ROOT / "btw_core/src/btw_core").rglob("*.py"))
    source = re.sub(r"\{[^{}]*\}", "X", re.sub(r'"\n\s*f?"', "", source))
    names = re.compile(r"\b(?:n\d|web(?:\.toml)?|app|db|old|prod|strat_timeout|4711|9\.3|[25])\b")
    missing = [each for each in said if not _stands(each, names, source)]
    assert not missing, missing


def _stands(words: str, names: re.Pattern[str], source: str) -> bool:
    """Each piece between names, in one line of the source."""
    pieces = [piece.strip(" :()") for piece in names.split(words)]
    return any(all(piece in line for piece in pieces) for line in source.splitlines())
