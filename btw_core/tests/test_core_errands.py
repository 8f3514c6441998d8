"""What the keeper has others do: its lines are not lost, nor said over and over, when nothing can be written."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from btw_core import errands
from btw_core.errands import Errands
from btw_core.exits import FAILED
from btw_core.keeper import main


def test_what_cannot_be_written_is_shown_once_and_written_later(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errands, "PAUSE", 0.01)
    journal = tmp_path / "state" / "journal.jsonl"
    journal.parent.write_text("in the way")
    keeper = Errands(journal, "n1", lambda: None)
    keeper.say("manager_lost", "killed")
    tries = _tends(keeper, 3)
    keeper.say("manager_lost", "killed again")
    tries += _tends(keeper, 3)
    assert tries == 6
    shown = capfd.readouterr().out
    assert (shown.count("killed\n"), shown.count("killed again\n")) == (1, 1)
    journal.parent.unlink()
    journal.parent.mkdir()
    keeper.settle(10.0)
    assert [line.count("killed again") for line in journal.read_text().splitlines()] == [0, 1]
    assert "killed" not in capfd.readouterr().out


def _tends(keeper: Errands, tries: int) -> int:
    """Until that many children have tried to write. Returns how many have."""
    tried, end = 0, time.monotonic() + 30
    while tried < tries and time.monotonic() < end:
        before = set(keeper._children)
        keeper.tend()
        tried += bool(before - set(keeper._children))
        time.sleep(0.01)
    return tried


def test_a_pulse_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The keeper says on which file it failed, not only why."""
    (tmp_path / "run").write_text("in the way")
    pulse = tmp_path / "run" / "web.pulse"
    words = ["--pulse", str(pulse), "--node", "n1", "--journal", str(tmp_path / "journal.jsonl"), "--", "true"]
    assert main(words) == FAILED
    assert f"keeper of web on node n1: {tmp_path / 'run'}" in capsys.readouterr().err
