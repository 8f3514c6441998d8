"""The journal on a real file system."""

from __future__ import annotations

import io
import json
import resource
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from btw_core.cli.events import Tail
from btw_core.journal import KEPT, FileJournal, human, parse


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "n1" / "journal.jsonl"


def test_a_line_holds_what_was_said(path: Path) -> None:
    """Fields in their order, empty ones left out, the time with milliseconds and offset."""
    journal = FileJournal(path, "n1")
    journal.write("transition", package="web", cause="lock acquired", state="unknown", term=3, before="stand-by", n=1)
    journal.write("began")
    first, second = lines(path)
    assert list(first) == ["at", "node", "package", "event", "before", "state", "term", "cause", "data"]
    assert first["data"] == {"n": 1} and first["node"] == "n1"
    when = datetime.fromisoformat(first["at"])
    assert when.tzinfo is not None and len(first["at"].split(".")[1].rstrip("Z")) >= 3
    assert list(second) == ["at", "node", "event"]


def test_people_read_one_line(path: Path) -> None:
    """The line for people names node, package, transition and cause; foreign control characters do nothing."""
    at = "2026-01-31T12:00:01.123+01:00"
    event = {"at": at, "node": "n1", "package": "web", "event": "transition", "before": "stand-by", "state": "unknown"}
    assert human(event | {"cause": "free, term 3"}) == "12:00:01.123 n1 web stand-by -> unknown: free, term 3"
    output = {"at": at, "node": "n1", "package": "web", "event": "output", "data": {"resource": "fs"}}
    assert human(output | {"cause": "\x1b[2Jgone\n"}) == "12:00:01.123 n1 web | fs: \\x1b[2Jgone\\n"
    assert human({"at": at, "node": "n1", "event": "store_back"}) == "12:00:01.123 n1 store back"


def test_screen_and_listeners_get_every_event(path: Path) -> None:
    """What is written is shown and passed on, in order."""
    screen = io.StringIO()
    heard: list[dict[str, Any]] = []
    journal = FileJournal(path, "n1", screen=screen)
    journal.listeners.append(heard.append)
    journal.write("one")
    journal.write("two")
    journal.close()
    assert [line.split()[2] for line in screen.getvalue().splitlines()] == ["one", "two"]
    assert [event["event"] for event in heard] == ["one", "two"]


def test_a_terminal_that_is_not_read_stops_nobody(path: Path) -> None:
    """Writing goes on while the other side of the screen hangs; later it says how much was not shown."""
    go = threading.Event()

    class Stopped(io.StringIO):
        def write(self, text: str) -> int:
            assert go.wait(60)
            return super().write(text)

    screen = Stopped()
    journal = FileJournal(path, "n1", screen=screen)
    for number in range(KEPT + 100):
        journal.write("event", number=number)
    assert len(lines(path)) == KEPT + 100
    go.set()
    while "were not shown" not in screen.getvalue():
        journal.write("more")
    journal.close()


def test_nothing_that_can_be_said_raises(path: Path) -> None:
    """Undecodable names, objects, surrogates: all of it becomes a line."""
    journal = FileJournal(path, "n1")
    journal.write("odd", cause="\udcff\ud800", thing=object(), raw=b"\xff", path=Path("/x"))
    assert len(path.read_bytes().splitlines()) == 1


def test_a_large_journal_gets_another_name(path: Path) -> None:
    """Two managers of a node rotate one file without losing a line, and a reader sees each line once."""
    one, two = (FileJournal(path, "n1", largest=4000) for _ in range(2))
    tail = Tail(path.parent.parent)
    seen: list[int] = []
    for number in range(60):
        (one, two)[number % 2].write("event", number=number)
        seen += [event["data"]["number"] for event in tail.read()]
    assert seen == list(range(60))
    assert Path(f"{path}.1").stat().st_size >= 4000 > path.stat().st_size


def test_a_full_disk_delays_lines_and_counts_what_is_lost(path: Path) -> None:
    """Lines that cannot be written are kept, the oldest dropped and counted; all come once there is room."""
    journal = FileJournal(path, "n1")
    journal.write("before")
    limit = path.stat().st_size + 40  # the next line fits in part: a torn line
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        for number in range(KEPT + 3):
            journal.write("event", number=number)
        assert str(path) in journal.trouble
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, former)
    journal.write("after")
    assert journal.trouble == ""
    found = [event for line in path.read_bytes().splitlines() if (event := parse(line)) is not None]
    assert found[0]["event"] == "before"
    assert [event["data"]["number"] for event in found[1:-2]] == list(range(4, KEPT + 3))
    assert found[-2]["event"] == "after"
    assert found[-1]["event"] == "journal_lost" and found[-1]["cause"].startswith("4 lines")


def test_a_directory_that_is_gone_is_made_again(path: Path) -> None:
    """Somebody cleaned up: the journal goes on."""
    journal = FileJournal(path, "n1")
    journal.write("one")
    path.unlink()
    path.parent.rmdir()
    journal.write("two")
    assert [event["event"] for event in lines(path)] == ["two"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("rest", [b'{"at": "2026', b'{"event": "one"}\n\0\0\0'])
def test_what_a_power_cut_left_of_a_line_swallows_no_other(path: Path, rest: bytes) -> None:
    """The next life begins a line of its own."""
    path.parent.mkdir()
    path.write_bytes(rest)
    journal = FileJournal(path, "n1")
    journal.write("began")
    journal.write("next")
    found = [event for line in path.read_bytes().splitlines() if (event := parse(line)) is not None]
    assert [event["event"] for event in found][-2:] == ["began", "next"]
