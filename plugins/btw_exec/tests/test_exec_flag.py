"""Resource type `flag`."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from btw_core import CannotTell, Failed, Status
from btw_core.resource import CheckContext
from btw_core.testing import FakeContext
from btw_core.types import Verb
from btw_exec.flag import Flag

CHECK = CheckContext(cluster="c", node="n", package="p", everything=())


def status(flag: Flag) -> Status:
    return flag.status(FakeContext(verb=None))


def test_life(tmp_path: Path) -> None:
    """The file is the resource; start and stop may be repeated; removing it by hand is down."""
    path = tmp_path / "flag"
    flag = Flag(path=str(path))
    assert flag.check(CHECK) == []
    assert status(flag) is Status.DOWN
    for _ in range(2):
        flag.start(FakeContext())
        assert path.is_file()
        assert status(flag) is Status.UP
    assert path.stat().st_mode & 0o777 == 0o644 & ~_umask()
    path.unlink()
    assert status(flag) is Status.DOWN
    flag.start(FakeContext())
    for _ in range(2):
        flag.stop(FakeContext(Verb.STOP))
        assert not path.exists()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_content_stays(tmp_path: Path) -> None:
    """start on a file that is there leaves it as it is."""
    path = tmp_path / "flag"
    path.write_text("note")
    Flag(path=str(path)).start(FakeContext())
    assert path.read_text() == "note"


@pytest.mark.parametrize("kind", ["directory", "link", "dangling", "fifo"])
def test_something_else_is_there(tmp_path: Path, kind: str) -> None:
    """What is no regular file is not the flag: down, start refuses, stop and start leave it, check says it."""
    path, other = tmp_path / "flag", tmp_path / "other"
    other.touch()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(other if kind == "link" else tmp_path / "none")
    flag = Flag(path=str(path))
    assert status(flag) is Status.DOWN
    with pytest.raises(Failed, match=f"flag {path}"):
        flag.start(FakeContext())
    flag.stop(FakeContext(Verb.STOP))
    assert os.path.lexists(path)
    assert not (tmp_path / "none").exists()
    assert [problem.key for problem in flag.check(CHECK)] == ["path"]


def test_directory_is_missing(tmp_path: Path) -> None:
    """Without its directory the flag is certainly down, cannot be started, and check says so."""
    for path in (tmp_path / "none" / "flag", tmp_path / "file" / "flag"):
        (tmp_path / "file").touch()
        flag = Flag(path=str(path))
        assert status(flag) is Status.DOWN
        with pytest.raises(Failed, match="cannot be created"):
            flag.start(FakeContext())
        flag.stop(FakeContext(Verb.STOP))
        (problem,) = flag.check(CHECK)
        assert (problem.key, problem.remedy) == ("path", f"mkdir -p {path.parent}, or correct the path")


def test_cannot_tell(tmp_path: Path) -> None:
    """An error that does not prove absence is no answer, and stop does not take it for one."""
    flag = Flag(path=f"{tmp_path}/{'x' * 300}")
    with pytest.raises(CannotTell, match=os.strerror(errno.ENAMETOOLONG)):
        status(flag)
    with pytest.raises(CannotTell):
        flag.stop(FakeContext(Verb.STOP))


def test_relative_path() -> None:
    """A relative path is refused."""
    (problem,) = Flag(path="flag").check(CHECK)
    assert "relative" in problem.text
    assert (problem.key, problem.severity) == ("path", "error")


def test_identity(tmp_path: Path) -> None:
    """Two paths of one file are the same."""
    (tmp_path / "link").symlink_to(tmp_path)
    assert Flag(path=f"{tmp_path}/link/flag").identity() == Flag(path=f"{tmp_path}/flag").identity()
    assert Flag(path=f"{tmp_path}/flag").identity() == ("path", os.path.realpath(tmp_path / "flag"))


def test_path_is_required() -> None:
    """A flag without a path, or with an empty one, is refused when it is read."""
    with pytest.raises(msgspec.ValidationError, match="`path`"):
        msgspec.convert({}, Flag)
    with pytest.raises(msgspec.ValidationError, match=r"\$\.path"):
        msgspec.convert({"path": ""}, Flag)
