"""What may stand in `lock` and in [plugins.etcd], and what is said about the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from btw_lock_etcd.address import Address, Place, parse
from btw_lock_etcd.opening import open_store
from btw_lock_etcd.settings import Settings, decode


@pytest.mark.parametrize(
    ("rest", "right"),
    [
        ("//etcd1", "etcd://etcd1:2379/btw"),
        ("//etcd1/", "etcd://etcd1:2379/btw"),
        ("//etcd1:1,etcd2:65535/a/b-c.d_e/", "etcd://etcd1:1,etcd2:65535/a/b-c.d_e"),
        ("//[::1],[fe80::1]:23/x", "etcd://[::1]:2379,[fe80::1]:23/x"),
        ("//10.0.0.1, 10.0.0.2/x", "etcd://10.0.0.1:2379,10.0.0.2:2379/x"),
    ],
)
def test_an_address_says_members_and_prefix(rest: str, right: str) -> None:
    """Ports and prefix have defaults, IPv6 stands in brackets; the description is the whole address."""
    assert str(parse(rest)) == right
    assert parse(right.removeprefix("etcd:")) == parse(rest)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", "two slashes"),
        ("etcd1:2379/btw", "'etcd1:2379/btw'"),
        ("//", "a host is missing"),
        ("///btw", "a host is missing"),
        ("//etcd1,,etcd2", "a host is missing"),
        ("//::1:2379", "in brackets"),
        ("//[etcd1]:2379", "only an IPv6 address"),
        ("//[::1", "write an IPv6 address as"),
        ("//[::1]2379", "write an IPv6 address as"),
        ("//etcd1:", "'etcd1:'"),
        ("//etcd1:0", "allowed: 1 to 65535"),
        ("//etcd1:65536", "allowed: 1 to 65535"),
        ("//etcd1:http", "allowed: 1 to 65535"),
        ("//etcd 1", "'etcd 1'"),
        ("//-x", "'-x'"),
        ("//etcd1/a//b", "'a//b'"),
        ("//etcd1/../b", "'../b'"),
        ("//etcd1/a?tls=1", "'a?tls=1'"),
        ("//etcd1,etcd1:2379", "named twice"),
    ],
)
def test_junk_is_named_with_what_is_allowed(rest: str, said: str) -> None:
    """A lock that is not understood is refused with what was found."""
    with pytest.raises(ValueError, match=r"etcd|host|IPv6|named") as caught:
        parse(rest)
    assert said in str(caught.value)


def test_a_password_in_the_lock_is_refused_unseen() -> None:
    """user:password@ is refused, and neither is repeated."""
    for rest in ("//me:hunter2@etcd1/btw", "//etcd1,me:hunter2@etcd2/btw", "me:hunter2@etcd1"):
        with pytest.raises(ValueError, match=r"\[plugins.etcd\]") as caught:
            open_store(rest, {})
        assert "hunter2" not in str(caught.value) and "me:" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"passwd": "hunter2"}, "unknown key 'passwd', allowed: ca, cert, key, user, password"),
        ({"ca": 3}, "ca: Expected `str`, got `int`"),
        ({"ca": "ca.pem"}, "ca: found 'ca.pem', allowed: a whole path"),
        ({"ca": "/c", "cert": "/c"}, "cert without key"),
        ({"ca": "/c", "key": "/c"}, "key without cert"),
        ({"cert": "/c", "key": "/c"}, "cert without ca"),
        ({"user": "btw"}, "user without password"),
        ({"password": "env:X"}, "password without user"),
        ({"user": "btw", "password": "hunter2"}, "(not shown)"),
        ({"user": "btw", "password": "file:hunter2"}, "(not shown)"),
        ({"user": "btw", "password": "env:"}, "(not shown)"),
        ({"user": "btw", "password": ["hunter2"]}, "password: Expected `str`, got `array`"),
    ],
)
def test_settings_are_strict(table: dict[str, Any], said: str) -> None:
    """Unknown keys, wrong types and halves are refused by name; a password that stands there is not shown."""
    with pytest.raises(ValueError, match=r"\[plugins.etcd\]") as caught:
        decode(table)
    assert said in str(caught.value) and "hunter2" not in str(caught.value)


def test_files_are_looked_at_before_any_member(tmp_path: Path) -> None:
    """Files that are missing, wrong or public are refused by path; no connection is needed for that."""
    junk, public = tmp_path / "junk", tmp_path / "public"
    junk.write_text("hunter2")
    junk.chmod(0o600)
    public.write_text("hunter2")
    public.chmod(0o604)
    empty = tmp_path / "empty"
    empty.touch(0o600)
    rest = "//127.0.0.1:1/btw"
    for table, said in (
        ({"ca": str(tmp_path / "none")}, f"{tmp_path}/none cannot be used: No such file"),
        ({"ca": str(junk)}, f"{junk} cannot be used"),
        ({"user": "btw", "password": f"file:{tmp_path}/none"}, f"cannot read {tmp_path}/none: No such file"),
        ({"user": "btw", "password": f"file:{public}"}, f"chmod o= {public}"),
        ({"user": "btw", "password": f"file:{empty}"}, f"{empty} is empty"),
        ({"user": "btw", "password": "env:BTW_TEST_UNSET"}, "BTW_TEST_UNSET is not set"),
    ):
        with pytest.raises(ValueError, match=r"\[plugins.etcd\]") as caught:
            open_store(rest, table)
        assert said in str(caught.value) and "hunter2" not in str(caught.value)


def test_a_password_does_not_leave_this_computer_in_clear(tmp_path: Path) -> None:
    """Without TLS a password is sent to loopback only."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    secret.chmod(0o600)
    with pytest.raises(ValueError, match="in clear: set ca"):
        open_store("//127.0.0.1:1,192.0.2.1/btw", {"user": "btw", "password": f"file:{secret}"})
    assert Settings(user="btw", password=f"file:{secret}").read_password() == "hunter2"


def test_settings_hold_no_secret() -> None:
    """What is printed of settings and addresses is where a secret is, not the secret."""
    settings = Settings(user="btw", password="env:BTW_TEST_SECRET")
    assert "env:BTW_TEST_SECRET" in repr(settings)
    assert Address((Place("etcd1", 2379),), "btw").places[0].address is None


def test_every_setting_is_described() -> None:
    """Each key says what it means and shows an example, for `btw plugin show` and the README."""
    from btw_core.parameters import parameters

    assert [each.name for each in parameters(Settings) if not (each.meaning and each.example)] == []
