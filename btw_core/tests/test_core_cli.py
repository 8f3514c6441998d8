"""The command line by itself: names, exit codes, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from btw_core import __version__
from btw_core.cli import COMMANDS, Commands, _main, cli, plugin_commands
from btw_core.cli.common import closed
from btw_core.cli.office import Office, follow
from btw_core.cluster import ClusterView, Order, PackageView, Verb


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = _main([*words])
    except SystemExit as end:  # commands with a code of their own
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_command_is_there_and_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    """Each name in `btw --help` is a command with a help text of its own."""
    code, out, _ = said(capsys, "--help")
    assert code == 0
    for name in COMMANDS:
        assert f"  {name} " in out
        code, own, _ = said(capsys, name, "--help")
        assert code == 0 and f"btw {name}" in own


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version")[:2] == (0, f"btw {__version__}\n")


@pytest.mark.parametrize("words", [("nosuch",), ("run",), ("run", "--nosuch", "web"), ("try", "web", "jump")])
def test_wrong_usage_ends_with_64(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    code, _, err = said(capsys, *words)
    assert code == 64 and "btw" in err


def test_the_closest_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean `status`?" in said(capsys, "staus")[2]


def test_configuration_that_is_wrong_ends_with_78(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With the place of what is wrong, and no traceback."""
    (tmp_path / "btw.toml").write_text('nod = "x"\n')
    code, _, err = said(capsys, "status", "--dir", str(tmp_path))
    assert code == 78 and f"{tmp_path}/btw.toml:1" in err and "Traceback" not in err


def test_a_defect_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command raises, the user gets a line and exit code 70."""
    import click

    @click.command
    def broken() -> None:
        raise RuntimeError("oops")

    group = Commands("btw", params=list(cli.params))
    monkeypatch.setattr(group, "get_command", lambda _ctx, _name: broken)
    monkeypatch.setattr("btw_core.cli.cli", group)
    code, _, err = said(capsys, "run")
    assert code == 70 and "RuntimeError: oops" in err and "Traceback" not in err


def test_commands_of_plugins_are_found_without_importing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """entry_points.txt of what is installed is enough to list them."""
    info = tmp_path / "btw_thing-1.0.dist-info"
    info.mkdir()
    text = "[console_scripts]\nx = y\n[btw.commands]\nthing = btw_thing\n[other]\nz = q\n"
    (info / "entry_points.txt").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert plugin_commands() == {"thing": "btw-thing"}


def test_the_shell_completes_names_of_packages(tmp_path: Path) -> None:
    """After `btw stop w` the packages that begin with w are offered, by the look of their files."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("web.toml", "wiki", "db.toml", "notes", ".web.swp"):
        (packages / name).touch()
    (packages / "wiki").chmod(0o755)
    environment = {**os.environ, "BTW_DIR": str(tmp_path), "_BTW_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": "btw stop w", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "btw_core.cli"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["plain,web", "plain,wiki"]


def test_status_without_anything_says_what_to_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An empty place is no error, and looking makes no file."""
    code, out, _ = said(capsys, "status", "--dir", str(tmp_path))
    assert code == 0 and "btw new" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../web", "w" * 300, ""])
def test_a_name_that_is_none_makes_no_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    """Names become paths: what is none is refused before anything is made, above all beside the directory."""
    code, _, error = said(capsys, "run", name, "--dir", str(tmp_path / "top"), "--node", "n1")
    assert code == 64
    assert "allowed: 1 to 39 letters" in error
    assert list(tmp_path.iterdir()) == []


def test_stop_of_what_nobody_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = said(capsys, "stop", "web", "--dir", str(tmp_path))
    assert code == 1 and "nobody manages web here" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_who_may_not_see_the_managers_is_told_so(tmp_path: Path) -> None:
    """And not that there are none."""
    (tmp_path / "run" / "n1").mkdir(parents=True)
    (tmp_path / "run" / "n1").chmod(0o750)
    assert closed(tmp_path / "run") == closed(tmp_path / "none") == []
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os.write(writing, "; ".join(closed(tmp_path / "run")).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        assert "user 65534 may not look into it: be root, or a member of the group btw" in stream.read()
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("ordered", [True, False])
def test_who_waits_for_an_order_that_was_taken_back_is_told_so(
    ordered: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = Order(verb=Verb.RUN) if ordered else None
    view = ClusterView(nodes={}, packages={"web": PackageView(order=order)})
    answer = {"node": "n1", "view": msgspec.to_builtins(view), "decisions": [], "digests": {}, "maintenance": {}}
    asked = Office(Path("/none"), answer)
    monkeypatch.setattr(asked, "look", lambda: None)
    assert not follow(asked, "web", lambda _: False, 0.1)
    assert ("no order for web stands any more" in capsys.readouterr().err) is not ordered
