"""Resource type `generic`, and `btw generic`."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from btw_core import CannotTell, Failed, Status
from btw_core.resource import CheckContext
from btw_core.testing import FakeContext
from btw_core.types import Verb
from btw_exec import btw_commands
from btw_exec.generic import Generic
from btw_exec.values import Unknown, flaw, means_up, read, write

CHECK = CheckContext(cluster="c", node="n", package="p", everything=())


@pytest.mark.parametrize(
    ("criteria", "up", "down"),
    [
        ("", "up", "down"),
        ("== 5", "5", "6"),
        ("!=5", "4", "5"),
        (">5", "6", "5"),
        ("<5", "4", "5"),
        (">= 5", "5", "4"),
        ("<= 5", "5", "6"),
        ("10-20", "10", "9"),
        ("10 - 20", "20", "21"),
    ],
)
def test_criteria(criteria: str, up: str, down: str) -> None:
    """Each of Serviceguard's, and the two words without one."""
    assert flaw(criteria) == ""
    assert means_up(up, criteria) is True
    assert means_up(down, criteria) is False


@pytest.mark.parametrize(
    ("value", "criteria", "said"),
    [
        ("5", "", "allowed: up, down"),
        ("UP", "", "allowed: up, down"),
        ("", "", "allowed: up, down"),
        ("up", "> 5", "allowed: a whole number"),
        ("-1", "> 5", "allowed: a whole number"),
        ("5", "often", "allowed: ==, !="),
        ("5", "> 5 < 9", "allowed: ==, !="),
        ("5", "20-10", "no number is in this range"),
    ],
)
def test_no_such_value(value: str, criteria: str, said: str) -> None:
    with pytest.raises(Unknown, match=said):
        means_up(value, criteria)


def test_a_value_is_set_and_read(tmp_path: Path) -> None:
    """Its directory is made; owner and mode stay: they say who may set it. Nothing else is left there."""
    path = tmp_path / "values" / "fibre"
    for value in ("7", "1234567", "89"):
        write(str(path), value)
        assert read(str(path)) == value
        assert path.read_text() == f"{value}\n"
    path.chmod(0o666)
    if os.geteuid() == 0:
        os.chown(path, 7, 8)
    before = path.stat()
    write(str(path), "5")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert [each.name for each in path.parent.iterdir()] == ["fibre"]


def test_a_reader_never_sees_half_a_value(tmp_path: Path) -> None:
    """However often it is set while it is read: one of the two."""
    path, ends = str(tmp_path / "value"), threading.Event()
    write(path, "1")

    def sets() -> None:
        while not ends.is_set():
            for value in ("22222", "1"):
                write(path, value)

    thread = threading.Thread(target=sets)
    thread.start()
    try:
        seen = {read(path) for _ in range(5000)}
    finally:
        ends.set()
        thread.join()
    assert seen <= {"22222", "1"}


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "nonsense"])
def test_cannot_tell(tmp_path: Path, kind: str) -> None:
    """Never down, and a pipe does not block the look. A start that finds it so says it."""
    path = tmp_path / "value"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "nonsense":
        path.write_bytes(b"\xff\xfe" * 1000)
    generic = Generic(path=str(path), name="fibre")
    with pytest.raises(CannotTell, match=str(path)):
        generic.status(FakeContext(verb=None, state={"started": True}))
    with pytest.raises(Failed, match=r"value: .*; set it: btw generic set fibre up"):
        generic.start(FakeContext(seconds=0.1))


def test_a_life(tmp_path: Path) -> None:
    """Down until a start, whatever the value; then up or down by the value, with the value as the reason."""
    path = tmp_path / "value"
    generic, ctx = Generic(path=str(path), name="fibre", up="10-20"), FakeContext()
    path.write_text("15\n")
    assert generic.status(ctx) is Status.DOWN
    generic.start(ctx)
    assert generic.status(ctx) is Status.UP
    path.write_text("21\n")
    assert generic.status(ctx) is Status.DOWN
    assert ctx.lines == [f"{path} says 21, up means 10-20"]
    generic.stop(ctx)
    assert generic.status(ctx) is Status.DOWN and ctx.state == {}


