"""`[plugins.on-event]`: a command for every event."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from btw_exec import btw_event, btw_resource_types
from btw_exec.on_event import tell

EVENT = {"event": "transition", "package": "web", "cause": "größer", "at": 12.5, "data": {"from": "stand-by"}}


def test_event_as_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The command gets the event as one line of JSON on standard input, as a string and as a list."""
    for command in (f"cat > {tmp_path}/event", ["tee", f"{tmp_path}/event"]):
        btw_event(EVENT, {"command": command})
        text = (tmp_path / "event").read_text()
        assert json.loads(text) == EVENT
        assert text.count("\n") == 1
        (tmp_path / "event").unlink()
    assert capfd.readouterr() == ("", "")


def test_nothing_is_configured(capfd: pytest.CaptureFixture[str]) -> None:
    """Without a command nothing happens."""
    btw_event(EVENT, {})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo no route; exit 5", "exit code 5; it said last: no route"),
        (["/nonexistent/program"], "cannot execute /nonexistent/program"),
        (17, "command = 17: allowed are a string or a list of strings"),
        ([], "command = []: allowed are"),
        ("", "command = '': allowed are"),
    ],
)
def test_failures_are_one_line(command: object, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What goes wrong is one line on standard error and disturbs nothing."""
    btw_event(EVENT, {"command": command})
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("btw: [plugins.on-event] ")
    assert message in err
    assert err.count("\n") == 1


def test_hangs(capfd: pytest.CaptureFixture[str]) -> None:
    """A command that does not end is killed at the limit."""
    tell(EVENT, {"command": "exec sleep 1000"}, limit=0.2)
    assert "did not end within 0.2 s and was killed" in capfd.readouterr().err


def test_types_are_those_of_the_entry_points() -> None:
    """The types are these; each parameter says what it means and gives an example."""
    from btw_core.parameters import parameters

    types = {kind.__struct_config__.tag: kind for kind in btw_resource_types()}
    assert set(types) == {"exec", "service", "flag", "script", "external", "generic"}
    for tag, kind in types.items():
        for parameter in parameters(kind):
            if parameter.name not in ("name", "start_timeout", "stop_timeout"):
                assert parameter.meaning and parameter.example, f"{tag}.{parameter.name}"
