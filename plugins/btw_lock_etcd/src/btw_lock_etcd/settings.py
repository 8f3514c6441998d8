"""The table `[plugins.etcd]` of btw.toml, and the files that it names."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

TABLE = "[plugins.etcd]"


def _said(text: str, *examples: str) -> msgspec.Meta:
    return msgspec.Meta(description=text, examples=list(examples))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Holds no secret: `password` says where it is. With `ca` TLS is used, without it plain HTTP."""

    ca: Annotated[str, _said("file: the CA that signed the members' certificates; TLS is used", "/etc/btw/ca.pem")] = ""
    cert: Annotated[str, _said("file: the certificate to show to the members", "/etc/btw/node.pem")] = ""
    key: Annotated[str, _said("file: the private key of cert, not encrypted", "/etc/btw/node.key")] = ""
    user: Annotated[str, _said("user of etcd", "btw")] = ""
    password: Annotated[str, _said("where its password is: file:/path or env:NAME", "file:/etc/btw/password")] = ""

    @property
    def tls(self) -> bool:
        return bool(self.ca)

    def read_password(self) -> str:
        """Anew at each login, so that a changed password needs no restart. Raises ValueError without the secret."""
        kind, _, place = self.password.partition(":")
        if kind == "env":
            secret = os.environ.get(place, "")
            if not secret:
                raise ValueError(f"{TABLE} password: the environment variable {place} is not set or empty")
            return secret
        _refuse_public("password", place)
        try:
            secret = Path(place).read_text().removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{TABLE} password: cannot read {place}: {_reason(error)}") from None
        if not secret:
            raise ValueError(f"{TABLE} password: {place} is empty; it must hold the password, and nothing else")
        return secret

    def context(self) -> ssl.SSLContext:
        """What TLS will use. Raises ValueError naming the file that is not fit."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(self.ca)
        except OSError as error:
            raise ValueError(
                f"{TABLE} ca: {self.ca} cannot be used: {_reason(error)}; allowed: PEM certificates"
            ) from None
        if self.cert:
            _refuse_public("key", self.key)
            try:
                context.load_cert_chain(self.cert, self.key, lambda: b"")  # an encrypted key must not ask the terminal
            except OSError as error:
                raise ValueError(
                    f"{TABLE} cert and key: {self.cert} and {self.key} cannot be used: {_reason(error)};"
                    " allowed: a PEM certificate and its private key, not encrypted"
                ) from None
        return context


def decode(table: Mapping[str, Any]) -> Settings:
    """Raises ValueError; a value that may be a secret is not shown."""
    allowed = Settings.__struct_fields__
    for key in table:
        if key not in allowed:
            raise ValueError(f"{TABLE} has the unknown key {key!r}, allowed: {', '.join(allowed)}")
    try:
        settings = msgspec.convert(dict(table), Settings)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at ")
        raise ValueError(f"{TABLE} {place.strip('`').removeprefix('$.')}: {message}") from None
    for name in ("ca", "cert", "key"):
        path = getattr(settings, name)
        if path and not os.path.isabs(path):  # noqa: PTH117 - a string from TOML
            raise ValueError(f"{TABLE} {name}: found {path!r}, allowed: a whole path, beginning with /")
    _refuse_halves(settings)
    kind, _, place = settings.password.partition(":")
    if settings.password and not ((kind == "env" and place) or (kind == "file" and place.startswith("/"))):
        raise ValueError(
            f'{TABLE} password: found something else than "file:/path" or "env:NAME" (not shown); a password itself is'
            " not allowed in btw.toml: write it to a file that only btw can read"
        )
    return settings


def _refuse_halves(settings: Settings) -> None:
    for name, needs in (("cert", "key"), ("key", "cert"), ("cert", "ca"), ("user", "password"), ("password", "user")):
        if getattr(settings, name) and not getattr(settings, needs):
            raise ValueError(f"{TABLE} has {name} without {needs}: set both, or none")


def _refuse_public(name: str, path: str) -> None:
    """Refused, as ssh does: a warning in a log is read after the secret was."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - a string from TOML
    except OSError as error:
        raise ValueError(f"{TABLE} {name}: cannot read {path}: {_reason(error)}") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ValueError(f"{TABLE} {name}: everybody can read or write {path} (mode {mode & 0o777:o}): chmod o= {path}")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return (error.strerror or "unreadable") if isinstance(error, OSError) else "unreadable"
