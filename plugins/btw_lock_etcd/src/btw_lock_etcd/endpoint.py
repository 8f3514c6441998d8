"""One member: connections to it, and calls that end in time."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future
from typing import Any

import requests
from etcd3gw.client import Etcd3Client
from requests.adapters import HTTPAdapter
from urllib3 import Timeout
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


class Endpoint:
    """Thread-safe. Sessions of `requests` are not, and the client's timeout is one for all its calls: so each call
    has a client of its own while it lasts."""

    def __init__(self, place: Place, settings: Settings) -> None:
        self.name = str(place)
        #: Id of the cluster that it last answered for; kept by `Cluster`.
        self.cluster = ""
        self._place, self._settings = place, settings
        self._lock = threading.Lock()  # of the three below
        self._idle: list[Etcd3Client] = []
        self._closed = False
        self._lookup: Future[None] | None = None

    def call(
        self, path: str, body: dict[str, Any], until: float, *, token: str = "", leader: bool = True
    ) -> dict[str, Any]:
        """POST to `path` below /v3, the answer's JSON. Blocks until `until` (time.monotonic()). Raises Trouble."""
        client, fresh = self._take(until)
        client.timeout = seconds = _left(until)
        headers = _headers(token, leader)
        try:
            said = client.post(client.get_url(path), json=body, headers=headers, allow_redirects=False)
        except Exception as error:  # foreign code; whatever it raises means that there is no answer
            found = trouble.of(error, seconds)
            if found.answered:
                self._give_back(client)
            else:
                client.session.close()
                self._drop_idle()  # on the same path: each would cost another call its share
            if fresh and found.vague:
                found = explain(self._place, self._settings, until) or found
            raise found from error
        self._give_back(client)
        if not isinstance(said, dict) or not isinstance(said.get("header"), dict):
            raise trouble.no_etcd("200 OK without a header")
        return said

    def stream(self, path: str, body: dict[str, Any], until: float, *, token: str = "") -> requests.Response:
        """The same for an answer without an end: returned when it begins. The caller ends and closes it."""
        client, _ = self._take(until)
        seconds = _left(until)
        try:
            response = client.session.post(
                client.get_url(path),
                json=body,
                headers=_headers(token, leader=True),
                allow_redirects=False,
                timeout=seconds,
                stream=True,
            )
            if response.status_code != requests.codes["ok"]:
                raise trouble.of_body(response.text, response.reason)
            # From here on silence is normal; `shutdown` of the response ends a read.
            response.raw.connection.sock.settimeout(None)
        except Trouble:
            client.session.close()
            raise
        except Exception as error:  # foreign code, as above
            client.session.close()
            raise trouble.of(error, seconds) from error
        return response

    def close(self) -> None:
        """Idle connections now, others when their call is over. Does not block."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for client in idle:
            client.session.close()

    def _take(self, until: float) -> tuple[Etcd3Client, bool]:
        """A client for one call, and whether it is new."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), False
        if self._place.address is None:
            self._resolve(until)
        session = requests.Session()
        session.trust_env = False  # no proxies, no .netrc, no other CA from the environment
        adapter = _Adapter(pool_connections=1, pool_maxsize=1)  # urllib3 repeats nothing: max_retries is 0
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        scheme = "http"
        if self._settings.tls:
            scheme, session.verify = "https", self._settings.ca
            if self._settings.cert:
                session.cert = (self._settings.cert, self._settings.key)
        place = self._place
        return Etcd3Client(place.host, place.port, protocol=scheme, api_path="/v3/", session=session), True

    def _give_back(self, client: Etcd3Client) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(client)
                return
        client.session.close()

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


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwds: Any) -> None:
        super().init_poolmanager(*args, socket_options=KEEPALIVE, **kwds)

    def send(self, request: Any, stream: bool = False, timeout: Any = None, *args: Any, **kwds: Any) -> Any:
        """A bare number would be granted to connecting and to reading, each."""
        limit: Any = Timeout(total=timeout)  # requests takes it (see its HTTPAdapter.send); its types forgot
        return super().send(request, stream, limit, *args, **kwds)


def _headers(token: str, leader: bool) -> dict[str, str]:
    return (WITH_LEADER if leader else {}) | ({"Authorization": token} if token else {})


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
