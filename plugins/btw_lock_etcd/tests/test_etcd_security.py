"""TLS, certificates, users and passwords: what works, and what is said when it does not. Never a secret."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from etcd_certificates import Pair, make_ca, make_pair
from etcd_members import EtcdCluster, Tls, eventually
from etcd_stores import Opener, patiently
from test_etcd_watch import watching

from btw_core.plugins import open_store
from btw_core.resource import ConfigError
from btw_core.store import StoreUnavailable

SECRET, SECOND = "hunter2-and-more", "correct-horse-battery"


@dataclass(frozen=True)
class Paper:
    """Two CAs that do not know each other, and what they signed."""

    ca: Pair
    other_ca: Pair
    client: Pair
    other_client: Pair
    member: Pair


@pytest.fixture(scope="module")
def paper(etcd: None, tmp_path_factory: pytest.TempPathFactory) -> Paper:
    path = tmp_path_factory.mktemp("certificates")
    ca, other = make_ca(path, "ca"), make_ca(path, "other-ca")
    client, stranger = make_pair(path, "client", ca, usage="clientAuth"), make_pair(path, "stranger", other)
    return Paper(ca, other, client, stranger, make_pair(path, "member", ca, "IP:127.0.0.1"))


@pytest.fixture(scope="module")
def strict(paper: Paper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Asks clients for a certificate."""
    tls = Tls(paper.member.cert, paper.member.key, paper.ca.cert, paper.ca.cert, (paper.client.cert, paper.client.key))
    with EtcdCluster(tmp_path_factory.mktemp("strict"), 1, tls=tls) as cluster:
        yield cluster


# ---- TLS
def test_certificates_open_the_door(strict: EtcdCluster, paper: Paper, opened: Opener) -> None:
    """With CA, certificate and key calls and watches work through TLS."""
    store = opened(
        strict.rest("tls"), ca=str(paper.ca.cert), cert=str(paper.client.cert), key=str(paper.client.key)
    )
    with watching(store) as watch:
        assert isinstance(store.put("a", b"1", expected=None, deadline=30), int)
        eventually(lambda: "a" in watch.seen, "not seen")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "speaks TLS: set ca"),
        ("ca=other_ca.cert cert=client.cert key=client.key", r"not trusted \(unable to get local issuer .*see ca"),
        ("ca=ca.cert", "refuses our client certificate, or the lack of one"),
        ("ca=ca.cert cert=other_client.cert key=other_client.key", "refuses our client certificate"),
        ("ca=ca.cert cert=client.cert key=other_client.key", "cannot be used: key values mismatch"),
    ],
)
def test_wrong_papers_are_told_apart(
    strict: EtcdCluster, paper: Paper, opened: Opener, given: str, said: str
) -> None:
    """No TLS, wrong CA, no certificate, certificate of a stranger, key of another: refused at opening, each in its
    own words."""
    settings = {}
    for word in given.split():
        name, _, place = word.partition("=")
        pair, part = place.split(".")
        settings[name] = str(getattr(getattr(paper, pair), part))
    with pytest.raises(ValueError, match=said):
        opened(strict.rest("tls"), **settings)


def test_a_name_that_is_not_in_the_certificate(strict: EtcdCluster, paper: Paper, opened: Opener) -> None:
    """The member must be named as its certificate names it."""
    rest = strict.rest("tls").replace("127.0.0.1", "localhost")
    with pytest.raises(ValueError, match="Hostname mismatch, certificate is not valid for 'localhost'"):
        opened(rest, ca=str(paper.ca.cert), cert=str(paper.client.cert), key=str(paper.client.key))


def test_tls_to_a_plain_port(cluster: EtcdCluster, paper: Paper, opened: Opener) -> None:
    """A member without TLS is told apart from one with a wrong certificate."""
    with pytest.raises(ValueError, match="does not speak TLS"):
        opened(cluster.rest("tls"), ca=str(paper.ca.cert))


def test_a_member_whose_certificate_changes(paper: Paper, tmp_path: Path, opened: Opener) -> None:
    """While in use, a member that cannot be trusted any more is StoreUnavailable, in the same words."""
    tls = Tls(paper.member.cert, paper.member.key, paper.ca.cert)
    with EtcdCluster(tmp_path, 1, tls=tls) as cluster:
        store = opened(cluster.rest(), ca=str(paper.ca.cert))
        assert store.list("", deadline=30) == []
        (member,) = cluster.members
        member.stop()
        bad = make_pair(tmp_path, "bad", paper.other_ca, "IP:127.0.0.1")
        member.arguments += [f"--cert-file={bad.cert}", f"--key-file={bad.key}"]
        member.start()

        def distrusted() -> bool:
            with pytest.raises(StoreUnavailable) as caught:
                store.list("", deadline=2)
            return "its certificate is not trusted" in str(caught.value)

        eventually(distrusted, "never says why")


def test_a_public_key_file_is_refused(strict: EtcdCluster, paper: Paper, tmp_path: Path, opened: Opener) -> None:
    """A private key that everybody can read is not used."""
    key = tmp_path / "key"
    key.write_bytes(paper.client.key.read_bytes())
    key.chmod(0o644)
    with pytest.raises(ValueError, match=f"everybody can read or write {key}"):
        opened(strict.rest(), ca=str(paper.ca.cert), cert=str(paper.client.cert), key=str(key))


