"""`btw new` and `btw plugin`: what is generated from the types."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta
from test_core_plugins import Site

from btw_core.cli.check import command as check
from btw_core.cli.new import command as new
from btw_core.cli.plugin import command as plugin
from btw_core.parameters import convert, literal, parameters, words
from btw_core.plugins import RESOURCES
from btw_core.resource import ConfigError, Resource, Seconds

TWO = """
class Web(Resource, tag="web", kw_only=True):
    '''A web server.

    More.
    '''
    port: Annotated[int, Meta(ge=1, le=65535, description="where it listens")]
    root: Annotated[str, Meta(description="what it serves")] = "/srv"

class Pool(Resource, tag="pool"):
    '''A pool.'''
    layer = "storage"
    shared = True
    path: Annotated[str, Meta(description="where it is", examples=["/srv/pool"])]
    wait: Annotated[Seconds, Meta(description="patience")] = Seconds(2.5)
    options: Annotated[list[str] | None, Meta(examples=[["ro", "a\\"b"]])] = None

    def heal(self, ctx): pass

@hookimpl
def btw_resource_types():
    return [Web, Pool]
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as found:
        found.install("btw-two", {RESOURCES: ["web", "pool"]}, TWO, version="1.5")
        yield found


def run(command: Any, *words: str) -> Result:
    return CliRunner().invoke(command, list(words), catch_exceptions=False)


def test_a_new_file_with_examples_passes_check_unedited(site: Site, tmp_path: Path) -> None:
    """Where every required parameter has an example, the generated file is valid as it is."""
    directory = str(tmp_path / "etc")
    done = run(new, "data", "-m", "pool", "--dir", directory)
    assert (done.exit_code, done.stdout) == (
        0,
        f"{directory}/packages/data.toml written; edit it, then: btw check data\n",
    )
    done = run(check, "data", "--dir", directory, "--lock", f"local:{tmp_path}/db")
    assert done.exit_code == 0, done.output
    assert "0 errors, 0 warnings" in done.stdout


def test_what_only_a_person_knows_is_named_by_check(site: Site, tmp_path: Path) -> None:
    """A required parameter without an example gets a placeholder, which `check` refuses with its line and meaning."""
    run(new, "data", "-m", "web", "--dir", str(tmp_path))
    rows = (tmp_path / "packages/data.toml").read_text().splitlines()
    line = rows.index('port = "CHANGE ME"') + 1
    assert rows[line - 2] == "# whole number, at least 1, at most 65535, required: where it listens"
    done = run(check, "--dir", str(tmp_path))
    assert done.exit_code == 78
    assert f'data.toml:{line}: port: is still "CHANGE ME" from `btw new`; allowed: whole number' in done.stdout


def test_the_comments_are_the_defaults(site: Site) -> None:
    """Every parameter is there; those commented out show their default; storage comes before programs."""
    text = run(new, "data", "-m", "web", "-m", "pool", "--stdout").stdout
    data = tomllib.loads(text)
    assert data == {
        "package": {},
        "resource": [{"type": "pool", "path": "/srv/pool"}, {"type": "web", "port": "CHANGE ME"}],
    }
    shown = "\n".join(row[1:] if row.startswith("#") and not row.startswith("# ") else row for row in text.splitlines())
    pool, web = tomllib.loads(shown)["resource"]
    assert (pool["name"], pool["wait"], pool["options"]) == ("pool", 2.5, ["ro", 'a"b'])
    assert (web["name"], web["root"]) == ("web", "/srv")
    assert tomllib.loads(shown)["package"]["timeout"] == 30
    assert "# A web server.\n[[resource]]" in text


def test_all_and_repeated_types(site: Site) -> None:
    """`-m all` takes every type that --plugins allows; a type may come twice and is then not named alike."""
    text = run(new, "data", "-m", "all", "--plugins", "two", "--stdout").stdout
    assert [each["type"] for each in tomllib.loads(text)["resource"]] == ["pool", "web"]
    text = run(new, "data", "-m", "pool", "-m", "pool", "--stdout").stdout
    assert len(tomllib.loads(text)["resource"]) == 2
    assert '#name = "pool"' not in text


def test_new_never_overwrites(site: Site, tmp_path: Path) -> None:
    """An existing package, as TOML or as a script, is left alone; bad names and types are configuration errors."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "a.toml").write_text("mine")
    (packages / "b").write_text("mine")
    for name, said in [
        ("a", "exists and is not written over"),
        ("b", "there is a package `b` already"),
        ("x/y", "name"),
    ]:
        with pytest.raises(ConfigError, match=said):
            run(new, name, "-m", "pool", "--dir", str(tmp_path))
    assert {each.name: each.read_text() for each in packages.iterdir()} == {"a.toml": "mine", "b": "mine"}
    with pytest.raises(ConfigError, match="pip install btw-quorum"):
        run(new, "c", "-m", "quorum", "--dir", str(tmp_path))


def test_plugin_show_explains_the_parameters(site: Site) -> None:
    """`plugin show` says where a type comes from, its traits, hooks, and type, default, unit, meaning of parameters."""
    (found,) = json.loads(run(plugin, "show", "pool", "--json").stdout)
    assert (found["distribution"], found["version"], found["hooks"]) == ("btw-two", "1.5", ["btw_resource_types"])
    assert (found["summary"], found["layer"], found["shared"], found["heals"]) == ("A pool.", "storage", True, True)
    assert [each["name"] for each in found["parameters"]][:3] == ["path", "wait", "options"]
    assert found["parameters"][1] == {
        "name": "wait",
        "type": "seconds",
        "required": False,
        "default": "2.5",
        "unit": "s",
        "meaning": "patience",
        "example": None,
    }
    text = run(plugin, "show", "pool").stdout
    assert "resource type pool, of btw-two 1.5" in text
    assert "wait           seconds       2.5       s     patience" in text


def test_plugin_list_imports_nothing(site: Site) -> None:
    """`plugin list` names everything that is installed, also what could not be imported."""
    site.install("btw-broken", {RESOURCES: ["broken"]}, "raise AssertionError('never import this')")
    found = json.loads(run(plugin, "list", "--json").stdout)
    assert {"name": "broken", "kind": "resource type", "distribution": "btw-broken", "version": "1.0"} in found
    with pytest.raises(ConfigError, match="never import this"):
        run(plugin, "show", "broken")
    with pytest.raises(ConfigError, match="did you mean `pool`"):
        run(plugin, "show", "pol")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (str | None, "text"),
        (Annotated[str, Meta(min_length=1, pattern="^a")], "text, length at least 1, matching ^a"),
        (list[Path], "list of path"),
        (dict[str, int], "table"),
        (Colour, '"red" or "blue"'),
        (Literal["a", 3] | bool, '"a" or 3 or true or false'),
        (Seconds | None, "seconds"),
    ],
)
def test_types_in_words(annotation: Any, said: str) -> None:
    """People read types in words, never Python's or msgspec's names."""
    assert words(annotation) == said


def test_units_and_examples() -> None:
    """The unit is seconds for lengths of time, or what the author says."""

    class Odd(Resource, frozen=True, tag="odd"):
        size: Annotated[int, Meta(extra={"unit": "MiB"})]
        wait: Annotated[Seconds, Meta(examples=["3s"])] | None = None

    size, wait, *_ = parameters(Odd)
    assert (size.unit, size.required, size.example) == ("MiB", True, None)
    assert (wait.unit, wait.default, wait.example) == ("s", None, '"3s"')


values = st.recursive(
    st.one_of(st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)


@given(values)
def test_literals_are_toml(value: Any) -> None:
    """What is shown as a value is TOML that reads back as that value."""
    assert tomllib.loads(f"key = {literal(value)}") == {"key": value}


@given(st.floats(0, 1e5), st.sampled_from([("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)]))
def test_lengths_of_time(number: float, unit: tuple[str, float]) -> None:
    """A number is seconds; with a unit it is that many of the unit."""
    assert convert(number, Seconds) == number
    written = f"{number:.4f}"
    assert convert(written + unit[0], Seconds) == pytest.approx(float(written) * unit[1])


@pytest.mark.parametrize(
    "value", [True, -1, float("nan"), float("inf"), "10", "-1s", "1e3s", "5min", "", [], None, "s"]
)
def test_no_lengths_of_time(value: Any) -> None:
    """Switches, negative and endless lengths, missing and unknown units are refused."""
    with pytest.raises(ValueError, match="allowed: seconds"):
        convert(value, Seconds)


def test_converted_values_are_of_their_type() -> None:
    """Lengths become Seconds and paths Path, also inside lists; nothing is guessed from text."""
    assert isinstance(convert(3, Seconds | None), Seconds)
    assert convert(["/a"], list[Path]) == [Path("/a")]
    with pytest.raises(ValueError, match='found "3", allowed: whole number'):
        convert("3", int)
    with pytest.raises(ValueError, match=r"found \[1, \"x\"\] in \[1\], allowed: list of whole number"):
        convert([1, "x"], list[int])
