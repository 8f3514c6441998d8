"""Plugins: found, loaded, validated, refused. The plugins are invented, and really installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import invalidate_caches
from pathlib import Path
from textwrap import dedent

import pytest

import btw_core
from btw_core import __version__
from btw_core.plugins import EXTENSIONS, LOCKS, RESOURCES, Plugins, find, load, open_store
from btw_core.resource import ConfigError, Resource

HEAD = """
from typing import Annotated
from msgspec import Meta
from btw_core import Resource, Seconds, hookimpl
"""
ONE_TYPE = """
class {cls}(Resource, tag="{tag}"):
    \"\"\"An invented {tag}.\"\"\"
    path: Annotated[str, Meta(description="where it is", examples=["/srv/{tag}"])]

    def identity(self):
        return ("path", self.path)

@hookimpl
def btw_resource_types():
    return [{cls}]
"""


class Site:
    """A directory on sys.path into which distributions are installed, and from which they vanish again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._modules: list[str] = []

    def __enter__(self) -> Site:
        self.directory.mkdir()
        sys.path.insert(0, str(self.directory))
        return self

    def __exit__(self, *_: object) -> None:
        sys.path.remove(str(self.directory))
        for module in self._modules:
            sys.modules.pop(module, None)

    def install(
        self, name: str, points: Mapping[str, list[str]], source: str, version: str = "1.0", needs: str = ""
    ) -> str:
        """A distribution with one module, whose entry points have the names in `points`. Returns the module's name."""
        module = f"{name.replace('-', '_')}_{len(self._modules)}"
        self._modules.append(module)
        (self.directory / f"{module}.py").write_text(HEAD + dedent(source))
        info = self.directory / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        rows = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        rows += [f"Requires-Dist: {needs}"] if needs else []
        (info / "METADATA").write_text("\n".join(rows) + "\n")
        rows = [
            row for group, names in points.items() for row in (f"[{group}]", *(f"{each} = {module}" for each in names))
        ]
        (info / "entry_points.txt").write_text("\n".join(rows) + "\n")
        invalidate_caches()
        return module

    def install_type(self, tag: str, name: str = "", version: str = "1.0") -> str:
        """A distribution with one simple resource type that has a `path`."""
        source = ONE_TYPE.format(cls=tag.title().replace("_", ""), tag=tag)
        return self.install(name or f"btw-{tag}", {RESOURCES: [tag]}, source, version)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as found:
        yield found