# ---- users
@pytest.fixture
def guarded(etcd: None, tmp_path: Path) -> Iterator[EtcdCluster]:
    """User btw with SECRET may do everything below btw/; reader may read it. Tokens last two seconds."""
    with EtcdCluster(tmp_path, 1, extra=["--auth-token-ttl=2"]) as cluster:
        for words in (
            "user add root:toor",
            "user grant-role root root",
            f"user add btw:{SECRET}",
            "role add btw",
            "role grant-permission btw readwrite btw/ --prefix=true",
            "user grant-role btw btw",
            f"user add reader:{SECRET}",
            "role add reader",
            "role grant-permission reader read btw/ --prefix=true",
            "user grant-role reader reader",
            "auth enable",
        ):
            cluster.etcdctl(*words.split())
        cluster.user = "root:toor"
        yield cluster


def secret_file(path: Path, secret: str) -> str:
    file = path / "password"
    file.touch(0o600)
    file.write_text(secret + "\n")
    return f"file:{file}"


def test_a_password_opens_the_door(guarded: EtcdCluster, tmp_path: Path, opened: Opener) -> None:
    """User and password from a file or the environment; calls and watches work when the token has run out, and when the
    member was restarted and knows no token."""
    password = secret_file(tmp_path, SECRET)
    store = opened(guarded.rest(), user="btw", password=password)
    first = store.put("a", b"1", expected=None, deadline=30)
    assert isinstance(first, int)
    (member,) = guarded.members
    member.restart()
    guarded.wait_healthy()
    assert patiently(lambda: store.put("a", b"2", expected=first, deadline=10)) == first + 1
    used = store.cluster.login.known

    def ran_out() -> bool:
        time.sleep(4)  # a token that is used does not run out
        store.list("", deadline=10)
        return store.cluster.login.known != used

    eventually(ran_out, "the token never ran out")
    with watching(store) as watch:
        assert watch.seen and not watch.troubles


def test_a_password_that_changes_needs_no_restart(guarded: EtcdCluster, tmp_path: Path, opened: Opener) -> None:
    """The file is read at each login: a new password is used as soon as it stands there."""
    password = secret_file(tmp_path, SECRET)
    store = opened(guarded.rest(), user="btw", password=password)
    guarded.etcdctl("user", "passwd", "btw", "--interactive=false", input=SECOND)
    guarded.members[0].restart()
    guarded.wait_healthy()

    def refused() -> bool:
        try:
            store.list("", deadline=2)
        except StoreUnavailable as error:
            return "wrong user or password" in str(error)
        return False

    eventually(refused, "the old password still opens")
    secret_file(tmp_path, SECOND)
    assert patiently(lambda: store.list("", deadline=5)) == []


def test_who_may_not_is_told_why(guarded: EtcdCluster, tmp_path: Path, opened: Opener) -> None:
    """No user, wrong password, wrong prefix, a user who may only read: refused at opening, each in its own words."""
    password = secret_file(tmp_path, SECRET)
    with pytest.raises(ValueError, match="asks who we are: set user and password"):
        opened(guarded.rest())
    with pytest.raises(ValueError, match="permission denied"):
        opened(guarded.rest("elsewhere"), user="btw", password=password)
    with pytest.raises(ValueError, match="permission denied"):
        opened(guarded.rest(), user="reader", password=password)
    wrong = secret_file(tmp_path, "wrong-" + SECRET)
    with pytest.raises(ValueError, match="wrong user or password"):
        opened(guarded.rest(), user="btw", password=wrong)


def test_a_right_that_is_taken_away(guarded: EtcdCluster, tmp_path: Path, opened: Opener) -> None:
    """While in use it is StoreUnavailable with the reason, never "no"."""
    store = opened(guarded.rest(), user="btw", password=secret_file(tmp_path, SECRET))
    guarded.etcdctl("user", "revoke-role", "btw", "btw")
    for call in (lambda: store.list("", deadline=10), lambda: store.put("a", b"", expected=None, deadline=10)):
        with pytest.raises(StoreUnavailable, match="permission denied"):
            call()


def test_a_user_where_nobody_asks_for_one(cluster: EtcdCluster, prefix: str, tmp_path: Path, opened: Opener) -> None:
    """A password for members without authentication is a mistake, and is told."""
    with pytest.raises(ValueError, match="authentication is not enabled"):
        opened(cluster.rest(prefix), user="btw", password=secret_file(tmp_path, SECRET))


def test_secrets_are_nowhere(
    guarded: EtcdCluster,
    tmp_path: Path,
    opened: Opener,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither errors with all their causes, nor descriptions, nor the logs of the libraries at their most talkative
    hold the password or a token."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("BTW_TEST_PASSWORD", SECRET)
    store = opened(guarded.rest(), user="btw", password="env:BTW_TEST_PASSWORD")
    store.put("a", b"1", expected=None, deadline=30)
    token = store.cluster.login.known
    texts = [store.description, repr(store), repr(store.cluster), repr(store.cluster.login)]
    guarded.members[0].kill()
    with pytest.raises(StoreUnavailable) as caught:
        store.get("a", deadline=1)
    guarded.members[0].start()
    guarded.wait_healthy()
    guarded.etcdctl("user", "passwd", "btw", "--interactive=false", input=SECOND)
    guarded.members[0].restart()
    guarded.wait_healthy()
    with pytest.raises(StoreUnavailable) as second:
        patiently(lambda: store.put("b", b"1", expected=None, deadline=5), lambda error: "wrong user" in str(error))
    with pytest.raises(ConfigError) as third:
        open_store(f"etcd:{guarded.rest()}", {"etcd": {"user": "btw", "password": "env:BTW_TEST_PASSWORD"}})
    error: BaseException | None
    for error in (caught.value, second.value, third.value):
        while error is not None:
            texts += [str(error), repr(error)]
            error = error.__cause__ or error.__context__
    texts.append(caplog.text)
    assert token and "POST" in caplog.text, "this test shows nothing"
    command_line = Path(f"/proc/{os.getpid()}/cmdline").read_bytes().decode()
    for text in (*texts, command_line):
        assert SECRET not in text and token not in text
