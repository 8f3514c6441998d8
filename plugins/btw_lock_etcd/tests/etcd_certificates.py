"""Certificates for tests, made by the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    cert: Path
    key: Path


def make_ca(directory: Path, name: str) -> Pair:
    """A certificate authority of its own."""
    return _request(directory, name, ["-addext", "keyUsage=critical,keyCertSign,cRLSign"])


def make_pair(directory: Path, name: str, ca: Pair, names: str = "", usage: str = "serverAuth,clientAuth") -> Pair:
    """Signed by `ca`; `names` as "IP:127.0.0.1,DNS:localhost"."""
    words = ["-CA", str(ca.cert), "-CAkey", str(ca.key), "-addext", f"extendedKeyUsage={usage}"]
    words += ["-addext", "basicConstraints=critical,CA:FALSE"]
    if names:
        words += ["-addext", f"subjectAltName={names}"]
    return _request(directory, name, words)


def _request(directory: Path, name: str, words: list[str]) -> Pair:
    made = Pair(directory / f"{name}.pem", directory / f"{name}.key")
    common = ["openssl", "req", "-x509", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", str(made.key)]
    subprocess.run([*common, "-out", str(made.cert), *words], check=True, capture_output=True, timeout=60)
    return made
