"""Plugins that break the rules (tests/hostile): each is caught by the kit, by the rule's name, and what becomes of
never two when it is run anyway, on two nodes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib import invalidate_caches
from pathlib import Path
from typing import Any, ClassVar

import pytest

from btw_core.plugins import Plugins
from btw_core.scaffold.layout import Project
from btw_core.testing import Bench, ResourceContract
from system.conftest import ROOT, Cluster

Table = dict[str, Any]
HOSTILE = ROOT / "tests/hostile"
PACKAGE = """
[package]
pace = 0.5
timeout = 3
start_timeout = 2
stop_timeout = 2

[[resource]]
type = "{type}"
dir = "{dir}"
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """It is found, here and by what is started here, as if it were installed."""
    site = tmp_path_factory.mktemp("site")
    project = Project(HOSTILE)
    project.lay_out(site)
    paths = [str(project.sources), str(site)]
    with pytest.MonkeyPatch.context() as patch:
        for path in paths:
            patch.syspath_prepend(path)
        patch.setenv("PYTHONPATH", os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]))
        invalidate_caches()
        yield
    sys.modules.pop("btw_hostile", None)


# ---- caught by the kit
class Kit(ResourceContract):
    patience: ClassVar[float] = 6.0
    slack: ClassVar[float] = 1.0

    def effect(self, table: Table) -> bool:
        return any(Path(table["dir"]).glob("up-*"))


def found_by(rule: str, table: Table, directory: Path) -> str:
    """What the kit says of it when this rule is tried."""
    kit = Kit()
    kit.plugins = Plugins()
    test = getattr(kit, f"test_{rule}")
    kit._rule = f"{rule}: {test.__doc__}"
    with pytest.raises(pytest.fail.Exception) as caught:
        if rule == "start_ends_in_time":
            test(kit.plugins.resource_type(table["type"]), table, directory)
        else:
            with Bench(directory / "btw", table, patience=kit.patience, slack=kit.slack) as bench:
                test(bench, table)
    return str(caught.value)


LIFE = "it_is_up_after_start_and_down_after_stop"


@pytest.mark.parametrize(
    ("type", "tried", "broken", "found"),
    [
        ("starts_in_status", "what_never_ran_is_down_and_can_be_stopped", "", "before any start status says up"),
        ("deaf", "start_ends_in_time", "operations_end_in_time", "start had 1.5 s, and had to be killed"),
        ("holds_gil", "start_ends_in_time", "operations_end_in_time", "start had 1.5 s, and had to be killed"),
        ("holds_gil_in_status", LIFE, "status_answers", "in a look was lost "),
        ("segfaults", LIFE, "", "the start failed: ended without a result: killed by SIGSEGV"),
        ("exits", LIFE, "", "the start failed: "),
        ("leaks", "status_changes_nothing", "", "each status leaves 10"),
        ("stop_lies", LIFE, "", "the stop (reason user) failed: "),
        ("all_lies", LIFE, "", "status says down, but effect() finds something of it"),
    ],
)
def test_the_kit_names_the_rule(hostile: None, tmp_path: Path, type: str, tried: str, broken: str, found: str) -> None:
    """The rule that is broken, with its text and what happened."""
    said = found_by(tried, {"type": type, "dir": str(tmp_path)}, tmp_path)
    assert said.startswith(f"rule broken: {broken or tried}: ")
    assert found in said.partition("\nfound: ")[2]


def test_the_kit_names_what_hangs_in_d_state(hostile: None, tmp_path: Path, hang: Callable[[Path], Any]) -> None:
    """With the process that nothing ends."""
    hang(tmp_path / "hanging")
    said = found_by("start_ends_in_time", {"type": "hangs", "dir": str(tmp_path)}, tmp_path)
    assert said.startswith("rule broken: operations_can_be_killed: ")
    assert "start survives SIGKILL: pid " in said and "state D" in said


# ---- and when it is run anyway
class Nodes:
    """Two nodes that run one package of each type; n1 is there first."""

    def __init__(self, cluster: Cluster, *types: str) -> None:
        self.cluster = cluster
        for each in types:
            directory = cluster.data / each
            directory.mkdir(exist_ok=True)
            (cluster.directory / f"packages/{each}.toml").write_text(PACKAGE.format(type=each, dir=directory))
        for node in ("n1", "n2"):
            cluster.run(node, *types)
            cluster.wait(node, "", event="began")

    def up(self, package: str) -> list[str]:
        """The nodes that have its effect now."""
        return sorted(path.name.removeprefix("up-") for path in (self.cluster.data / package).glob("up-*"))

    def met(self, package: str) -> str:
        """What was written down by whoever came when another was there: "" = never two."""
        two = self.cluster.data / package / "two"
        return two.read_text() if two.exists() else ""

    def stop_on_n1(self, package: str) -> None:
        """A person wants it elsewhere; does not wait."""
        assert self.cluster.wait("n1", "running", package)
        self.cluster.btw("stop", package, "--node", "n1")


