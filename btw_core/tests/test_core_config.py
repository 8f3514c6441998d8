"""btw.toml and package files: what they say, and everything that is wrong with them at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_core_plugins import ONE_TYPE, Site

from btw_core.config import Package, load_all, load_package
from btw_core.parameters import seconds
from btw_core.plugins import EXTENSIONS, RESOURCES, Plugins
from btw_core.resource import ConfigError, Problem
from btw_core.settings import Setup, load_setup
from btw_core.timing import Timing
from btw_core.types import ResourceSpec

DISK = """
from pathlib import Path

class Disk(Resource, tag="disk", kw_only=True, rename={"verb": "start"}):
    layer = "storage"
    shared = True
    device: Path
    count: Annotated[int, Meta(ge=1, le=8)] = 1
    verb: list[str] = []
    wait: Annotated[Seconds, Meta(description="how long to wait")] = Seconds(1)

    def heal(self, ctx): pass

    def __post_init__(self):
        if self.count == 7:
            raise ValueError("7 is unlucky")

@hookimpl
def btw_resource_types():
    return [Disk]
"""
SCRIPTS = """
@hookimpl
def btw_package_file(path):
    first = path.read_text().partition("\\n")[0]
    if first == "crash":
        raise OSError("boom")
    if first == "bad":
        raise ValueError("answers nothing to `echo pace`")
    if first == "script":
        return {"package": {"pace": "2s"}, "resource": [{"type": "pool", "path": str(path)}]}
    return None
"""


class Node:
    """A configuration directory and what is installed."""

    def __init__(self, directory: Path, site: Site) -> None:
        self.directory = directory
        self.packages = directory / "packages"
        self.packages.mkdir(parents=True)
        site.install("btw-disk", {RESOURCES: ["disk"]}, DISK)
        site.install("btw-pool", {RESOURCES: ["pool"]}, ONE_TYPE.format(cls="Pool", tag="pool"))
        site.install("btw-scripts", {EXTENSIONS: ["scripts"]}, SCRIPTS)

    def config(self, text: str) -> None:
        (self.directory / "btw.toml").write_text(text)

    def package(self, name: str, text: str, mode: int = 0o644) -> Path:
        file = self.packages / name
        file.write_text(text)
        file.chmod(mode)
        return file

    def setup(self, **said: str) -> Setup:
        return load_setup(str(self.directory), **said)

    def load(self, name: str = "web", **said: str) -> Package:
        setup = self.setup(**said)
        return load_package(name, setup.config, setup.places, self.plugins())

    def load_all(self) -> tuple[list[Package], list[Problem]]:
        setup = self.setup(node="n1")
        return load_all(setup.config, setup.places, self.plugins())

    def plugins(self) -> Plugins:
        """Without the extensions that happen to be installed here: they would read package scripts themselves."""
        plugins = Plugins()
        plugins.found[EXTENSIONS] = {"scripts": plugins.found[EXTENSIONS]["scripts"]}
        return plugins

    def refused(self, text: str | None = None, **said: str) -> list[str]:
        """The problems of packages/web.toml with this text (of btw.toml without), without the directory."""
        with pytest.raises(ConfigError) as caught:
            if text is None:
                self.setup(**said)
            else:
                self.package("web.toml", text)
                self.load(**said)
        return [str(problem).removeprefix(f"{self.packages}/") for problem in caught.value.problems]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Site(tmp_path / "site") as site:
        yield Node(tmp_path / "etc", site)


def test_a_whole_package(node: Node) -> None:
    """Times in every unit, resources in order with their names, and what the core must know of each."""
    node.config('lock = "local:x.db"\nclock_error = 0.02\nscheduling_slack = "250ms"\nnode = "n1"\n')
    file = node.package(
        "web.toml",
        """
        [package]
        description = "shop"
        pace = "500ms"
        timeout = 10
        start_timeout = "2m"
        stop_timeout = "0.5h"
        nodes = ["n1", "n2"]
        [[resource]]
        type = "disk"
        device = "/dev/sdx"
        start = ["a", "b"]
        stop_timeout = "3 s"
        [[resource]]
        type = "disk"
        device = "/dev/sdy"
        count = 8
        [[resource]]
        name = "front"
        type = "pool"
        path = "/x"
        """,
    )
    package = node.load()
    assert package.file == package.spec.path == str(file)
    assert package.spec.timing == Timing(
        pace=0.5, timeout=10, start_timeout=120, stop_timeout=1800, clock_error=0.02, slack=0.25
    )
    assert package.spec.resources == (
        ResourceSpec(name="disk", type="disk", shared=True, heals=True, layer="storage", stop_timeout=3.0),
        ResourceSpec(name="disk-2", type="disk", shared=True, heals=True, layer="storage"),
        ResourceSpec(name="front", type="pool"),
    )
    assert [each.name for each in package.resources] == ["disk", "disk-2", "front"]
    assert package.resources[0].device == Path("/dev/sdx")  # type: ignore[attr-defined]
    assert package.resources[0].verb == ["a", "b"]  # type: ignore[attr-defined]
    assert package.refused_on("n2") == ""
    assert package.refused_on("n3") == f"{file}:8: package `web` is for nodes n1, n2, this node is `n3`"


def test_everything_wrong_is_said_at_once(node: Node) -> None:
    """Unknown, misplaced, misspelt, missing keys, wrong types, units and limits: each in one line with its place."""
    assert node.refused(
        """pace = 4
