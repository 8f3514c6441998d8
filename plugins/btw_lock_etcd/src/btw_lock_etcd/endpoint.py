"""One member: connections to it, and calls that end in time."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future
from typing import Any

import msgspec
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, Timeout, connection_from_url
from urllib3.connection import HTTPConnection

from . import trouble
from .address import Place
from .listen import explain
from .settings import Settings
from .trouble import Trouble

#: A dead path is noticed after 5 + 3 * 2 seconds of silence: a watch is silent for long (tcp(7)).
KEEPALIVE = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
#: A member that knows no leader says so at once instead of keeping the request; streams end when it loses its leader.
WITH_LEADER = {"Grpc-Metadata-hasleader": "true"}
JSON = {"Content-Type": "application/json"}
OK = 200


class Endpoint:
    """Thread-safe: each call has a connection of its own while it lasts, in a pool of one, which opens it, and opens it
    again when the member closed it meanwhile. Over urllib3 and nothing above it: each release and acquisition waits for
    the processor time of its call."""

    def __init__(self, place: Place, settings: Settings) -> None:
        self.name = str(place)
        #: Id of the cluster that it last answered for; kept by `Cluster`.
        self.cluster = ""
        self._place, self._settings = place, settings
        self._lock = threading.Lock()  # of the three below
        self._idle: list[HTTPConnectionPool] = []
        self._closed = False
        self._lookup: Future[None] | None = None

    def call(
        self, path: str, body: dict[str, Any], until: float, *, token: str = "", leader: bool = True
    ) -> dict[str, Any]:
        """POST to `path` below /v3, the answer's JSON. Blocks until `until` (time.monotonic()). Raises Trouble."""
        pool, fresh = self._take(until)
        seconds = _left(until)
        try:
            said = _said(_post(pool, path, body, _headers(token, leader), seconds))
        except Exception as error:  # foreign code; whatever it raises means that there is no answer
            found = error if isinstance(error, Trouble) else trouble.of(error, seconds)
            if found.answered:
                self._give_back(pool)
            else:
                pool.close()
                self._drop_idle()  # on the same path: each would cost another call its share
            if fresh and found.vague:
                found = explain(self._place, self._settings, until) or found
            if found is error:
                raise
            raise found from error
        self._give_back(pool)
        if not isinstance(said, dict) or not isinstance(said.get("header"), dict):
            raise trouble.no_etcd("200 OK without a header")
        return said

    def stream(self, path: str, body: dict[str, Any], until: float, *, token: str = "") -> BaseHTTPResponse:
        """The same for an answer without an end: returned when it begins. The caller ends and closes it."""
        pool, _ = self._take(until)
        seconds = _left(until)
        try:
            response = _post(pool, path, body, _headers(token, leader=True), seconds, whole=False)
            if response.status != OK:
                raise trouble.of_body(response.data.decode(errors="replace"), response.reason or "")
            # From here on silence is normal; `shutdown` of the response ends a read.
            connection: Any = response.connection
            connection.sock.settimeout(None)
        except Trouble:
            pool.close()
            raise
        except Exception as error:  # foreign code, as above
            pool.close()
            raise trouble.of(error, seconds) from error
        return response

    def close(self) -> None:
        """Idle connections now, others when their call is over. Does not block."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for pool in idle:
            pool.close()

    def _take(self, until: float) -> tuple[HTTPConnectionPool, bool]:
        """A connection for one call, and whether it is new."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), False
        if self._place.address is None:
            self._resolve(until)
        settings: dict[str, Any] = {"socket_options": KEEPALIVE, "maxsize": 1}
        if not self._settings.tls:
            return connection_from_url(f"http://{self._place}", **settings), True
        settings |= {"cert_reqs": "CERT_REQUIRED", "ca_certs": self._settings.ca}
        if self._settings.cert:
            settings |= {"cert_file": self._settings.cert, "key_file": self._settings.key}
        return connection_from_url(f"https://{self._place}", **settings), True

    def _give_back(self, pool: HTTPConnectionPool) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(pool)
                return
        pool.close()

    def _resolve(self, until: float) -> None:
        """Name lookups know no deadline, and urllib3 makes them: so each name is looked up once before, in a thread,
        and a member whose name servers are silent costs no more than its share."""
        with self._lock:
            if self._lookup is None or self._lookup.done():
                self._lookup = Future()
                threading.Thread(target=_look_up, args=(self._place, self._lookup), daemon=True).start()
            lookup = self._lookup
        try:
            lookup.result(max(0.0, until - time.monotonic()))
        except TimeoutError:
            raise Trouble("no answer from the name servers", sure=True) from None
        except OSError as error:
            raise Trouble(f"its name is not known ({error.strerror})", sure=True) from error


def _post(
    pool: HTTPConnectionPool,
    path: str,
    body: dict[str, Any],
    headers: dict[str, str],
    seconds: float,
    whole: bool = True,
) -> BaseHTTPResponse:
    """`seconds` for connecting and for the answer to begin, together. Nothing is repeated: that is up to `Cluster`."""
    return pool.urlopen(
        "POST",
        f"/v3{path}",
        body=msgspec.json.encode(body),
        headers=headers,
        timeout=Timeout(total=seconds),
        retries=False,
        redirect=False,
        preload_content=whole,
    )


def _said(response: BaseHTTPResponse) -> Any:
    """The answer's JSON. Raises Trouble."""
    if response.status != OK:
        raise trouble.of_body(response.data.decode(errors="replace"), response.reason or "")
    try:
        return msgspec.json.decode(response.data)
    except msgspec.DecodeError:
        raise trouble.no_etcd("200 OK without JSON") from None


def _headers(token: str, leader: bool) -> dict[str, str]:
    return JSON | (WITH_LEADER if leader else {}) | ({"Authorization": token} if token else {})


def _left(until: float) -> float:
    """Seconds. Raises Trouble when there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise Trouble("not asked: no time left", sure=True, silent=True)
    return left


def _look_up(place: Place, done: Future[None]) -> None:
    try:
        socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
        done.set_exception(error)
    else:
        done.set_result(None)
