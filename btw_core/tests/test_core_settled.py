"""Which btw.toml a manager goes by."""

from __future__ import annotations

from pathlib import Path

import pytest

from btw_core.clock import boot_id
from btw_core.pulse import ManagerHalf, Pulse
from btw_core.resource import ConfigError
from btw_core.settings import load_setup
from btw_core.settled import forget, settled


@pytest.fixture
def pulse(tmp_path: Path) -> Path:
    """Beside it the copy is; nothing is up yet."""
    path = tmp_path / "run" / "n1" / "@daemon.pulse"
    path.parent.mkdir(parents=True)
    Pulse.keep(path, boot_id()).close()
    (tmp_path / "btw.toml").write_text("forming = 1\n")
    return path


def says(pulse: Path, *, up: bool) -> None:
    """As its manager does."""
    written = Pulse.open(pulse, boot_id())
    written.write(ManagerHalf(pid=1, leases={"web": (1.0, 2.0)} if up else {}))
    written.close()


def forming(tmp_path: Path, copy: Path | None) -> float | None:
    found = load_setup(str(tmp_path), copy=str(copy) if copy else None).config.forming
    return None if found is None else float(found)


def test_while_nothing_is_up_the_file_counts(tmp_path: Path, pulse: Path) -> None:
    for number in (1.0, 2.0):
        (tmp_path / "btw.toml").write_text(f"forming = {number}\n")
        copy, unheeded = settled(pulse, str(tmp_path), "n1", None)
        assert (forming(tmp_path, copy), unheeded) == (number, "")
        assert copy is not None and copy.stat().st_mode & 0o777 == 0o600
    (tmp_path / "btw.toml").write_text("broken")
    with pytest.raises(ConfigError, match=r"btw\.toml:1: not TOML"):
        settled(pulse, str(tmp_path), "n1", None)


@pytest.mark.parametrize(
    ("text", "said"), [("forming = 2\n", "was changed"), ("broken", "btw.toml:1: not TOML"), (None, "was changed")]
)
def test_while_something_is_up_it_counts_as_it_was(tmp_path: Path, pulse: Path, text: str | None, said: str) -> None:
    """Edited, broken or gone; until the manager makes room for a new one, or leaves nothing up."""
    settled(pulse, str(tmp_path), "n1", None)
    says(pulse, up=True)
    assert settled(pulse, str(tmp_path), "n1", None)[1] == ""
    if text is None:
        (tmp_path / "btw.toml").unlink()
    else:
        (tmp_path / "btw.toml").write_text(text)
    forget(pulse, replaced=False)
    copy, unheeded = settled(pulse, str(tmp_path), "n1", None)
    assert forming(tmp_path, copy) == 1.0 and said in unheeded
    (tmp_path / "btw.toml").write_text("forming = 3\n")
    forget(pulse, replaced=True)
    assert forming(tmp_path, settled(pulse, str(tmp_path), "n1", None)[0]) == 3.0
    says(pulse, up=False)
    forget(pulse, replaced=False)
    assert not pulse.with_suffix(".toml").exists()


def test_a_copy_that_cannot_be_used_is_none(tmp_path: Path, pulse: Path) -> None:
    """Another btw does not take it any more, or there is no room for it: the file counts."""
    says(pulse, up=True)
    copy = pulse.with_suffix(".toml")
    copy.write_text("an_option_of_old = 1\n")
    assert forming(tmp_path, settled(pulse, str(tmp_path), "n1", None)[0]) == 1.0
    says(pulse, up=False)
    copy.unlink()
    copy.symlink_to("/dev/full")
    assert settled(pulse, str(tmp_path), "n1", None) == (None, "")
