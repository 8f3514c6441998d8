"""`btw report` leaves out what is called after a secret, in whatever form it is written."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from btw_core.cli.report import command, redacted


@pytest.mark.parametrize(
    "text",
    [
        'password = "S3C"',
        "  db_password: S3C",
        'auth = { user = "u", password = "S3C" }',
        'command = ["mysql", "--password=S3C", "-h"]',
        'environment = ["PGPASSWORD=S3C"]',
        'token = """\nS3C\n"""',
        '{"at": 1, "api_key": "S3C", "x": 2}',
        '[plugins.etcd]\nsecret = \'S3C\'',
        'lock = "etcd://u:S3C@192.0.2.1/btw"',
        'pass = "a\\"S3C"',
    ],
)
def test_secrets_are_left_out(text: str) -> None:
    """The value is gone, and a word says so."""
    said = redacted(text)
    assert "S3C" not in said and "(left out)" in said


def test_what_is_no_secret_stays() -> None:
    """A report without its facts would be none."""
    text = 'cause = "lock acquired: free, term 1"\npackage:web|auto_run=off\n{"package": "keyboard", "state": "up"}\n'
    assert redacted(text) == text


def test_the_logs_that_packages_name_are_in_it(tmp_path: Path) -> None:
    """Without secrets; what names no file, or is broken, is passed over."""
    packages = tmp_path / "packages"
    packages.mkdir()
    log = tmp_path / "web.log"
    log.write_text("2026-11-26 12:00:00 n1 start web: password=S3C\n")
    texts = {"web": f'log = "{log}"', "app": f'log = "{tmp_path}/none"', "old": "", "bad": "log = [", "odd": "log = 1"}
    for name, text in texts.items():
        (packages / f"{name}.toml").write_text(f"[package]\n{text}\n")
    file = tmp_path / "report.tar.gz"
    done = CliRunner().invoke(command, ["-o", str(file), "--dir", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    with tarfile.open(file) as archive:
        assert [name for name in archive.getnames() if "/logs" in name] == ["btw-report/logs/web.log"]
        found = archive.extractfile("btw-report/logs/web.log")
        assert found is not None and found.read() == b"2026-11-26 12:00:00 n1 start web: password=(left out)\n"
