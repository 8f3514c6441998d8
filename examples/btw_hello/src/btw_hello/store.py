"""Lock scheme `hello`: a store in a JSON file, `lock = "hello:/srv/lock.json"`. For one computer: a file that several
computers share is no lock, whatever the file system promises.

A store only keeps records and compares revisions; leases, terms and timeouts are the core's.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from btw_core import Conflict, Record, Store, StoreUnavailable

#: Seconds between two looks of a watch, and between two tries to get the file's lock.
LOOK, TRY = 0.2, 0.005


def open_store(rest: str, settings: Mapping[str, Any]) -> Store:
    """Raises ValueError: the configuration is wrong."""
    if not rest.startswith("/"):
        raise ValueError(f"lock = hello:{rest} is no full path; write hello:/srv/lock.json")
    if settings:
        raise ValueError(f"[plugins.hello] has no {', '.join(settings)} for a lock")
    return FileStore(Path(rest))


class FileStore:
    """See `btw_core.Store`. Calls come from several threads: each opens the file anew, and so has a lock of its own."""

    creates_itself = False

    def __init__(self, path: Path) -> None:
        self.description = f"hello:{path}"
        self._path, self._closed = path, threading.Event()

    def get(self, key: str, *, deadline: float) -> Record | None:
        with self._locked(deadline):
            return self._read()[1].get(key)

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        with self._locked(deadline):
            revision, records = self._read()
            known = records.get(key)
            if (known.revision if known else None) != expected:
                return Conflict()
            records[key] = Record(key, value, revision + 1)
            self._write(revision + 1, records)
            return revision + 1

    def watch(self, prefix: str, since: int) -> Iterator[list[Record]]:
        """Looks again and again: an engine with a watch of its own is quicker."""
        while not self._closed.is_set():
            records = sorted(self.list(prefix, deadline=1.0), key=lambda record: record.revision)
            changed = [record for record in records if record.revision > since]
            since = max([since, *(record.revision for record in changed)])
            yield changed
            self._closed.wait(LOOK)
        raise StoreUnavailable(f"{self.description}: closed")

    def close(self) -> None:
        self._closed.set()

    def list(self, prefix: str, *, deadline: float) -> list[Record]:
        with self._locked(deadline):
            return [record for key, record in sorted(self._read()[1].items()) if key.startswith(prefix)]

    @contextlib.contextmanager
    def _locked(self, deadline: float) -> Iterator[None]:
        """One at a time, this process or another. Whatever the system refuses is "cannot tell", never "no"."""
        end = time.monotonic() + deadline
        if self._closed.is_set():
            raise StoreUnavailable(f"{self.description}: closed")
        try:
            with open(f"{self._path}.lock", "w") as file:
                while True:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if time.monotonic() > end:
                            raise StoreUnavailable(f"{self.description}: locked for {deadline:g} s") from None
                        time.sleep(TRY)
                yield
        except OSError as error:
            raise StoreUnavailable(f"{self.description}: {error.strerror}") from None

    def _read(self) -> tuple[int, dict[str, Record]]:
        if not self._path.exists():
            return 0, {}
        try:
            said = json.loads(self._path.read_text())
            rows = ((key, base64.b64decode(value), int(revision)) for key, (value, revision) in said["records"].items())
            return int(said["revision"]), {key: Record(key, value, revision) for key, value, revision in rows}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreUnavailable(f"{self.description} is damaged: {error!r}; restore it from a backup") from None

    def _write(self, revision: int, records: Mapping[str, Record]) -> None:
        """On the disk before anybody is told."""
        rows = {key: [base64.b64encode(each.value).decode(), each.revision] for key, each in records.items()}
        new = Path(f"{self._path}.new")
        with open(new, "w") as file:
            json.dump({"revision": revision, "records": rows}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
