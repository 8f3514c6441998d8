"""Resource type `external`: the exit codes of Serviceguard's external scripts, and `validate`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from btw_core import Failed, FailedEverywhere, Status
from btw_core.resource import CheckContext
from btw_core.testing import FakeContext
from btw_core.types import Reason, Verb
from btw_exec.external import External

CHECK = CheckContext(cluster="c", node="n", package="p", everything=(), env={"PEV_A": "package", "PEV_B": "package"})
Write = Callable[[str], External]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes an external script of lines of shell, which also says how it was called."""

    def write(lines: str) -> External:
        file = tmp_path / "script"
        file.write_text(f"#!/bin/sh\necho $# $1 $PWD $BTW_NODE $BTW_REASON >> {tmp_path}/calls\n{lines}\n")
        file.chmod(0o755)
        return External(path=str(file), name="licence", env={"PEV_B": "resource"})

    return write


def test_a_life(write: Write, tmp_path: Path) -> None:
    """Called in / with one word; a start of what is up and a look do not call it."""
    external, ctx = write(""), FakeContext(reason=Reason.USER)
    assert external.status(ctx) is Status.DOWN
    external.start(ctx)
    external.start(ctx)
    assert external.status(ctx) is Status.UP
    external.stop(ctx)
    assert external.status(ctx) is Status.DOWN
    assert (tmp_path / "calls").read_text() == "1 start / node1 user\n1 stop / node1 user\n"


def test_start_exit_1(write: Write) -> None:
    """Exit 1: the package is halted and not started elsewhere."""
    external, ctx = write("echo no licence; exit 1"), FakeContext()
    with pytest.raises(FailedEverywhere, match="exit code 1; it said last: no licence: not to be started on another"):
        external.start(ctx)
    assert external.status(ctx) is Status.DOWN


@pytest.mark.parametrize(("lines", "said"), [("exit 2", "exit code 2"), ("exit 77", "77"), ("kill -9 $$", "SIGKILL")])
def test_start_exit_2(write: Write, lines: str, said: str) -> None:
    """Exit 2: another node is to try; so with whatever else is not 0, of which the manuals say nothing."""
    with pytest.raises(Failed, match=f"{said}: another node may start it") as failed:
        write(lines).start(FakeContext())
    assert not isinstance(failed.value, FailedEverywhere)


@pytest.mark.parametrize("code", [1, 2, 3])
def test_stop_fails(write: Write, code: int) -> None:
    """Whatever the code: it may still be up, so it counts as up until a stop succeeds."""
    external, ctx = write(f"test $1 = start || exit {code}"), FakeContext()
    external.start(ctx)
    with pytest.raises(Failed, match=f"stop`: exit code {code}"):
        external.stop(ctx)
    assert external.status(ctx) is Status.UP


def test_stop_after_half_a_start(write: Write, tmp_path: Path) -> None:
    """A start that failed or was killed is stopped by the script as well."""
    write("").stop(FakeContext(Verb.STOP))
    assert (tmp_path / "calls").read_text().startswith("1 stop ")


def test_validate(write: Write, tmp_path: Path) -> None:
    """`check` calls it with `validate`, and knows node, package and the package's variables."""
    external = write(f'echo "$BTW_VERB $BTW_PACKAGE $BTW_RESOURCE $PEV_A $PEV_B" > {tmp_path}/said')
    assert external.check(CHECK) == []
    assert (tmp_path / "calls").read_text() == "1 validate / n\n"
    assert (tmp_path / "said").read_text() == "validate p licence package resource\n"


@pytest.mark.parametrize("code", [1, 2])
def test_validate_says_no(write: Write, code: int) -> None:
    """Its last line is the reason, the remedy is with the script."""
    (problem,) = write(f"echo PEV_A is no port >&2; exit {code}").check(CHECK)
    assert problem.key == "path" and problem.severity == "error" and problem.remedy
    assert problem.text.endswith(f"script validate`: exit code {code}; it said last: PEV_A is no port")


def test_validate_that_hangs(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("btw_exec.external.VALIDATE", 0.2)
    (problem,) = write("sleep 60").check(CHECK)
    assert "did not end within 0.2 s" in problem.text


def test_validate_by_btw_check(write: Write, tmp_path: Path) -> None:
    """`btw check` names file and line, and fails."""
    external = write("echo no port; exit 1")
    file = tmp_path / "packages" / "web.toml"
    file.parent.mkdir()
    file.write_text(f'[package.env]\nPEV_A = "x"\n[[resource]]\ntype = "external"\npath = "{external.path}"\n')
    command = [sys.executable, "-m", "btw_core.cli", "check", "--json", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    (problem,) = json.loads(done.stdout)["problems"]
    assert done.returncode == 78
    assert (problem["file"], problem["line"], problem["key"]) == (str(file), 5, "path")
    assert "no port" in problem["text"]
