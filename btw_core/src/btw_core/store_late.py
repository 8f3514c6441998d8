"""A store that could not be opened when its node began."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

from .resource import ConfigError
from .store import Conflict, Record, Store, StoreUnavailable


class LateStore:
    """A store that could not be opened at first, and is opened by whichever call comes when it can be."""

    def __init__(self, lock: str, opened: Callable[[Store], None], opener: Callable[[], Store]) -> None:
        self.creates_itself = False
        self.description = lock
        self._opened, self._opener = opened, opener
        self._store: Store | None = None
        self._lock = threading.Lock()
        self._closed = False

    def open(self, patience: float) -> Store:
        """Blocks for `patience` while another thread is at it, and as long as the engine takes. Raises ConfigError,
        StoreUnavailable."""
        if not self._lock.acquire(timeout=max(0.0, patience)):
            raise StoreUnavailable(f"{self.description}: still being opened")
        try:
            if self._closed:
                raise StoreUnavailable(f"{self.description}: closed")
            if self._store is None:
                self._store = self._opener()
                self.description = self._store.description
                self.creates_itself = self._store.creates_itself
                self._opened(self._store)
            return self._store
        finally:
            self._lock.release()

    def begin_opening(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[str]:
        """Why it cannot be opened yet. An engine may hang for ever, so the thread is one that nothing waits for."""
        opened: asyncio.Future[str] = loop.create_future()
        opened.add_done_callback(lambda done: done.cancelled() or done.exception())  # there may be worse to tell first

        def settle(trouble: str | Exception) -> None:
            if opened.done():
                return
            if isinstance(trouble, Exception):
                opened.set_exception(trouble)
            else:
                opened.set_result(trouble)

        def work() -> None:
            said: str | Exception = ""
            try:
                self.open(0.0)
            except StoreUnavailable as error:
                said = str(error)
            except Exception as error:  # noqa: BLE001 - foreign code; raised again in the loop's thread
                said = error
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, said)

        threading.Thread(target=work, name="store-opening", daemon=True).start()
        return opened

    def _use(self, patience: float) -> Store:
        try:
            return self.open(patience)
        except ConfigError as error:  # it was fit when this began, or is not known yet: nobody can tell now
            raise StoreUnavailable(str(error)) from error

    def get(self, key: str, *, deadline: float) -> Record | None:
        return self._use(deadline).get(key, deadline=deadline)

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        return self._use(deadline).put(key, value, expected=expected, deadline=deadline)

    def watch(self, prefix: str, since: int) -> Iterator[list[Record]]:
        return self._use(1.0).watch(prefix, since)

    def close(self) -> None:
        self._closed = True
        if self._store is not None:
            self._store.close()

    def list(self, prefix: str, *, deadline: float) -> list[Record]:
        return self._use(deadline).list(prefix, deadline=deadline)
