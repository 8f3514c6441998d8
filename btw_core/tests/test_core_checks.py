"""`btw check`: conflicts between packages, what resources say themselves, the time line, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from test_core_plugins import ONE_TYPE, Site

from btw_core.checks import timeline
from btw_core.cli.check import command
from btw_core.plugins import RESOURCES
from btw_core.timing import Timing

FUSSY = """
from btw_core import Problem

class Fussy(Resource, tag="fussy"):
    layer = "storage"
    mood: str = "fine"

    def identity(self):
        if self.mood == "broken":
            raise KeyError("identity")
        return ()

    def check(self, ctx):
        if self.mood == "broken":
            raise KeyError("check")
        if self.mood == "fine":
            return []
        seen = sorted(each.package + "." + each.resource.name for each in ctx.everything)
        return [Problem(text=f"{ctx.node} sees {', '.join(seen)}", remedy="cheer up", severity=self.mood, key="mood")]

@hookimpl
def btw_resource_types():
    return [Fussy]
"""


class Checker:
    def __init__(self, directory: Path, site: Site) -> None:
        self.directory, self.site = directory, site
        (directory / "packages").mkdir(parents=True)
        site.install("btw-pool", {RESOURCES: ["pool"]}, ONE_TYPE.format(cls="Pool", tag="pool"))
        site.install("btw-fussy", {RESOURCES: ["fussy"]}, FUSSY)

    def package(self, name: str, *resources: str, head: str = "") -> str:
        file = self.directory / "packages" / f"{name}.toml"
        file.write_text("\n".join([f"[package]\n{head}", *(f"[[resource]]\n{each}" for each in resources)]))
        return str(file)

    def run(self, *words: str) -> Result:
        words = (*words, "--dir", str(self.directory), "--node", "n1")
        return CliRunner().invoke(command, list(words), catch_exceptions=False)

    def problems(self, *words: str) -> list[str]:
        """The lines of the problems, after checking that the exit code agrees."""
        done = self.run(*words)
        rows = [row for row in done.stdout.splitlines() if row.startswith((str(self.directory), "--"))]
        assert done.exit_code == (78 if any(": warning: " not in row for row in rows) else 0), done.output
        return [row.removeprefix(f"{self.directory}/packages/") for row in rows]


@pytest.fixture
def checker(tmp_path: Path) -> Iterator[Checker]:
    with Site(tmp_path / "site") as site:
        yield Checker(tmp_path / "etc", site)


POOL = 'type = "pool"\npath = "/srv/a"'


def test_two_packages_that_share_a_path(checker: Checker) -> None:
    """One thing in two packages is an error that names both places; twice in one package is a warning."""
    first = checker.package("a", POOL)
    checker.package("b", POOL)
    checker.package("c", POOL.replace("/srv/a", "/c"), POOL.replace("/srv/a", "/c"))
    assert checker.problems() == [
        f"b.toml:3: pool: path /srv/a is also used by `pool` of `a` ({first}:3); "
        "give each its own, or put both into one package",
        f"c.toml:6: warning: pool-2: path /c is also used by `pool` of `c` ({checker.directory}/packages/c.toml:3); "
        "take one of them out",
    ]
    assert len(checker.problems("a")) == 1
    assert len(checker.problems("c")) == 1


def test_what_resources_say_themselves(checker: Checker) -> None:
    """A resource's own problems get file and line; it sees all packages; warnings do not fail."""
    checker.package("a", 'type = "fussy"\nmood = "warning"', POOL)
    checker.package("b", POOL.replace("/a", "/b"))
    said = "a.toml:5: warning: mood: n1 sees a.fussy, a.pool, b.pool; cheer up"
    assert checker.problems() == [said]
    checker.package("a", 'type = "fussy"\nmood = "error"', POOL)
    assert checker.problems("a") == [said.replace("warning: ", "")]


def test_a_package_of_other_nodes_is_not_looked_at_here(checker: Checker) -> None:
    """What a resource says of this node does not matter for a package that this node may not run."""
    checker.package("a", 'type = "fussy"\nmood = "error"', head='nodes = ["n2"]\n')
    assert checker.problems() == []


def test_a_log_that_cannot_be_written(checker: Checker) -> None:
    """Nobody would notice otherwise: output that cannot be written fails nothing."""
    checker.package("a", POOL, head=f'log = "{checker.directory}/none/log"')
    checker.package("b", POOL.replace("/a", "/b"), head='log = "/dev/null"')
    checker.package("c", POOL.replace("/a", "/c"), head=f'log = "{checker.directory}/log"')
    assert checker.problems() == [
        f"a.toml:2: log: {checker.directory}/none is no directory; mkdir -p {checker.directory}/none",
        "b.toml:2: log: /dev/null is no regular file; name another file",
    ]


def test_a_defective_check_is_a_problem(checker: Checker) -> None:
    """A plugin whose check crashes is named with the place; everything else is still reported."""
    checker.package("a", 'type = "fussy"\nmood = "broken"')
    checker.package("b", "type = 3")
    assert checker.problems() == [
        "a.toml:4: type: identity of `fussy` failed: KeyError: 'identity'; a defect of the plugin: report it",
        "a.toml:4: type: check of `fussy` failed: KeyError: 'check'; a defect of the plugin: report it",
        'b.toml:4: type: found 3, allowed: text; add type = "...", see `btw plugin list`',
    ]


