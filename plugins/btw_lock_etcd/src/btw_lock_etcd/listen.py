"""Why a first connection broke without a word: connect again, send next to nothing, and listen.

etcd closes so when a plain request comes to a TLS port and when TLS comes to a plain port; and the alert by which it
refuses a client certificate is lost while we are still sending (in TLS 1.3 our handshake is over before, RFC 8446, 2).
"""

from __future__ import annotations

import socket
import ssl
import time

from . import trouble
from .address import Place
from .settings import Settings
from .trouble import Trouble

#: Seconds for each attempt: the member has just been there.
LIMIT = 1.0


def explain(place: Place, settings: Settings, until: float) -> Trouble | None:
    """None: it stays unknown. Blocks for 2 * LIMIT, and until `until` (time.monotonic()) at most."""
    if not settings.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        text = "speaks TLS: set ca in [plugins.etcd] of btw.toml"
        return Trouble(text, sure=True, config=True) if _shakes_hands(place, context, until) else None
    try:
        context = settings.context()
        if not _shakes_hands(place, context, until) and _speaks_http(place, until):
            return trouble.no_tls()
    except ssl.SSLCertVerificationError as error:
        return trouble.untrusted(error)
    except ssl.SSLError as error:
        return trouble.of_tls(error)
    except ValueError as error:  # the files have changed since they were checked
        return Trouble(str(error), sure=True, config=True)
    return None


def _shakes_hands(place: Place, context: ssl.SSLContext, until: float) -> bool:
    """Raises SSLError with what the other side, or OpenSSL, says."""
    try:
        with (
            _connect(place, until) as plain,
            context.wrap_socket(plain, server_hostname=place.host) as wrapped,
        ):
            if context.verify_mode is ssl.CERT_REQUIRED:
                wrapped.recv(1)  # where a refusal of our certificate arrives; otherwise silence
            return True
    except TimeoutError:
        return True
    except ssl.SSLEOFError:
        return False
    except ssl.SSLError as error:
        if context.verify_mode is ssl.CERT_REQUIRED:
            raise
        return "ALERT" in (error.reason or "")  # whatever it refuses, it does so in TLS
    except OSError:
        return False


def _speaks_http(place: Place, until: float) -> bool:
    try:
        with _connect(place, until) as plain:
            plain.sendall(b"GET /version HTTP/1.0\r\n\r\n")
            return plain.recv(5) == b"HTTP/"
    except OSError:
        return False


def _connect(place: Place, until: float) -> socket.socket:
    return socket.create_connection((place.host, place.port), max(0.01, min(LIMIT, until - time.monotonic())))