def test_a_start_waits_for_the_value(tmp_path: Path) -> None:
    """Whoever sets it may begin at the same time."""
    path = tmp_path / "value"
    timer = threading.Timer(0.3, lambda: write(str(path), "up"))
    timer.start()
    ctx = FakeContext(Verb.START, seconds=20)
    begun = time.monotonic()
    Generic(path=str(path)).start(ctx)
    timer.join()
    assert ctx.state == {"started": True} and time.monotonic() - begun >= 0.3


def test_check(tmp_path: Path) -> None:
    """Below /run nothing outlives a reboot; elsewhere that is a warning."""
    assert Generic(path="/run/btw-values/fibre", up="> 5").check(CHECK) == []
    found = Generic(path=str(tmp_path), up="> x").check(CHECK)
    assert [(each.key, each.severity) for each in found] == [("path", "error"), ("up", "error")]
    (warning,) = Generic(path=f"{tmp_path}/value").check(CHECK)
    assert (warning.key, warning.severity) == ("path", "warning") and "/run" in warning.remedy


# ---- the command
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`btw generic` in a directory with two packages that share one value, and one with another."""
    packages = tmp_path / "packages"
    packages.mkdir()
    text = '[[resource]]\ntype = "generic"\nname = "{name}"\npath = "{path}"\nup = "{up}"\n'
    for package, name, up in (("a", "fibre", "> 5"), ("b", "fibre", "> 50"), ("c", "power", "")):
        path = tmp_path / "values" / name
        (packages / f"{package}.toml").write_text(text.format(name=name, path=path, up=up))

    def run(*words: str) -> Result:
        return CliRunner().invoke(btw_commands()["generic"], [*words, "--dir", str(tmp_path)], catch_exceptions=False)

    return run


def test_set_and_show(run: Run, tmp_path: Path) -> None:
    """One value for each package that names it, measured by each; exit code 1 unless all are up."""
    assert run("show").exit_code == 1
    assert run("set", "fibre", "20").exit_code == run("set", "power", "up").exit_code == 0
    assert (tmp_path / "values" / "fibre").read_text() == "20\n"
    shown = run("show", "--json")
    assert shown.exit_code == 1
    assert [(each["package"], each["value"], each["says"]) for each in json.loads(shown.stdout)] == [
        ("a", "20", "up"),
        ("b", "20", "down"),
        ("c", "up", "up"),
    ]
    run("set", "fibre", "60")
    done = run("show", "fibre")
    assert done.exit_code == 0
    assert [row.split() for row in done.stdout.splitlines()] == [
        ["NAME", "PACKAGE", "VALUE", "UP", "SAYS"],
        ["fibre", "a", "60", ">", "5", "up"],
        ["fibre", "b", "60", ">", "50", "up"],
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("set", "fiber", "1"), "no package has a generic resource `fiber` (there are: fibre, power)"),
        (("set", "fibre", "up"), 'fibre of a: found "up", allowed: a whole number; nothing was set'),
        (("set", "power", "1"), 'power of c: found "1", allowed: up, down; nothing was set'),
        (("show", "none"), "no package has a generic resource `none`"),
    ],
)
def test_refused(run: Run, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.exit_code == 1 and said in done.stderr
    assert not (tmp_path / "values").exists()


def test_a_value_that_may_not_be_set(run: Run, tmp_path: Path) -> None:
    """The file's permissions decide; the refusal names the file."""
    (tmp_path / "values" / "power").mkdir(parents=True)
    done = run("set", "power", "up")
    assert done.exit_code == 1 and f"{tmp_path}/values/power: Is a directory; whoever may write" in done.stderr
