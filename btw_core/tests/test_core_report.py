"""`btw report` leaves out what is called after a secret, in whatever form it is written."""

from __future__ import annotations

import pytest

from btw_core.cli.report import redacted


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
