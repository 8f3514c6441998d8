"""Stores of the tests, and patience with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from btw_core.store import StoreUnavailable
from btw_lock_etcd.store import EtcdStore

#: opened(rest, **settings): a store that is closed at the end of the test.
Opener = Callable[..., EtcdStore]
T = TypeVar("T")


def patiently(call: Callable[[], T], fatal: Callable[[StoreUnavailable], bool] = lambda error: False) -> T:
    """Once the members have agreed on a leader again; errors that are `fatal` are raised."""
    until = time.monotonic() + 60
    while True:
        try:
            return call()
        except StoreUnavailable as error:
            if fatal(error):
                raise
            assert time.monotonic() < until, error
            time.sleep(0.1)
