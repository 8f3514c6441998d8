"""`btw plugin new` and `btw plugin check`, without the long runs: those are in tests/test_packaging.py, with wheels."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from btw_core.resource import ConfigError
from btw_core.scaffold import write
from btw_core.scaffold.layout import Project

#: What a whole run would take long for: one rule of each kit.
QUICK = "-k it_is_found or it_has_a_name"


def btw(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "btw_core.cli", *words]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=110, check=False)


def refused(name: str, directory: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        write(name, directory)
    return str(caught.value)


def test_a_new_project_is_complete(tmp_path: Path) -> None:
    """Every file is there and is what it claims to be; no placeholder is left; names are spelt as each place wants."""
    project = write("disk_pool", tmp_path)
    assert project == tmp_path / "btw_disk_pool"
    files = {str(path.relative_to(project)): path.read_text() for path in project.rglob("*") if path.is_file()}
    assert set(files) == {
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        ".gitignore",
        ".github/workflows/tests.yml",
        "src/btw_disk_pool/__init__.py",
        "src/btw_disk_pool/disk_pool.py",
        "src/btw_disk_pool/py.typed",
        "tests/test_disk_pool.py",
    }
    for name, text in files.items():
        assert not re.search(r"@[a-z_]+@", text), name
        if name.endswith(".py"):
            compile(text, name, "exec")
    said = tomllib.loads(files["pyproject.toml"])["project"]
    assert said["name"] == "btw-disk-pool" and said["entry-points"]["btw.resources"] == {"disk_pool": "btw_disk_pool"}
    assert "class DiskPool(Resource" in files["src/btw_disk_pool/disk_pool.py"]
    assert said["dependencies"] == ["btw-core>=0.1,<0.2"]


@pytest.mark.parametrize("name", ["Zpool", "my-disk", "3d", "class", "a__b", "", "x" * 41, "../x"])
def test_what_cannot_name_a_type_is_refused(name: str, tmp_path: Path) -> None:
    """The refusal shows what may be written; nothing is made."""
    assert "cannot name a resource type; take lower-case letters" in refused(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    """Names of installed plugins, Python packages that are there, directories that are there."""
    assert refused("local", tmp_path).startswith("lock scheme `local` is given by btw-core already")
    assert refused("core", tmp_path).startswith("there is a Python package btw_core already")
    write("disk", tmp_path)
    assert "exists and is not written over" in refused("disk", tmp_path)


def test_a_project_is_checked_where_it_lies(tmp_path: Path) -> None:
    """Not installed, it is found by its entry points; the summary names what was tried. (Two rules of 22.)"""
    write("disk", tmp_path)
    done = btw("plugin", "check", "btw_disk", cwd=tmp_path, PYTEST_ADDOPTS=f"'{QUICK}'")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "disk (resource): 1 rules held" in done.stdout
    assert "btw-disk (plugin): 1 rules held" in done.stdout
    assert not list(tmp_path.glob("btw_disk/**/*.dist-info"))


def test_a_type_without_a_kit_is_named(tmp_path: Path) -> None:
    """Tests that pass are not enough: a resource type that no rule was tried on makes the check fail."""
    project = write("disk", tmp_path)
    (project / "tests/test_disk.py").write_text("def test_nothing():\n    assert 1 + 1 == 2\n")
    done = btw("plugin", "check", cwd=project)
    assert done.returncode == 1
    assert "disk: no rule was tried; its tests need a subclass of btw_core.testing.ResourceContract" in done.stdout


def test_a_broken_rule_is_named(tmp_path: Path) -> None:
    """With what happened and where to read about it, in the check's summary and its exit code."""
    project = write("disk", tmp_path)
    source = project / "src/btw_disk/disk.py"
    source.write_text(source.read_text().replace("frozen=True, ", "frozen=False, "))
    done = btw("plugin", "check", cwd=project, PYTEST_ADDOPTS=f"'{QUICK}'")
    assert done.returncode == 1
    assert "rule broken: it_is_found: the type is found through its entry point" in done.stdout
    assert "found: resource type `disk` (of btw-disk 0.1.0)" in done.stdout
    assert "read: the docstrings of btw_core.resource" in done.stdout


def test_a_plugin_without_bounds_is_told(tmp_path: Path) -> None:
    """A plugin that does not say which btw-core it was made for breaks a rule."""
    project = write("disk", tmp_path)
    file = project / "pyproject.toml"
    needs = tomllib.loads(file.read_text())["project"]["dependencies"][0]
    file.write_text(file.read_text().replace(needs, "btw-core"))
    done = btw("plugin", "check", cwd=project, PYTEST_ADDOPTS="'-k which_btw_core or it_is_found'")
    assert done.returncode == 1
    assert "btw-disk requires btw-core; say btw-core>=X,<Y" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-type"], "resource type `no-such-type` is not installed; pip install btw-no-such-type"),
        (["flag", "--set", "path"], "--set path is no KEY=VALUE as TOML writes it; text needs quotes"),
        (["flag", "--set", "path=/tmp/x"], "--set path=/tmp/x is no KEY=VALUE as TOML writes it; text needs quotes"),
        (["/nonexistent"], "/nonexistent/pyproject.toml: there is no such file; name the directory"),
    ],
)
def test_what_cannot_be_checked_is_said(words: list[str], said: str, tmp_path: Path) -> None:
    """Each refusal names the place and the remedy."""
    if "flag" in words:
        pytest.importorskip("btw_exec", reason="needs btw-exec")
    done = btw("plugin", "check", *words, cwd=tmp_path)
    assert said in done.stderr and done.returncode == 78


def test_an_installed_type_is_checked_by_its_examples(tmp_path: Path) -> None:
    """Required parameters come from --set; what is up already is not touched."""
    pytest.importorskip("btw_exec", reason="needs btw-exec")
    flag = tmp_path / "flag"
    words = ["plugin", "check", "flag", "--set", f'path="{flag}"']
    done = btw(*words, cwd=tmp_path, PYTEST_ADDOPTS="'-k it_is_found or never_ran'")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "flag (resource): 2 rules held" in done.stdout
    flag.touch()
    done = btw(*words, cwd=tmp_path, PYTEST_ADDOPTS="'-k never_ran'")
    assert done.returncode == 1 and flag.exists()
    assert "it is up on this computer, and the kit would start and stop it" in done.stdout + done.stderr


def test_a_project_is_laid_out_as_it_says(tmp_path: Path) -> None:
    """Metadata for importlib.metadata: name, version, requirements, entry points."""
    project = Project(write("disk", tmp_path))
    project.lay_out(tmp_path / "site")
    (information,) = (tmp_path / "site").iterdir()
    assert information.name == "btw_disk-0.1.0.dist-info"
    assert "Requires-Dist: btw-core>=" in (information / "METADATA").read_text()
    assert (information / "entry_points.txt").read_text() == "[btw.resources]\ndisk = btw_disk\n"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    with pytest.raises(ConfigError, match="is no project of a plugin"):
        Project(tmp_path)