def test_unusual_order_and_timeouts_are_warnings(checker: Checker) -> None:
    """Storage after a program, and a stop_timeout that the package's cuts short, are said and run anyway."""
    checker.package("a", POOL + "\nstop_timeout = 40", 'type = "fussy"')
    assert checker.problems() == [
        "a.toml:6: warning: stop_timeout: 40 s is longer than the package's stop_timeout 30 s, which ends all; "
        "raise stop_timeout below [package]",
        "a.toml:7: warning: fussy: storage starts after `pool` (program); usual: fencing, storage, network, program; "
        "move it above `pool` unless this is meant",
    ]


def test_locks_and_extensions_that_are_not_installed(checker: Checker) -> None:
    """A missing store is an error, settings of a missing extension a warning; both name the pip line."""
    checker.package("a", POOL)
    (checker.directory / "btw.toml").write_text('\nlock = "consul://h:8500"\n[plugins.pager]\n')
    assert checker.problems() == [
        f"{checker.directory}/btw.toml:2: lock: lock scheme `consul` is not installed; pip install btw-lock-consul",
        f"{checker.directory}/btw.toml:3: warning: pager: extension `pager` is not installed; pip install btw-pager",
    ]


def test_only_named_packages(checker: Checker) -> None:
    """With names only their problems are reported; a name that is not there is one."""
    checker.package("a", POOL)
    checker.package("b", "type = 3")
    assert checker.problems("a") == []
    assert len(checker.problems("a", "b")) == 1
    (problem,) = checker.problems("a", "c")
    assert "there is no package `c` (there are: a, b)" in problem


def test_btw_toml_that_is_wrong_ends_the_check(checker: Checker) -> None:
    """Without a valid btw.toml nothing else can be judged; its problems are the report, also as JSON."""
    (checker.directory / "btw.toml").write_text("pacee = 1\nlock = 2\n")
    assert len(checker.problems()) == 2
    done = checker.run("--json")
    assert done.exit_code == 78
    assert [each["line"] for each in json.loads(done.stdout)["problems"]] == [1, 2]


def test_the_report(checker: Checker) -> None:
    """Text and JSON show each distinct time line with its packages, and what nothing guards against."""
    for name, timeout in [("a", 30), ("b", 30), ("c", 60)]:
        checker.package(name, POOL.replace("/a", f"/{name}"), head=f"timeout = {timeout}\n")
    done = checker.run()
    assert "Worst failover of a, b, when its node vanishes:" in done.stdout
    assert "Worst failover of c, when its node vanishes:" in done.stdout
    assert "What nothing guards a, b with lock local, self_fence none against:\n" in done.stdout
    assert "  Two at once are possible: store data set back" in done.stdout
    assert "NEVER TWO" not in done.stdout
    assert done.stdout.endswith("3 packages read, 0 errors, 0 warnings.\n")
    said = json.loads(checker.run("--json").stdout)
    assert (said["ok"], said["packages"], said["problems"]) == (True, ["a", "b", "c"], [])
    assert [each["packages"] for each in said["timings"]] == [["a", "b"], ["c"]]
    assert said["timings"][0]["lease"] == pytest.approx(61.7)
    assert [each["packages"] for each in said["safety"]] == [["a", "b"], ["c"]]
    assert said["safety"][0]["rows"][0]["two"]["kept"] is True


FENCER = """
class Fencer(Resource, tag="fencer"):
    layer = "fencing"
    shared = True

    def fence(self, ctx, former): ...

@hookimpl
def btw_resource_types():
    return [Fencer]
"""


def test_the_safety_table_of_a_package(checker: Checker, tmp_path: Path) -> None:
    """A package that is named gets the whole table in a terminal's width, with its own times and the node's settings;
    it counts whether its shared disks are fenced, and whether that is all that it shares."""
    checker.site.install("btw-fencer", {RESOURCES: ["fencer"]}, FENCER)
    checker.package("a", 'type = "fencer"', head="timeout = 60\n")
    checker.package("b", POOL)
    (checker.directory / "btw.toml").write_text(f'lock = "local:{tmp_path}/x.db"\nself_fence = "stop"\n')
    done = checker.run("a")
    assert "What keeps the promises of a with lock local, self_fence stop, when a fault" in done.stdout
    assert "at H (90 s)" in done.stdout
    assert max(map(len, done.stdout.partition("FAULT  ")[2].splitlines())) <= 100
    said = json.loads(checker.run("--json").stdout)["safety"]
    found = [(each["packages"], each["fenced_on_disk"], each["disk_pays"]) for each in said]
    assert found == [(["a"], True, True), (["b"], False, False)]
    assert {each["self_fence"] for each in said} == {"stop"}


@given(st.builds(Timing, pace=st.floats(0.1, 9), timeout=st.floats(10, 1e4), stop_timeout=st.floats(0.1, 1e4)))
def test_the_time_line_has_every_number(timing: Timing) -> None:
    """Whatever the times, the drawing has its four parts in a terminal's width, and all its instants."""
    bar, *rows = timeline(timing).splitlines()
    assert [part.strip(" -") for part in bar.strip().strip("|").split("|")] == ["T", "S", "g", "P+4r"]
    assert len(bar) <= 80
    at = [float(row.split()[0]) for row in rows]
    hard = timing.timeout + timing.stop_timeout
    assert at == pytest.approx([0, timing.timeout, hard, timing.lease, timing.worst_failover()], abs=0.051)
