"""One watch on the wire."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

from urllib3 import BaseHTTPResponse

from btw_core.store import Record

from . import trouble
from .endpoint import Endpoint
from .trouble import Trouble


class Stream:
    """Opening blocks until `until` (time.monotonic()) at most, and raises Trouble. A thread reads until `close`."""

    def __init__(
        self, endpoint: Endpoint, watch: dict[str, Any], record: Callable[[Any], Record], until: float, token: str
    ) -> None:
        self.endpoint = endpoint
        #: Everything up to this revision has been received.
        self.position = int(watch["start_revision"]) - 1
        self._record = record
        self._news = threading.Condition()  # of the four below and `position`
        self._changed: dict[str, Record] = {}  # by key: whoever reads late gets the newest of each
        self._trouble: Trouble | None = None
        self._closed = False
        self._response = endpoint.stream("/watch", {"create_request": watch}, until, token=token)
        threading.Thread(target=self._read, name="etcd-watch", daemon=True).start()

    def take(self, seconds: float) -> list[Record]:
        """What has come since the last time, oldest first. Blocks while there is nothing. Raises Trouble when the
        stream is over and all of it was taken."""
        with self._news:
            self._news.wait_for(lambda: self._changed or self._trouble, seconds)
            if not self._changed and self._trouble:
                raise self._trouble
            records = sorted(self._changed.values(), key=lambda record: record.revision)
            self._changed.clear()
            return records

    def close(self) -> None:
        """Does not block, may be repeated. The thread frees the connection."""
        with self._news:
            if self._closed:
                return
            self._closed = True
            self._trouble = self._trouble or Trouble("closed")
            self._news.notify_all()
            with contextlib.suppress(Exception):  # the connection is gone: so the thread has seen its end
                self._response.shutdown()

    def _read(self) -> None:
        try:
            _lines(self._response, self._receive)
            end = Trouble("the watch was ended")
        except Trouble as error:
            end = error
        except Exception as error:  # noqa: BLE001 - foreign code; handed to the one who takes
            end = trouble.of(error, 0.0)
        with self._news:
            self._closed = True  # nothing may shut down a socket that is being freed
            self._trouble = self._trouble or end
            self._news.notify_all()
        self._response.close()

    def _receive(self, line: bytes) -> None:
        message = json.loads(line)
        if "error" in message:
            raise trouble.of_body(line.decode())
        result = message["result"]
        if result.get("canceled"):
            compacted = f"revision {result['compact_revision']} was compacted" if "compact_revision" in result else ""
            raise Trouble(f"the watch was cancelled: {result.get('cancel_reason') or compacted or 'no reason given'}")
        events = result.get("events", [])
        with self._news:
            for event in events:
                if event.get("type", "PUT") == "PUT":
                    record = self._record(event["kv"])
                    self._changed[record.key] = record
                self.position = max(self.position, int(event["kv"]["mod_revision"]))
            if self._changed:
                self._news.notify_all()


def _lines(response: BaseHTTPResponse, receive: Callable[[bytes], None]) -> None:
    """One message a line (grpc-gateway); chunks have other borders. The last one, an error, may lack its newline."""
    rest = b""
    for chunk in response.stream(None):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in filter(bytes.strip, lines):
            receive(line)
    if rest.strip():
        receive(rest)
