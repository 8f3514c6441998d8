"""What a failed request means. The client library wraps causes, so they are looked up in the chain.

Codes are those of gRPC (grpc.io, "Status codes"), which etcd's JSON gateway puts into the body of an error.
"""

from __future__ import annotations

import errno
import json
import os
import ssl
from collections.abc import Iterator
from typing import Any

from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

_UNKNOWN, _INVALID, _DENIED, _EXHAUSTED, _PRECONDITION, _UNIMPLEMENTED, _UNAVAILABLE, _LOGIN = 2, 3, 7, 8, 9, 12, 14, 16
#: The server says so before it begins: nothing was done.
_REFUSALS = {_INVALID, _DENIED, 5, _EXHAUSTED, _PRECONDITION, 11, _UNIMPLEMENTED, _LOGIN}


class Trouble(Exception):
    """Why one member gave no answer. Its text is short, without the member's name, and never holds a secret.

    `sure`: the request was certainly not carried out. `config`: only a person can change it. `everywhere`: the other
    members would say the same. `login`: a new token may help. `answered`: the connection can be used again.
    `vague`: the connection broke without a word. `silent`: nothing was heard in time.
    """

    def __init__(
        self,
        text: str,
        *,
        sure: bool = False,
        config: bool = False,
        everywhere: bool = False,
        login: bool = False,
        answered: bool = False,
        vague: bool = False,
        silent: bool = False,
    ) -> None:
        super().__init__(text)
        self.sure, self.config, self.everywhere = sure, config, everywhere
        self.login, self.answered, self.vague, self.silent = login, answered, vague, silent


def of(error: BaseException, seconds: float) -> Trouble:
    """What an exception of the client library (or below it) means; `seconds` is how long it was waited."""
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return untrusted(cause)
        if isinstance(cause, ssl.SSLError) and (trouble := of_tls(cause)):
            return trouble
    connecting = any(isinstance(cause, NewConnectionError | ConnectTimeoutError) for cause in causes)
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in _SYSTEM:
            return Trouble(os.strerror(cause.errno).lower(), sure=connecting, vague=not connecting)
    if connecting:
        return Trouble(f"no connection within {seconds:.1f} s", sure=True, silent=True)
    if any(isinstance(cause, ReadTimeoutError | TimeoutError) for cause in causes):
        return Trouble(f"no answer within {seconds:.1f} s", silent=True)
    return Trouble("connection lost", vague=True)


def of_body(text: str, reason: str = "") -> Trouble:
    """What the body of an answer says that is not 200, or one message of a stream."""
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return no_etcd(reason)
    inner: dict[str, Any] = body["error"] if isinstance(body.get("error"), dict) else body
    message = str(inner.get("message") or inner.get("error") or reason)[:200]
    code = inner.get("grpc_code", inner.get("code"))
    if not isinstance(code, int):
        return no_etcd(reason)
    return of_code(code, message)


def of_code(code: int, message: str) -> Trouble:
    """See the names of `Trouble`."""
    said = message.removeprefix("etcdserver: ")
    if code == _LOGIN or "revision of auth store is old" in said:
        return Trouble(said, sure=True, login=True, answered=True)
    if code == _INVALID and "user name is empty" in said:
        text = "asks who we are: set user and password in [plugins.etcd] of btw.toml"
        return Trouble(text, sure=True, config=True, everywhere=True, login=True, answered=True)
    if code == _INVALID and "invalid user ID or password" in said:
        text = "wrong user or password: see [plugins.etcd] of btw.toml"
        return Trouble(text, sure=True, config=True, everywhere=True, answered=True)
    if code == _DENIED:
        text = "permission denied: the user needs readwrite on all of the prefix (etcdctl role grant-permission)"
        return Trouble(text, sure=True, config=True, everywhere=True, answered=True)
    if code == _PRECONDITION and "authentication is not enabled" in said:
        text = "authentication is not enabled: etcdctl auth enable, or remove user from [plugins.etcd] of btw.toml"
        return Trouble(text, sure=True, config=True, everywhere=True, answered=True)
    if code == _EXHAUSTED and "space exceeded" in said:
        text = "out of space (alarm NOSPACE): etcdctl compact, etcdctl defrag, then etcdctl alarm disarm"
        return Trouble(text, sure=True, everywhere=True, answered=True)
    if code == _UNIMPLEMENTED:
        return no_etcd(said)
    if code == _UNAVAILABLE and said == "no leader":
        # said before anything else is done with a request that asks for a leader (etcd: v3rpc/interceptor.go)
        return Trouble("no quorum (no leader)", sure=True, answered=True)
    if code in (_UNAVAILABLE, _UNKNOWN) and ("timed out" in said or "deadline exceeded" in said):
        return Trouble(f"no quorum ({said})", answered=True)
    if code == _UNAVAILABLE and said == "connection closed":
        text = "its gateway cannot reach it (with --client-cert-auth its certificate needs the usage clientAuth too)"
        return Trouble(text, answered=True)
    return Trouble(said, sure=code in _REFUSALS, everywhere=code == _INVALID, answered=True)


def no_etcd(reason: str) -> Trouble:
    """It speaks HTTP, but not what is asked for."""
    text = f"answers {reason[:60]!r}, as no etcd of version 3.4 or newer does: is this the client port (2379) of one?"
    return Trouble(text, config=True)


def untrusted(error: ssl.SSLCertVerificationError) -> Trouble:
    """We refuse the member."""
    text = f"its certificate is not trusted ({error.verify_message}): see ca in [plugins.etcd] of btw.toml"
    return Trouble(text, sure=True, config=True)


def no_tls() -> Trouble:
    """It is a plain port."""
    text = "does not speak TLS: give etcd https URLs and a certificate, or remove ca from [plugins.etcd]"
    return Trouble(text, sure=True, config=True)


def of_tls(error: ssl.SSLError) -> Trouble | None:
    """None: it says nothing certain."""
    reason = error.reason or ""
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason or "PACKET_LENGTH_TOO_LONG" in reason:
        return no_tls()
    if "ALERT" in reason and ("CERT" in reason or "UNKNOWN_CA" in reason):
        said = reason.lower().replace("_", " ")
        text = f"refuses our client certificate, or the lack of one ({said}): see cert and key in [plugins.etcd]"
        return Trouble(text, sure=True, config=True)
    return None


_SYSTEM = {
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EPIPE,
    errno.ENETDOWN,
    errno.EMFILE,
    errno.ENFILE,
    errno.EADDRNOTAVAIL,
}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that it came from, each once."""
    todo, seen = [error], set[int]()
    while todo:
        each = todo.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            found = [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
            todo += [cause for cause in found if isinstance(cause, BaseException)]
