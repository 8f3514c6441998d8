"""Where files are, and the directories that must be made safely."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from btw_core.places import Places, places
from btw_core.resource import ConfigError


def test_root_has_the_system_places() -> None:
    """Root without --dir uses /etc, /var/lib, /run and /var/log, whatever XDG says."""
    assert places(env={"XDG_CONFIG_HOME": "/x"}, uid=0) == Places(
        config=Path("/etc/btw/btw.toml"),
        packages=Path("/etc/btw/packages"),
        state=Path("/var/lib/btw"),
        run=Path("/run/btw"),
        log=Path("/var/log/btw"),
        local_lock=Path("/var/lib/btw/local.db"),
    )


def test_users_have_the_xdg_places() -> None:
    """Other users get the XDG base directories, their defaults, and ignore relative ones."""
    env = {"HOME": "/h/u", "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/run/user/7"}
    found = places(env=env, uid=7)
    assert (found.config, found.state, found.run) == (Path("/c/btw/btw.toml"), Path("/s/btw"), Path("/run/user/7/btw"))
    found = places(env={"HOME": "/h/u", "XDG_CONFIG_HOME": "rel", "XDG_RUNTIME_DIR": ""}, uid=7)
    assert found.packages == Path("/h/u/.config/btw/packages")
    assert found.local_lock == Path("/h/u/.local/state/btw/local.db")
    assert found.run == Path("/tmp/btw-7")


def test_dir_holds_everything(tmp_path: Path) -> None:
    """--dir, or BTW_DIR, puts all of it below one directory, for root too."""
    for found in (
        places(str(tmp_path), env={"BTW_DIR": "/other"}, uid=0),
        places(env={"BTW_DIR": str(tmp_path)}, uid=7),
    ):
        assert found == Places(
            config=tmp_path / "btw.toml",
            packages=tmp_path / "packages",
            state=tmp_path / "state",
            run=tmp_path / "run",
            log=tmp_path / "log",
            local_lock=tmp_path / "state/local.db",
        )


def test_ensure_makes_private_directories(tmp_path: Path) -> None:
    """State, run and log are for their owner only; packages may be read by all; a second call changes nothing."""
    found = places(str(tmp_path / "new"))
    for _ in range(2):
        found.ensure()
        assert [each.stat().st_mode & 0o777 for each in (found.state, found.run, found.log)] == [0o700] * 3
        assert found.packages.stat().st_mode & 0o055 == 0o055 & ~_umask()


def _umask() -> int:
    return int(next(row for row in Path("/proc/self/status").read_text().splitlines() if "Umask" in row).split()[1], 8)


def test_ensure_names_every_directory_that_is_in_the_way(tmp_path: Path) -> None:
    """Files in the place of directories are all named at once."""
    (tmp_path / "state").write_text("")
    (tmp_path / "log").write_text("")
    with pytest.raises(ConfigError) as caught:
        places(str(tmp_path)).ensure()
    assert [problem.file for problem in caught.value.problems] == [str(tmp_path / "state"), str(tmp_path / "log")]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory in /tmp itself, which anybody might have made."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="btw-test-") as directory:
        yield Path(directory)


def test_a_foreign_directory_in_tmp_is_refused(shared: Path, tmp_path: Path) -> None:
    """The run directory in /tmp must be a directory of ours that nobody else can enter, and no link."""
    found = places(env={"HOME": str(tmp_path)}, uid=7)

    def ensure(run: Path) -> None:
        Places(**{**vars(found), "run": run}).ensure()

    ensure(shared)
    shared.chmod(0o755)
    with pytest.raises(ConfigError, match="not a directory of ours with mode 0700; remove it, or set XDG_RUNTIME_DIR"):
        ensure(shared)
    shared.chmod(0o700)
    link = shared.with_name(shared.name + "-link")
    link.symlink_to(shared)
    try:
        with pytest.raises(ConfigError, match="lrwxrwxrwx"):
            ensure(link)
    finally:
        link.unlink()
    if os.geteuid() == 0:
        os.chown(shared, 12345, 0)
        with pytest.raises(ConfigError, match="of user 12345"):
            ensure(shared)


@pytest.mark.skipif(os.geteuid() != 0, reason="must become another user")
def test_a_state_directory_that_is_not_writable(shared: Path) -> None:
    """A state directory of somebody else is a clear error, and so is one that cannot be made."""
    shared.chmod(0o755)
    (shared / "state").mkdir(0o755)
    program = (
        "import os; from btw_core.places import places; os.setuid(12345)\n"
        f"try: places({str(shared)!r}).ensure()\nexcept Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd="/")
    assert f"{shared}/state: directory is not writable by user 12345" in done.stdout, done
    assert f"{shared}/run: directory cannot be made: Permission denied" in done.stdout
