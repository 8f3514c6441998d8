"""All members: each call asks one after the other until one answers, within one deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from btw_core.store import StoreUnavailable

from .address import Address
from .endpoint import Endpoint
from .login import Login
from .settings import Settings
from .trouble import Trouble

#: Seconds before all members are asked again, and that each must then have. An election takes about one second.
PAUSE = 0.1


class NoAnswer(StoreUnavailable):
    """What each member said, by name."""

    def __init__(self, troubles: Mapping[str, Trouble]) -> None:
        super().__init__("; ".join(f"{name}: {trouble}" for name, trouble in troubles.items()))
        self.troubles = dict(troubles)


class Answer(msgspec.Struct, frozen=True):
    """`doubt`: an attempt before this one may have been carried out, or may still be."""

    said: dict[str, Any]
    endpoint: Endpoint
    doubt: bool


class Cluster:
    """Thread-safe."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self.endpoints = [Endpoint(place, settings) for place in address.places]
        self.login = Login(settings)
        self.ended = threading.Event()
        self._description = str(address)
        self._lock = threading.Lock()  # of the two below, and of Endpoint.cluster
        self._order = list(self.endpoints)
        self._id = ""

    def ask(self, path: str, body: dict[str, Any], seconds: float) -> Answer:
        """POST to the first member that answers. Each gets an equal part of what is left of `seconds`; a refused
        connection costs a moment only. Raises NoAnswer, StoreUnavailable after `close`."""
        until = time.monotonic() + seconds
        troubles: dict[str, Trouble] = {}
        doubt = False
        while True:
            self.refuse_closed()
            order = self._in_order()
            for number, endpoint in enumerate(order):
                now = time.monotonic()
                if now >= until:
                    troubles.setdefault(endpoint.name, Trouble("not asked: no time left"))
                    continue
                try:
                    said = self._ask_one(endpoint, path, body, now + (until - now) / (len(order) - number))
                except Trouble as trouble:
                    if not trouble.silent or endpoint.name not in troubles:  # what was said once is worth more
                        troubles[endpoint.name] = trouble
                    if trouble.everywhere:
                        raise NoAnswer(troubles) from trouble
                    doubt = doubt or not trouble.sure
                    self.demote(endpoint)
                else:
                    return Answer(said, endpoint, doubt)
            if time.monotonic() + (1 + len(order)) * PAUSE >= until:  # too little for another round
                raise NoAnswer(troubles)
            self.ended.wait(PAUSE)

    def demote(self, endpoint: Endpoint) -> None:
        """Ask this one last from now on: so a member that hangs costs its share once, not in each call."""
        with self._lock:
            self._order.remove(endpoint)
            self._order.append(endpoint)

    def refuse_closed(self) -> None:
        if self.ended.is_set():
            raise StoreUnavailable(f"{self._description}: closed")

    def close(self) -> None:
        self.ended.set()
        for endpoint in self.endpoints:
            endpoint.close()

    def _in_order(self) -> list[Endpoint]:
        with self._lock:
            return list(self._order)

    def _ask_one(self, endpoint: Endpoint, path: str, body: dict[str, Any], until: float) -> dict[str, Any]:
        token = self.login.token(endpoint, until)
        try:
            said = endpoint.call(path, body, until, token=token)
        except Trouble as trouble:
            if not (trouble.login and self.login.user):
                raise
            token = self.login.renew(endpoint, token, until)
            said = endpoint.call(path, body, until, token=token)
        self._check_id(endpoint, str(said["header"].get("cluster_id", "")))
        return said

    def _check_id(self, endpoint: Endpoint, found: str) -> None:
        """Two clusters behind one lock would be two locks. The id of a cluster changes for good only when it is made
        anew from a backup: that is believed when more than half of the members say so."""
        with self._lock:
            endpoint.cluster = found
            agreed = 2 * sum(each.cluster == found for each in self.endpoints) > len(self.endpoints)
            if not self._id or agreed:
                self._id = found
            if self._id != found:
                raise Trouble("belongs to another cluster than the others", config=True)
