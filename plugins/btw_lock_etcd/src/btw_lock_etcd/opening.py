"""Opening a lock: what is certainly misconfigured is refused with its remedy; an outage is not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .address import Address, parse
from .cluster import NoAnswer
from .endpoint import Endpoint
from .settings import TABLE, Settings, decode
from .store import EtcdStore
from .trouble import Trouble

#: Seconds that the members have for their first answers.
PATIENCE = 3.0


def open_store(rest: str, settings: Mapping[str, Any]) -> EtcdStore:
    """`store.StoreFactory`. Blocks for PATIENCE. Needs one member that answers, no quorum. Raises ValueError and
    StoreUnavailable."""
    address, checked = parse(rest), decode(settings)
    _check(address, checked)
    store = EtcdStore(address, checked)
    try:
        until = time.monotonic() + PATIENCE
        _meet(store.cluster.endpoints, until)
        _enter(store, until)
    except BaseException:  # Ctrl-C included: no connection stays open; raised again
        store.close()
        raise
    return store


def _check(address: Address, settings: Settings) -> None:
    """What can be known without a member. Raises ValueError."""
    if settings.tls:
        settings.context()
    if settings.user:
        settings.read_password()
        abroad = [place for place in address.places if not place.loopback]
        if abroad and not settings.tls:
            raise ValueError(f"{TABLE} password would go to {abroad[0]} in clear: set ca, so that TLS is used")


def _meet(endpoints: list[Endpoint], until: float) -> None:
    """Ask each member who belongs to its cluster; it answers that alone, without a quorum and without a login."""
    clusters: dict[str, list[Endpoint]] = {}
    sizes: list[int] = []
    troubles: dict[str, Trouble] = {}
    for number, endpoint in enumerate(endpoints):
        now = time.monotonic()
        share = now + (until - now) / (len(endpoints) - number)
        try:
            said = endpoint.call("/cluster/member/list", {}, share, leader=False)
        except Trouble as trouble:
            troubles[endpoint.name] = trouble
        else:
            clusters.setdefault(str(said["header"].get("cluster_id")), []).append(endpoint)
            sizes.append(len(said.get("members", [])))
    if len(clusters) > 1:
        parts = " and ".join(", ".join(each.name for each in members) for members in clusters.values())
        raise ValueError(f"different clusters: {parts}; name the members of one cluster only")
    if len(sizes) > 1 and min(sizes) == 1:
        names = ", ".join(endpoint.name for members in clusters.values() for endpoint in members)
        raise ValueError(
            f"{names}: one of these is a cluster of a single member, so they are not one cluster, or one member under"
            " several names; join them (--initial-cluster with all members), or name that one once"
        )
    if not clusters:
        error = NoAnswer(troubles)
        if any(trouble.config for trouble in troubles.values()):
            raise ValueError(str(error))
        raise error


def _enter(store: EtcdStore, until: float) -> None:
    """Log in, and see whether the prefix may be read and written. No answer is no reason to refuse."""
    try:
        store.try_rights(max(0.5, until - time.monotonic()))
    except NoAnswer as error:
        if any(trouble.config and trouble.everywhere for trouble in error.troubles.values()):
            raise ValueError(str(error)) from error

