"""`btw simulate`: from package files or a picture, what would happen; and what the other commands say of the keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_core_checks import Checker
from test_core_plugins import Site

from btw_core.cli.simulate import command
from btw_core.loading import configured

POOL = 'type = "pool"\npath = "/srv/{}"'
NEEDS = '\n[[dependency]]\npackage = "{}"\n'

VIEW = """
[nodes.n1]
[nodes.n2]
[packages.db]
nodes = ["n1", "n2"]
at = { n1 = "up" }
"""


def simulate(*words: str, text: str | None = None) -> Result:
    return CliRunner().invoke(command, list(words), input=text, catch_exceptions=False)


@pytest.fixture
def checker(tmp_path: Path) -> Iterator[Checker]:
    with Site(tmp_path / "site") as site:
        yield Checker(tmp_path / "etc", site)


def test_from_a_picture() -> None:
    """Steps with their causes, where everything is then, and why what does not run does not; exit code 0."""
    done = simulate("--view", "-", "node n1 lost", "disable db", "node n2 drained", text=VIEW)
    assert done.exit_code == 0
    assert done.stdout == """== as things stand
nothing happens

db  n1

== node n1 lost
1.  db starts on n2: n1 is lost: taken as soon as its lease is over; first of its list that can (n1: lost)
    the leases of n1 are over

db  n2

== disable db
nothing happens

db  n2

== node n2 drained
1.  db halts on n2: drained, by hand

db  down

db not on n1: auto_run is off: disabled
db not on n2: auto_run is off: disabled
"""


def test_json_goes_in_again(tmp_path: Path) -> None:
    """What --json prints is a picture for --view, with the steps beside it."""
    first = simulate("--view", "-", "--json", "node n1 lost", text=VIEW)
    said = json.loads(first.stdout)
    assert [each["fault"] for each in said["played"]] == ["", "node n1 lost"]
    assert said["played"][1]["steps"][0]["overdue"] == ["n1"]
    assert all(each["cause"] for each in said["decisions"])
    assert said["view"]["packages"]["db"]["at"] == {"n2": "up"}
    (tmp_path / "view.json").write_text(first.stdout)
    again = simulate("--view", str(tmp_path / "view.json"), "node n1 back")
    assert again.exit_code == 0 and again.stdout.endswith("== node n1 back\nnothing happens\n\ndb  n2\n")


def test_what_is_refused_is_shown_and_the_rest_goes_on() -> None:
    """A command that the nodes would refuse: the reason, no change, exit code 1."""
    done = simulate("--view", "-", "disable db on n2", "move db to n2", "move db", "node n2 lost", text=VIEW)
    assert done.exit_code == 1
    assert "== move db to n2\nrefused: n2: switched off there: disabled on a node\n" in done.stdout
    assert "== move db\nrefused: n1: runs there; n2: switched off there: disabled on a node\n" in done.stdout
    assert done.stdout.endswith("== node n2 lost\nnothing happens\n\ndb  n1\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("node n7 lost", '"node n7 lost": there is no node `n7` (there are: n1, n2)'),
        ("halt web", '"halt web": there is no package `web` (there are: db)'),
        ("n1 explodes", '"n1 explodes" is not understood; write one of: node NODE lost; '),
    ],
)
def test_what_is_not_understood(words: str, said: str) -> None:
    """Names what there is, or all that can be written; exit code 64."""
    done = simulate("--view", "-", words, text=VIEW)
    assert done.exit_code == 64 and said in done.stderr


def test_all_that_may_befall_a_cluster() -> None:
    """--faults: one line for each."""
    lines = simulate("--faults").stdout.splitlines()
    assert len(lines) == 16 and lines[0] == "node NODE lost        nothing is heard of it any more"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[nodes.n1]\nlots = true\n", "unknown field `lots`"),
        ("{", "-: "),
        ('[packages.a]\ndependencies = [{package = "a"}]\n', "a: a package cannot depend on itself; remove it"),
    ],
)
def test_a_picture_that_is_wrong(text: str, said: str) -> None:
    """Exit code 78 with the place."""
    done = simulate("--view", "-", text=text)
    assert done.exit_code == 78 and said in done.stderr


def test_from_package_files(checker: Checker) -> None:
    """Without a picture: the packages here, with their rules, on the nodes that they name."""
    checker.package("db", POOL.format("db"), head='nodes = ["n1", "n2"]\npriority = 5\n')
    checker.package("app", POOL.format("app") + NEEDS.format("db"), head='nodes = ["n2", "n1"]\npriority = 1\n')
    where = ("--dir", str(checker.directory), "--node", "n1")
    done = simulate(*where)
    assert "1.  db starts on n2: app needs it here\n2.  app starts on n2: first of its list\n" in done.stdout
    assert simulate(*where, "--nodes", "n1").stdout.endswith("app  n1\ndb   n1\n")


def test_check_knows_the_rules_between_packages(checker: Checker) -> None:
    """A dependency that cannot be is an error at its line; keys that only daemons obey are none."""
    checker.package("db", POOL.format("db"))
    checker.package("app", POOL.format("app") + NEEDS.format("dbb"), head="priority = 1\n")
    assert checker.problems() == ["app.toml:8: dependency: there is no package `dbb`; did you mean `db`?"]


def test_what_others_can_touch_is_not_on_several_nodes(checker: Checker) -> None:
    """A multi_node package must not have a resource that is shared between machines."""
    checker.site.install("btw-lun", {"btw.resources": ["lun"]}, LUN)
    checker.package("disk", 'type = "lun"', head='type = "multi_node"\n')
    (checker.directory / "btw.toml").write_text(f'lock = "local:{checker.directory}/x.db"\n')
    text = 'would be active on several nodes at once in a multi_node package; put it into a package of type'
    assert [problem for problem in checker.problems() if text in problem and problem.startswith("disk.toml:")]


LUN = """
class Lun(Resource, tag="lun"):
    layer = "storage"
    shared = True