def refused(name: str, restrict: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        Plugins(restrict).resource_type(name)
    return str(caught.value)


def test_only_what_is_needed_is_imported(site: Site) -> None:
    """Finding imports nothing; asking for one type imports its module and no other; a module is imported once."""
    pool = site.install_type("pool")
    site.install_type("tape")
    broken = site.install("btw-broken", {RESOURCES: ["broken"]}, "raise AssertionError('never import this')")
    plugins = Plugins()
    assert {"pool", "tape", "broken"} <= set(plugins.found[RESOURCES])
    assert not {pool, broken} & set(sys.modules)
    cls = plugins.resource_type("pool")
    assert issubclass(cls, Resource)
    assert cls is plugins.resource_type("pool")
    assert pool in sys.modules
    assert broken not in sys.modules
    assert load(["pool", "tape"]).keys() == {"pool", "tape"}


def test_one_module_serves_several_names(site: Site) -> None:
    """A module behind several entry points of several groups is registered once and answers for each."""
    site.install(
        "btw-both",
        {RESOURCES: ["a1", "a2"], EXTENSIONS: ["ext"], LOCKS: ["mem"]},
        """
        class A1(Resource, tag="a1"): pass
        class A2(Resource, tag="a2"): pass
        @hookimpl
        def btw_resource_types(): return [A1, A2]
        @hookimpl
        def btw_package_file(path): return {"package": {"description": path.name}}
        @hookimpl
        def btw_stores(): return {"mem": lambda rest, settings: rest + settings["x"]}
        """,
    )
    plugins = Plugins()
    assert [plugins.resource_type(name).__name__ for name in ("a1", "a2")] == ["A1", "A2"]
    plugins.extensions(["ext"])
    assert plugins.hook.btw_package_file(path=Path("/x/web")) == {"package": {"description": "web"}}
    assert plugins.hooks(plugins.found[LOCKS]["mem"]) == ["btw_package_file", "btw_resource_types", "btw_stores"]
    assert str(open_store("mem://a,b", {"mem": {"x": "!"}})) == "//a,b!"


def test_missing_plugins_name_the_pip_line(site: Site) -> None:
    """What is not installed names the distribution that gives it; what is misspelt the name that was meant."""
    site.install_type("zpool")
    assert refused("quorum") == "resource type `quorum` is not installed; pip install btw-quorum"
    assert refused("quorum_disk").endswith("pip install btw-quorum-disk")
    assert refused("zpol").endswith("did you mean `zpool`?")
    with pytest.raises(ConfigError, match="lock scheme `consul` is not installed; pip install btw-lock-consul"):
        open_store("consul://127.0.0.1:8500", {})
    with pytest.raises(ConfigError) as caught:
        load(["quorum", "zpool", "backup"])
    assert [problem.remedy for problem in caught.value.problems] == ["pip install btw-quorum", "pip install btw-backup"]


def test_two_distributions_of_one_name_are_refused(site: Site) -> None:
    """A name that two distributions give is refused with both named; nobody chooses silently."""
    site.install_type("pool")
    site.install_type("pool", "other-pool", "2.3")
    with pytest.raises(ConfigError) as caught:
        find()
    text = str(caught.value)
    assert "resource type `pool` is given by both" in text
    assert "btw-pool 1.0" in text
    assert "other-pool 2.3" in text


def test_restriction_by_type_or_distribution(site: Site) -> None:
    """--plugins takes types and distributions, with or without btw-; everything else is left out, typos are named."""
    site.install_type("pool")
    site.install_type("tape")
    site.install("btw-many", {RESOURCES: ["m1"]}, ONE_TYPE.format(cls="M1", tag="m1"))
    for word in ("pool", "btw-pool", "btw_pool"):
        assert set(Plugins([word]).types()) == {"pool"}
    assert set(Plugins(["many", "tape"]).types()) == {"m1", "tape"}
    assert (
        refused("tape", ["pool"])
        == "resource type `tape` (of btw-tape) is left out by --plugins; add tape to --plugins"
    )
    assert refused("pool", ["pol"]).startswith("--plugins: resource type `pol` is not known")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("assert False, 'half built'", "AssertionError: half built"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = (", "SyntaxError"),
        ("", "does not return it"),
        ("@hookimpl\ndef btw_resource_types(): return [str]", "no subclass of Resource"),
        ("@hookimpl\ndef btw_resource_types(): raise OSError('disk')", "btw_resource_types failed: OSError: disk"),
        ("@hookimpl\ndef btw_resource_types(extra): return []", "extra"),
        ("@hookimpl\ndef btw_resource_type(): return []", "unknown hook 'btw_resource_type'"),
        ('class A(Resource, tag="b"): pass\n@hookimpl\ndef btw_resource_types(): return [A]', 'tag="b"'),
        (
            'class A(Resource, tag="odd"):\n  run_timeout: int = 1\n@hookimpl\ndef btw_resource_types(): return [A]',
            "reserved name `run_timeout`",
        ),
        (
            'class A(Resource, tag="odd"):\n  layer = "cellar"\n@hookimpl\ndef btw_resource_types(): return [A]',
            "layer is 'cellar', allowed: fencing, storage, network, program",
        ),
    ],
)
def test_a_defective_plugin_is_named(site: Site, source: str, said: str) -> None:
    """Whatever is wrong with a plugin: the message names the type, its distribution and version, and the fault."""
    site.install("btw-odd", {RESOURCES: ["odd"]}, source, version="0.7")
    text = refused("odd")
    assert text.startswith("resource type `odd` (of btw-odd 0.7): ")
    assert said in text


@pytest.mark.parametrize(
    ("needs", "remedy"),
    [
        ("btw-core>=99.1,<99.2", "pip install --upgrade btw-core"),
        ("btw_core[testing] (>=99.1)", "pip install --upgrade btw-core"),
        ("btw-core~=99.1; python_version > '3'", "pip install --upgrade btw-core"),
        ("btw-core<0.1,>=0.0.9", "pip install --upgrade btw-odd"),
    ],
)
def test_a_plugin_for_another_api_is_refused(site: Site, needs: str, remedy: str) -> None:
    """Before anything of it is imported, with both versions named, and what to upgrade: pip only warns of it."""
    site.install("btw-odd", {RESOURCES: ["odd"]}, "raise AssertionError('never import this')", "0.7", needs)
    text = refused("odd")
    assert text.startswith("resource type `odd` (of btw-odd 0.7) is made for btw-core ")
    assert text.endswith(f"and this is btw-core {__version__}; {remedy}")


@pytest.mark.parametrize("needs", ["", "btw-core", "btw-core>=0.1,<0.2", "btw-core>=0.1.0", "btw-core-x>=99", "a>=99"])
def test_a_plugin_for_this_api_is_taken(site: Site, needs: str) -> None:
    """Bounds that this version keeps, and no bounds at all (the kit of plugins asks for them)."""
    site.install("btw-pool", {RESOURCES: ["pool"]}, ONE_TYPE.format(cls="Pool", tag="pool"), "1.0", needs)
    assert Plugins().resource_type("pool").__name__ == "Pool"


def test_everything_public_is_there() -> None:
    """Each name of `btw_core.__all__` can be had, and a type checker is told the same ones."""
    assert sorted(btw_core.__all__) == sorted(btw_core._WHERE)
    assert all(getattr(btw_core, name) is not None for name in btw_core.__all__)
    text = Path(btw_core.__file__).read_text()
    assert sorted(re.findall(r"import (\w+) as \1", text)) == sorted(btw_core.__all__)


def test_a_lock_that_refuses_its_address(site: Site) -> None:
    """A store's ValueError is a problem of the configuration that shows the lock as written."""
    site.install(
        "btw-lock-mem",
        {LOCKS: ["mem"]},
        """
        def make(rest, settings): raise ValueError("needs a port")
        @hookimpl
        def btw_stores(): return {"mem": make}
        """,
    )
    with pytest.raises(ConfigError, match="lock: lock `mem:x`: needs a port"):
        open_store("mem:x", {})


@pytest.mark.parametrize("home", ["/proc/1/nothing", "/dev/null", ""])
def test_an_unwritable_home_does_not_matter(site: Site, home: str) -> None:
    """Loading needs no home directory and writes no cache."""
    site.install_type("pool")
    env = {**os.environ, "HOME": home, "PYTHONPATH": str(site.directory)}
    env.pop("XDG_CACHE_HOME", None)
    program = "from btw_core.plugins import load; print(*load(['pool']))"
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60, cwd="/")
    assert (done.stdout, done.stderr) == ("pool\n", "")


def test_a_plugin_installed_later_is_seen(site: Site) -> None:
    """Nothing about installed plugins is remembered between two uses in one process."""
    assert "pool" not in Plugins().found[RESOURCES]
    site.install_type("pool")
    assert Plugins().resource_type("pool").__name__ == "Pool"