[package]
timeout = "10 parsecs"
pacee = 3
path = "/x"
lock = "local:/x"
nodes = ["a b"]
start_timeout = true

[[resource]]
type = "pool"
pth = "/x"

[[resource]]
type = "disk"
device = 5
count = 9
wait = -1
frobnicate = 1
timeout = 3

[[resource]]
type = "quorum"

[[resource]]
name = "x"

[resources]
"""
    ) == [
        "web.toml:1: pace: `pace` belongs below [package]; move it there",
        'web.toml:3: timeout: found "10 parsecs", allowed: seconds '
        '(write a number, or text such as "500ms", "10s", "2m", "1h")',
        "web.toml:4: pacee: unknown key `pacee`; did you mean `pace`?",
        "web.toml:5: path: `path` belongs below [[resource]]; move it there",
        "web.toml:6: lock: `lock` belongs in btw.toml; move it there",
        'web.toml:7: nodes: found "a b", '
        "allowed: 1 to 39 letters, digits, `.`, `_` or `-`, the first a letter or digit",
        "web.toml:8: start_timeout: found true, allowed: seconds "
        '(write a number, or text such as "500ms", "10s", "2m", "1h")',
        'web.toml:10: path: `path` is missing (where it is); add path = "/srv/pool"',
        "web.toml:12: pth: unknown key `pth`; did you mean `path`?",
        "web.toml:15: type: `disk` touches what other machines can touch, but the lock is the embedded one that nobody "
        "chose; write lock = in btw.toml: a store that all nodes reach, or local:PATH if this is the only computer",
        "web.toml:16: device: found 5, allowed: path",
        "web.toml:17: count: found 9, allowed: whole number, at least 1, at most 8",
        "web.toml:18: wait: found -1, allowed: seconds (must not be negative, nor more than 1e+09)",
        "web.toml:19: frobnicate: unknown key `frobnicate`; allowed here: "
        "device, count, start, wait, name, start_timeout, stop_timeout",
        "web.toml:20: timeout: `timeout` belongs below [package]; move it there",
        "web.toml:23: type: resource type `quorum` is not installed; pip install btw-quorum",
        'web.toml:25: type: `type` is missing; add type = "...", see `btw plugin list`',
        "web.toml:28: resources: unknown key `resources`; did you mean `resource`?",
    ]


POOL = '[[resource]]\ntype = "pool"\npath = "/x"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is nothing to run"),
        ('[resource]\ntype = "pool"\n', "write [[resource]]"),
        ("package = 1\n" + POOL, "web.toml:1: package: must be a table; write [package]"),
        (POOL + POOL + 'name = "pool"\n', "web.toml:7: name: two resources are named `pool`, the other in line 1"),
        (POOL + 'name = "a/b"\n', 'web.toml:4: name: found "a/b"'),
        (POOL + "stop_timeout = 0\n", "web.toml:4: stop_timeout: found 0, must be greater than 0"),
        (POOL.replace("/x", "CHANGE ME"), 'web.toml:3: path: is still "CHANGE ME" from `btw new`'),
        ("[package]\ntimeout = 4\n" + POOL, "web.toml:2: timeout: timeout 4 s <= pace 4 s"),
        ("[package]\npace = 40\n" + POOL, "web.toml:2: pace: timeout 30 s <= pace 40 s"),
        ("[package]\nstop_timeout = 0\n" + POOL, "web.toml:2: stop_timeout: stop_timeout = 0 s: must be greater"),
        ('[package]\non_stop_failure = "fence"\n' + POOL, "cannot fence this node"),
        ('[package]\non_stop_failure = "pray"\n' + POOL, 'allowed: "hold"'),
        ("[package]\nnodes = []\n" + POOL, "no node may run it"),
        ('[package.env]\nA = "1"\nBTW_NODE = "x"\n' + POOL, 'web.toml:3: BTW_NODE: found "BTW_NODE", allowed: letters'),
        ('[package]\nenv = { "a-b" = "1" }\n' + POOL, "rename it, such as PEV_PORT"),
        ("[package]\nenv = { PEV_PORT = 8080 }\n" + POOL, "web.toml:2: env: found { \"PEV_PORT\" = 8080 }"),
        ('[package]\nlog = "web.log"\n' + POOL, 'web.toml:2: log: found "web.log", relative to the directory'),
        ('[[resource]]\ntype = "disk"\ndevice = "/d"\ncount = 7\n', "7 is unlucky"),
        ("[package]\ntimeout = 10s\n", "web.toml:2: not TOML"),
    ],
)
def test_a_single_fault(node: Node, text: str, said: str) -> None:
    """Each of these package files is refused for exactly one reason."""
    (problem,) = node.refused(text, lock="local:/x", node="n1")
    assert said in problem


def test_a_changed_environment_is_a_change_of_every_resource(node: Node) -> None:
    """What runs would not see it before its next start, so `btw apply` has to hear of it. A log may change any time."""
    text = "[package]\n{}\n" + POOL
    digests = []
    for said in ("", 'env = { PEV_A = "1" }', 'env = { PEV_A = "2" }', 'log = "/var/log/web"'):
        node.package("web.toml", text.format(said))
        digests.append(node.load().digests()["pool"])
    assert len(set(digests[:3])) == 3
    assert digests[3] == digests[0]
    node.package("web.toml", text.format('env = { PEV_A = "1" }\nlog = "/var/log/web"'))
    assert (node.load().env, node.load().log) == ({"PEV_A": "1"}, "/var/log/web")


def test_shared_types_need_a_lock_that_somebody_chose(node: Node) -> None:
    """The embedded lock is accepted for a shared type once it is written down, in btw.toml or on the command line."""
    text = '[[resource]]\ntype = "disk"\ndevice = "/d"\n'
    (problem,) = node.refused(text)
    assert "nobody chose" in problem
    assert node.load(lock="local:/x").spec.resources[0].shared
    node.config('lock = "local:/x"')
    assert node.load().spec.resources[0].shared


def test_btw_toml(node: Node) -> None:
    """Defaults without a file; what is written; the command line over it; a relative lock lies beside the file."""
    setup = node.setup()
    assert (setup.config.cluster, setup.config.lock_explicit) == ("btw", False)
    assert setup.config.node
    assert setup.lock == f"local:{node.directory}/state/local.db"
    node.config('cluster = "c"\nnode = "a"\nlock = "local:l.db"\n[plugins.on-event]\ncommand = "x"\n')
    setup = node.setup(plugins=" a, ,btw-b")
    assert (setup.config.cluster, setup.config.node, setup.lock) == ("c", "a", f"local:{node.directory}/l.db")
    assert setup.config.plugins == {"on-event": {"command": "x"}}
    assert setup.restrict == ("a", "btw-b")
    setup = node.setup(node="b", lock="local:l.db")
    assert (setup.config.node, setup.lock) == ("b", f"local:{Path.cwd()}/l.db")


def test_everything_wrong_in_btw_toml(node: Node) -> None:
    """btw.toml gets the same treatment as package files."""
    node.config(
        'pace = 3\nclusster = "x"\nnode = "-a"\nlock = "nothing"\nwatchdog = "/dev/watchdog"\nself_fence = 1\n'
        "clock_error = 0.7\nscheduling_slack = -1\nplugins = 3\n"
    )
    problems = [problem.removeprefix(f"{node.directory}/btw.toml:") for problem in node.refused()]
    assert problems == [
        "1: pace: `pace` belongs below [package] in a package file; move it there",
        "2: clusster: unknown key `clusster`; did you mean `cluster`?",
        '3: node: found "-a", allowed: 1 to 39 letters, digits, `.`, `_` or `-`, the first a letter or digit; '
        'set node = "..."',
        '4: lock: found "nothing", allowed: "scheme:rest"; such as "local:/PATH"',
        '5: watchdog: found "/dev/watchdog", but self_fence is "none"; write self_fence = "watchdog"',
        '6: self_fence: found 1, allowed: "none" or "stop" or "reboot" or "watchdog"',
        "7: clock_error: found 0.7, allowed: number, at least 0, less than 0.5",
        "8: scheduling_slack: found -1, allowed: seconds (must not be negative, nor more than 1e+09)",
        "9: plugins: found 3, allowed: table",
    ]
    node.config("")
    assert node.refused(node="a/b", lock="x") == [
        '--node: found "a/b", allowed: 1 to 39 letters, digits, `.`, `_` or `-`, the first a letter or digit',
        '--lock: found "x", allowed: scheme:rest',
    ]


def test_a_password_in_the_lock_is_refused_and_not_shown(node: Node) -> None:
    """In btw.toml or on the command line: the message says where it belongs, and does not repeat it."""
    node.config('lock = "etcd://me:hunter2@host:2379/btw"')
    (problem,) = node.refused()
    assert "btw.toml:1: lock: a user or password stands in it" in problem and "hunter2" not in problem
    node.config("")
    (problem,) = node.refused(lock="etcd://me:hunter2@host")
    assert problem.startswith("--lock: a user or password") and "hunter2" not in problem


def test_a_missing_package_lists_what_there_is(node: Node) -> None:
    """A wrong name is answered with the closest one and with all there are."""
    node.package("web.toml", POOL)
    node.package("database.toml", POOL)
    with pytest.raises(ConfigError) as caught:
        node.load("databse")
    assert "there is no package `databse` (there are: database, web); did you mean `database`?" in str(caught.value)


def test_what_lies_about_is_no_package(node: Node) -> None:
    """Directories, dot files, backups of editors, README, files without run bit are passed over."""
    node.package("web.toml", POOL)
    for name in ("web.toml~", ".web.toml.swp", "x.swp", ".hidden", "README", "README.md", "#web.toml#", "notes"):
        node.package(name, "junk", 0o755 if name != "notes" else 0o644)
    (node.packages / "modules").mkdir()
    packages, problems = node.load_all()
    assert [package.name for package in packages] == ["web"]
    assert problems == []


def test_package_scripts(node: Node) -> None:
    """A file that is not TOML is what a plugin makes of it; refused, crashed over and unknown ones are problems."""
    node.package("good", "script\n", 0o755)
    refusing = node.package("refusing", "bad\n", 0o755)
    crashing = node.package("crashing", "crash\n", 0o755)
    unknown = node.package("unknown", "?\n", 0o755)
    packages, problems = node.load_all()
    assert [(each.name, each.spec.timing.pace, each.spec.resources[0].type) for each in packages] == [
        ("good", 2, "pool")
    ]
    assert [str(problem) for problem in problems] == [
        f"{crashing}: a plugin failed over this file: OSError: boom",
        f"{refusing}: answers nothing to `echo pace`",
        f"{unknown}: no installed plugin reads this file; pip install btw-exec (package scripts)",
    ]
    file = node.package("norun", "?\n")
    with pytest.raises(ConfigError, match=f"it has no run bit.*chmod \\+x {file}"):
        node.load("norun")


def test_two_packages_of_one_name(node: Node) -> None:
    """web and web.toml are two packages of one name; neither is chosen."""
    node.package("web", "script\n", 0o755)
    node.package("web.toml", POOL)
    node.package("-x.toml", POOL)
    packages, problems = node.load_all()
    assert packages == []
    assert ["two packages of one name: web and web.toml" in problem.text for problem in problems] == [False, True]
    assert "`-x` is no package name" in problems[0].text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('self_fence = "watchdog"\n', 'watchdog: names no device; such as watchdog = "/dev/watchdog"'),
        ('watchdog = "/dev/watchdog"\nself_fence = "reboot"\n', 'but self_fence is "reboot"; write self_fence ='),
        ('self_fence = "watchdog"\nwatchdog = "/dev/x"\nwatchdog_timeout = 0.5\n', "found 0.5 s, allowed: at least 1"),
        ("priority = 100\n", "priority: found 100, allowed:"),
    ],
)
def test_what_no_keeper_could_do_is_refused(node: Node, text: str, said: str) -> None:
    """A device without self_fence, self_fence without a device, and times and priorities that there are not."""
    node.config(text)
    (problem,) = node.refused()
    assert said in problem


def test_the_watchdog_is_part_of_the_times(node: Node) -> None:
    """W belongs to the lease, and a package whose times leave no room for it is refused with the inequality."""
    node.config('lock = "local:/x"\nself_fence = "watchdog"\nwatchdog = "/dev/watchdog"\nwatchdog_timeout = 20\n')
    (problem,) = node.refused("[package]\ntimeout = 20\nstop_timeout = 20\n" + POOL)
    assert "2 x watchdog_timeout 20 s > timeout 20 + stop_timeout 20 - pace 4" in problem
    node.package("web.toml", POOL.replace("/x", "/y"))
    assert node.load().spec.timing.watchdog == 20.0


@pytest.mark.parametrize("value", [-1, 1e10, 10**400, float("nan"), float("inf"), "999999999h"])
def test_a_time_that_nobody_means(value: object) -> None:
    """Where it is a slip of the pen it is refused, not waited for."""
    with pytest.raises(ValueError, match="must not be negative, nor more than"):
        seconds(value)
