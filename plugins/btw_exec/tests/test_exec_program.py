"""Resource type `exec`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from btw_core import CannotTell, Failed, Status
from btw_core.resource import CheckContext
from btw_core.testing import FakeContext
from btw_core.types import Reason, Verb
from btw_exec.program import Program

CHECK = CheckContext(cluster="c", node="n", package="p", everything=())


def program(**changes: object) -> Program:
    return msgspec.convert({"start": "true", "stop": "true", "status": "true"} | changes, Program)


def test_life(tmp_path: Path) -> None:
    """The three commands start, stop and tell, as strings and as lists, in cwd and with env."""
    flag = {"cwd": str(tmp_path), "env": {"FILE": "up"}}
    for start, stop, status in (
        ('touch "$FILE"', 'rm -f "$FILE"', 'test -e "$FILE"'),
        (["touch", "up"], ["rm", "-f", "up"], ["test", "-e", "up"]),
    ):
        resource = program(start=start, stop=stop, status=status, **flag)
        assert resource.check(CHECK) == []
        assert resource.status(FakeContext(verb=None)) is Status.DOWN
        for _ in range(2):
            resource.start(FakeContext())
            assert (tmp_path / "up").exists()
        assert resource.status(FakeContext(verb=None)) is Status.UP
        for _ in range(2):
            resource.stop(FakeContext(Verb.STOP))
        assert resource.status(FakeContext(verb=None)) is Status.DOWN


@pytest.mark.parametrize(
    ("code", "status"), [(0, Status.UP), (1, Status.DOWN), (2, Status.DEGRADED), (3, Status.CRITICAL)]
)
def test_exit_codes_of_status(code: int, status: Status) -> None:
    """0 up, 1 down, 2 degraded, 3 critical."""
    assert program(status=f"exit {code}").status(FakeContext(verb=None)) is status


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exit 7", "exit code 7 is none of 0, 1, 2, 3"),
        ("echo lost the disk; exit 127", "exit code 127 is none of 0, 1, 2, 3; it said last: lost the disk"),
        ("kill -9 $$", "killed by SIGKILL is none of"),
        ("btw-no-such-program", "exit code 127"),
        (["btw-no-such-program"], "no such program in PATH"),
    ],
)
def test_status_cannot_tell(command: object, message: str) -> None:
    """Any other end of the status command is no answer, least of all "down"."""
    with pytest.raises(CannotTell, match=message):
        program(status=command).status(FakeContext(verb=None))


def test_status_that_hangs() -> None:
    """A status command that does not end is no answer."""
    with pytest.raises(CannotTell, match="did not end within"):
        program(status="exec sleep 1000").status(FakeContext(verb=None, seconds=0.2))


def test_failures_are_told() -> None:
    """start and stop that fail say the code and the last words; the output is in the journal."""
    ctx = FakeContext(Verb.STOP, reason=Reason.USER)
    with pytest.raises(Failed, match="exit code 4, allowed: 0; it said last: busy because of user"):
        program(stop='echo "busy because of $BTW_REASON"; exit 4').stop(ctx)
    assert ctx.lines == ["busy because of user"]


@pytest.mark.parametrize("missing", ["start", "stop", "status"])
def test_all_three_are_required(missing: str) -> None:
    """None of the commands may be left out."""
    table = {"start": "true", "stop": "true", "status": "true"}
    del table[missing]
    with pytest.raises(msgspec.ValidationError, match=f"required field `{missing}`"):
        msgspec.convert(table, Program)


def test_check_finds_everything_at_once(tmp_path: Path) -> None:
    """A missing program, one without its run bit, a string that the shell cannot read, a missing directory."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    found = program(
        start=["/nonexistent/program"], stop=[str(script)], status="if true", cwd=str(tmp_path / "none")
    ).check(CHECK)
    assert [problem.key for problem in found] == ["cwd", "start", "stop", "status"]
    assert found[1].text == "start: /nonexistent/program does not exist"
    assert found[2].remedy == f"chmod +x {script}"
    assert "end of file" in found[3].text.lower() or "syntax error" in found[3].text.lower()


def test_check_of_names(tmp_path: Path) -> None:
    """A name is looked up in PATH, a relative path needs cwd, a directory is no program, nothing is no command."""

    def text(command: object, **more: object) -> list[str]:
        return [problem.text for problem in program(start=command, **more).check(CHECK)]

    assert text(["btw-no-such-program"]) == ["start: no program btw-no-such-program in PATH"]
    assert text(["bin/tool"]) == ["start: bin/tool is relative to the directory that btw happens to be started in"]
    assert text(["bin/tool"], cwd=str(tmp_path)) == [f"start: {tmp_path}/bin/tool does not exist"]
    assert text([str(tmp_path)]) == [f"start: {tmp_path} is no file"]
    assert text([]) == text("") == ["start is empty"]
    assert text(["true"], cwd="relative") == [
        "cwd = relative is relative to the directory that btw happens to be started in"
    ]
