"""The built wheels, as a user gets them: installed with what they need into a fresh environment far from any source.

Run by `nox -s wheel`, which builds them into the directory BTW_WHEELS; uv and hatchling stand beside this interpreter.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parent.parent
HELLO = ROOT / "examples/btw_hello"
DISTRIBUTIONS = [ROOT / "btw_core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
#: Seconds for what has to happen: generous, for these computers are busy.
LIMIT = 60.0
CONFIGURATION_ERROR = 78  # exit code, see docs/design.md
PACKAGE = """
[package]
description = "the package file of this test"

[[resource]]
type = "flag"
path = "{flag}"
"""


def wheel(distribution: str) -> Path:
    """The one wheel of a distribution, "btw_core" or the like."""
    directory = os.environ.get("BTW_WHEELS")
    if not directory:
        pytest.skip("BTW_WHEELS names no directory with wheels; run: ./dev test -s wheel")
    found = list(Path(directory).glob(f"{distribution}-*.whl"))
    assert len(found) == 1, f"{directory} must hold one wheel of {distribution}, found {found}"
    return found[0]


class Environment:
    """A virtual environment in `directory` and, beside it, a btw directory that its commands use."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.btw_dir = directory / "btw"
        self.python = directory / "venv/bin/python"
        self.home.mkdir()
        (self.btw_dir / "packages").mkdir(parents=True)
        self._uv("venv", "--python", sys.executable, directory / "venv")

    def install(self, what: Path | str) -> None:
        """A wheel, with extras if need be, or a project (which is built apart, with the pinned tools)."""
        pins = ROOT / "constraints.txt"
        self._uv("pip", "install", "--python", self.python, "-c", pins, "--build-constraint", pins, what)

    def _uv(self, *arguments: str | Path) -> None:
        done = subprocess.run(["uv", *arguments], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr

    def environment(self) -> dict[str, str]:
        """Without anything of this process's environment that names Python things."""
        return {
            "PATH": f"{self.python.parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "BTW_DIR": str(self.btw_dir),
        }

    def run(self, *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Outside the checkout."""
        environment, place = self.environment(), cwd or self.home
        return subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    @contextlib.contextmanager
    def running(self, package: str) -> Iterator[subprocess.Popen[str]]:
        """`btw run` of the package, ended as by Ctrl-C."""
        process = subprocess.Popen(
            ["btw", "run", package],
            cwd=self.home,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            ended = process.poll()
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=LIMIT)
            assert ended is None and process.returncode == 0, f"btw run {package}: exit {process.returncode}\n{output}"

    def btw(self, *arguments: str, code: int = 0) -> str:
        """stdout and stderr of `btw ...`, which must end with `code`."""
        done = self.run("btw", *arguments)
        said = done.stdout + done.stderr
        assert done.returncode == code, f"btw {' '.join(arguments)}: exit {done.returncode}, not {code}\n{said}"
        return said

    def package(self, name: str) -> Path:
        """Writes a package file with one flag; returns the flag's path."""
        flag = self.home / f"{name}.flag"
        (self.btw_dir / "packages" / f"{name}.toml").write_text(PACKAGE.format(flag=flag))
        return flag


@pytest.fixture
def core(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Only btw-core."""
    built = wheel("btw_core")
    environment = Environment(tmp_path_factory.mktemp("e"))  # short: paths of sockets are limited to 107 bytes
    environment.install(built)
    return environment


@pytest.fixture
def both(core: Environment) -> Environment:
    """btw-core and, installed after it, btw-exec."""
    core.install(wheel("btw_exec"))
    return core


def test_core_alone_runs(core: Environment) -> None:
    """btw-core installs without a plugin, from its wheel, and its commands answer."""
    code = "import btw_core as b, importlib.metadata as m; print(b.__file__, b.__version__, m.version('btw-core'))"
    place, version, metadata_version = core.run(core.python, "-c", code).stdout.split()
    assert Path(place).is_relative_to(core.python.parent.parent)
    assert version == metadata_version
    assert version in core.btw("--version")
    assert "local" in core.btw("plugin", "list")
    core.btw("--help")


def test_a_missing_plugin_is_named_with_the_line_that_installs_it(core: Environment) -> None:
    """Whoever lacks a plugin reads which command brings it."""
    core.package("web")
    assert "pip install btw-exec" in core.btw("check", code=CONFIGURATION_ERROR)


def test_core_and_exec_run_a_package(both: Environment) -> None:
    """After btw-exec was installed the package of a flag file passes `check` and can be tried."""
    flag = both.package("web")
    assert "btw-exec" in both.btw("plugin", "list")
    both.btw("check")
    both.btw("try", "web", "status", code=1)
    both.btw("try", "web", "start")
    assert flag.exists()
    both.btw("try", "web", "status")
    both.btw("try", "web", "stop")
    assert not flag.exists()
    both.btw("try", "web", "status", code=1)


def build(project: Path, directory: Path) -> None:
    """Its wheel, as `nox -s wheel` builds them."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"did not happen within {LIMIT:g} s: {what}"
        time.sleep(0.05)


def test_a_newcomer_in_an_empty_directory(core: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    """`btw plugin new`, its tests as they are, `pip install`, a package with it that `btw run` keeps; the time of each
    step is printed. Everything that is installed is a built wheel."""
    took: dict[str, float] = {}

    def step(name: str, since: float) -> float:
        took[name] = time.monotonic() - since
        return time.monotonic()

    core.install(f"{wheel('btw_core')}[testing]")
    at = time.monotonic()
    core.btw("plugin", "new", "zpool")
    project = core.home / "btw_zpool"
    at = step("btw plugin new", at)
    core.install(project)
    at = step("pip install", at)
    tests = core.run("pytest", "-q", cwd=project)
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "zpool (resource): 19 rules held" in tests.stdout
    at = step("its tests", at)
    core.btw("new", "web", "-m", "zpool")
    file, pool = core.btw_dir / "packages/web.toml", core.home / "pool"
    file.write_text(file.read_text().replace('path = "/tmp/zpool-example"', f'path = "{pool}"'))
    core.btw("check", "web")
    with core.running("web"):
        until(pool.exists, "btw run starts it")
        at = step("btw new, check and run until it is up", at)
        assert "web" in core.btw("status")
    assert not pool.exists()
    step("down after Ctrl-C", at)
    with capsys.disabled():
        steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items())
        print(f"\na newcomer's first resource: {sum(took.values()):.1f} s of a computer ({steps})")


def test_a_plugin_of_somebody_else(core: Environment, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """examples/btw_hello, which is no part of btw, is built to a wheel, keeps all rules, and is run: its resource in a
    package of its own form, under its own lock, with its extension and its command."""
    core.install(f"{wheel('btw_core')}[testing]")
    copy = core.home / "btw_hello"
    shutil.copytree(HELLO, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    build(copy, tmp_path)
    core.install(next(tmp_path.glob("btw_hello-*.whl")))
    tests = core.run("pytest", "-q", cwd=copy)
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "hello (resource): 19 rules held" in tests.stdout and "TestStore (store)" in tests.stdout
    banner, diary = core.home / "motd", core.home / "diary"
    (core.btw_dir / "packages/greet.hello").write_text(f"{banner}\n")
    settings = f'node = "n1"\nlock = "hello:{core.home}/lock.json"\n[plugins.hello-diary]\ndiary = "{diary}"\n'
    (core.btw_dir / "btw.toml").write_text(settings)
    assert core.btw("hello", "world") == "hello world\n"
    core.btw("init")
    core.btw("check")
    with core.running("greet.hello"):
        until(banner.exists, "btw run starts it")
        assert banner.read_text() == "greet.hello is on n1\n"
        until(lambda: diary.exists() and "-> running" in diary.read_text(), "the extension is told")
    assert not banner.exists()
    (version,) = re.findall(r"btw-core>=([\d.]+)", (HELLO / "pyproject.toml").read_text())
    with capsys.disabled():
        print(f"\nbtw-hello on the oldest btw-core that it allows: {on_the_oldest(version, core, copy, tmp_path)}")


def on_the_oldest(allowed: str, core: Environment, plugin: Path, directory: Path) -> str:
    """Its tests with the first release that `allowed` lets it have, built from its tag."""
    released = re.findall(r"(?m)^## (\d+\.\d+\.\d+)$", (ROOT / "btw_core/CHANGELOG.md").read_text())
    if len(released) < 2:
        return "one version only"
    oldest: str = next(each for each in reversed(released) if f"{each}.".startswith(f"{allowed}."))
    archive = ["git", "-c", "safe.directory=*", "archive", "--prefix=old/", f"v{oldest}", "btw_core"]
    packed = subprocess.run(archive, cwd=ROOT, capture_output=True, timeout=120, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(directory, filter="data")
    build(directory / "old/btw_core", directory)
    core.install(f"{next(directory.glob(f'btw_core-{oldest}-*.whl'))}[testing]")
    tests = core.run("pytest", "-q", cwd=plugin)
    assert tests.returncode == 0, tests.stdout + tests.stderr
    return oldest


@pytest.mark.parametrize("source", DISTRIBUTIONS, ids=lambda path: path.name)
def test_wheel_holds_what_it_must(source: Path) -> None:
    """Licence, type marker and every module are in the wheel, nothing else is; versions and entry points are right."""
    with zipfile.ZipFile(wheel(source.name)) as archive:
        names = archive.namelist()
        information = next(name.partition("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        points = ConfigParser(delimiters=("=",))
        points.read_string(archive.read(f"{information}/entry_points.txt").decode())
        metadata = archive.read(f"{information}/METADATA").decode()
    package = source / "src" / source.name
    expected = {
        path.relative_to(source / "src").as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert f"{source.name}/py.typed" in expected
    assert {name for name in names if not name.startswith(f"{information}/")} == expected
    assert f"{information}/licenses/LICENSE" in names
    assert "License-Expression: MIT" in metadata and "Requires-Python: >=3.11" in metadata
    version = information.removesuffix(".dist-info").rpartition("-")[2]
    assert f"## {version}" in (source / "CHANGELOG.md").read_text(), "CHANGELOG.md says nothing of this version"
    for group in points.sections():
        for name, value in points.items(group):
            path = value.partition(":")[0].replace(".", "/")
            assert {f"{path}.py", f"{path}/__init__.py"} & set(names), f"{group}: {name} = {value} is not in the wheel"
    assert points.sections(), "no entry point at all"


@pytest.mark.parametrize("source", DISTRIBUTIONS, ids=lambda path: path.name)
def test_wheels_are_reproducible(source: Path, tmp_path: Path) -> None:
    """The same sources in another directory, with other file times, make the same wheel to the byte."""
    built = wheel(source.name)
    copy = tmp_path / "elsewhere"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".*_cache", "__pycache__"))
    for path in copy.rglob("*"):
        os.utime(path, (time.time() - 1e6, time.time() - 1e6))
    build(copy, tmp_path)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (built, tmp_path / built.name)]
    assert digests[0] == digests[1]