@pytest.fixture(scope="module")
def nodes(hostile: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    cluster = Cluster(tmp_path_factory.mktemp("n") / "btw")
    types = ["deaf", "holds_gil", "segfaults", "exits", "leaks", "stop_lies", "all_lies", "starts_in_status"]
    try:
        yield Nodes(cluster, *types)
    finally:
        cluster.kill_all()


@pytest.mark.parametrize(
    ("type", "cause"),
    [
        ("deaf", "start took longer than start_timeout"),
        ("holds_gil", "start took longer than start_timeout"),
        ("segfaults", "ended without a result: killed by SIGSEGV"),
        ("exits", "ended without a result: exit code 0"),
    ],
)
def test_a_start_that_breaks_is_taken_back_and_moves(nodes: Nodes, type: str, cause: str) -> None:
    """Killed if need be, stopped, verified down and released: then the other node tries, and never both."""
    for node in ("n1", "n2"):
        assert cause in nodes.cluster.wait(node, "failing", type)["cause"]
        assert nodes.cluster.wait(node, "failed", type)["cause"].startswith("verified down")
    assert nodes.met(type) == ""


@pytest.mark.parametrize("type", ["stop_lies", "starts_in_status"])
def test_what_is_still_up_after_its_stop_is_kept(nodes: Nodes, type: str) -> None:
    """An honest status unmasks a stop that lies, and a status that starts things itself: the lock is not released, and
    the other node starts nothing."""
    nodes.stop_on_n1(type)
    stuck = nodes.cluster.wait("n1", "stuck", type)
    assert "the lock is kept, nobody may start it" in stuck["cause"]
    assert stuck["cause"].endswith("stop returned, but status says up")
    assert nodes.up(type) == ["n1"] and nodes.met(type) == ""


def test_a_leak_runs_on(nodes: Nodes) -> None:
    """Looks that leak harm the observer alone, which can be replaced at any time."""
    nodes.cluster.wait("n1", "running", "leaks")
    assert nodes.up("leaks") == ["n1"] and nodes.met("leaks") == ""


def test_where_all_lie_two_are_possible_and_check_says_so(nodes: Nodes) -> None:
    """Nothing finds out that it is still up, the other node starts it: as the table of `btw check` says, only a disk
    that is fenced would refuse the first one."""
    told = json.loads(nodes.cluster.btw("check", "all_lies", "--node", "n1", "--json").stdout)
    (row,) = (row for row in told["safety"][0]["rows"] if row["fault"] == "stop and status lie")
    assert not row["two"]["kept"] and "Only a disk that is fenced would refuse this node" in row["two"]["text"]
    nodes.stop_on_n1("all_lies")
    nodes.cluster.wait("n2", "running", "all_lies")
    assert nodes.met("all_lies") == "up-n2 beside up-n1\n"


def test_a_status_that_holds_the_interpreter_costs_the_service_no_second_one(hostile: None, cluster: Cluster) -> None:
    """The observer is replaced, and what cannot be looked at for `timeout` is stopped, verified by an operation, and
    moves."""
    nodes = Nodes(cluster, "holds_gil_in_status")
    failing = cluster.wait("n1", "failing")
    assert "not healthy for `timeout`" in failing["cause"]
    cluster.wait("n2", "starting")
    assert nodes.met("holds_gil_in_status") == ""


def test_a_start_in_d_state_keeps_the_lock(hostile: None, cluster: Cluster, hang: Callable[[Path], Any]) -> None:
    """What no signal ends may still have its effect: stuck, with the process named, and the other node waits."""
    mount = hang(cluster.data / "hangs/hanging")
    nodes = Nodes(cluster, "hangs")
    mount.wait_hung()
    stuck = cluster.wait("n1", "stuck")
    assert re.search("lock (that is held )?is kept", stuck["cause"])  # as the stop failed or took too long
    assert "state D" in stuck["cause"]
    assert nodes.up("hangs") in ([], ["n1"]) and nodes.met("hangs") == ""


# ---- refused when it is loaded
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("@hookimpl\ndef btw_resource_types(extra): return []", "hook 'btw_resource_types'"),
        ("raise OSError('not today')", "importing btw_odd failed: OSError: not today"),
        ("raise SystemExit(0)", "importing btw_odd failed: ImportError: SystemExit: 0"),
    ],
)
def test_a_defective_plugin_keeps_btw_from_starting(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    """A wrong signature, an exception at import: `btw run` ends with the plugin, its version and the fault."""
    odd(tmp_path / "one", "btw-odd", source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "one"))
    (cluster.directory / "packages/web.toml").write_text(PACKAGE.format(type="odd", dir="/tmp"))
    done = cluster.btw("run", "web", "--node", "n1")
    assert done.returncode == 78
    assert "resource type `odd` (of btw-odd 1.0): " in done.stderr and said in done.stderr


def test_two_plugins_of_one_name_keep_btw_from_starting(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody chooses silently: both are named."""
    for name in ("btw-odd", "other-odd"):
        odd(tmp_path / name, name, "raise AssertionError('never import this')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'btw-odd'}:{tmp_path / 'other-odd'}")
    (cluster.directory / "packages/web.toml").write_text(PACKAGE.format(type="odd", dir="/tmp"))
    done = cluster.btw("run", "web", "--node", "n1")
    assert done.returncode == 78
    assert "resource type `odd` is given by both btw-odd 1.0 and other-odd 1.0" in done.stderr


def odd(site: Path, name: str, source: str) -> None:
    """A distribution with the resource type `odd`."""
    site.mkdir()
    (site / "btw_odd.py").write_text(f"from btw_core import hookimpl\n{source}\n")
    project = site / "project"
    project.mkdir()
    head = f'[project]\nname = "{name}"\nversion = "1.0"\n'
    (project / "pyproject.toml").write_text(f'{head}[project.entry-points."btw.resources"]\nodd = "btw_odd"\n')
    Project(project).lay_out(site)