@hookimpl
def btw_resource_types():
    return [Lun]
"""


@pytest.mark.parametrize(
    ("head", "key"),
    [
        ("auto_run = false\n", "auto_run"),
        ('type = "multi_node"\n', "type"),
        ('failback_policy = "automatic"\n', "failback_policy"),
        ('failover_policy = "min_package_node"\n', "failover_policy"),
    ],
)
def test_run_refuses_what_it_does_not_obey(checker: Checker, head: str, key: str) -> None:
    """Rather than pass over it in silence; written as the default it is accepted."""
    checker.package("web", POOL.format("web"), head=head)
    found = configured([str(checker.directory), "n1", "", "", "", "web"])
    assert [problem.key for problem in found.problems] == [key] and not found.packages
    checker.package("web", POOL.format("web"), head="auto_run = true\n")
    found = configured([str(checker.directory), "n1", "", "", "", "web"])
    assert not found.problems and list(found.packages) == ["web"]


def test_rules_that_are_wrong_are_named_with_their_line(checker: Checker) -> None:
    """Unknown words and values out of range, all at once."""
    checker.package("web", POOL.format("web") + '\n[[dependency]]\npackag = "db"\n', head='priority = 0\ntype = "x"\n')
    found = "\n".join(checker.problems())
    assert "web.toml:2: " in found and "web.toml:3: " in found and "packag" in found and "`package`" in found
    checker.package("web", POOL.format("web"), head="")
    (checker.directory / "packages" / "web.toml").write_text("dependency = 3\n")
    assert any("must be a list of tables; write [[dependency]]" in each for each in checker.problems())


def test_a_picture_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    for path, cause in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        done = simulate("--view", str(path))
        assert done.exit_code == 78
        assert f"btw: {path}: cannot be read: {cause}" in done.output.splitlines()
