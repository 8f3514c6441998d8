"""What nodes and people of a cluster tell each other through the store, beside the locks. Pure.

    nodes/NODE       its daemon: which boot, in which phase each lock is that it holds, which package files it loaded,
                     for whom it gave up which package by choice
    switches/PKG     the two switches, the order that is not fulfilled yet, maintenance
    drains/NODE      why a node is to run nothing

Only the daemon of NODE writes the first; the others are changed by compare-and-swap through any node's daemon. Nothing
of it makes anything safe or unsafe: the locks do. What is lost of it costs a switch, never a second holder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from .cluster import Order, PackageView, Phase, Switch
from .lease import DamagedRecord, decode

NODES, SWITCHES, DRAINS = "nodes/", "switches/", "drains/"
#: The session slot of a daemon; no package has that name.
SLOT = "@daemon"
#: Package -> "" (its [package] and [[dependency]] tables) or resource -> digest.
Digests = Mapping[str, Mapping[str, str]]


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A daemon as it sees itself. `renews`: seconds in which it renews its session however slow the store is;
    `ill`: what is not up of packages in maintenance; `leaving`: it was asked to end, and hands over what it has;
    `waited`: packages whose halt here has waited long enough for what needs them; `given`: package -> nonce of the
    daemon for which it was given up here by choice, until that one has had it."""

    boot: str
    nonce: str
    renews: float = 0.0
    phases: dict[str, Phase] = {}
    ill: dict[str, str] = {}
    digests: dict[str, dict[str, str]] = {}
    leaving: bool = False
    waited: tuple[str, ...] = ()
    given: dict[str, str] = {}


class SwitchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """See `cluster.PackageView`. `enabled`: nodes that a person switched on and whose daemon has not seen it yet."""

    switch: Switch | None = None
    off: dict[str, Switch] = {}
    order: Order | None = None
    stopped: dict[str, str] = {}
    restarted: bool = False
    maintenance: Switch | None = None
    enabled: tuple[str, ...] = ()

    def on(self, package: PackageView) -> PackageView:
        """The package with what this says of it."""
        return msgspec.structs.replace(package, **{name: getattr(self, name) for name in SHARED})

    def after(self, package: PackageView) -> SwitchRecord:
        """With what became of the package. A node that was switched on is told so."""
        enabled = {*self.enabled, *(node for node in self.off if node not in package.off)} - package.off.keys()
        said = {name: getattr(package, name) for name in SHARED}
        return msgspec.structs.replace(self, **said, enabled=tuple(sorted(enabled)))


#: What a SwitchRecord and a PackageView have in common.
SHARED = ("switch", "off", "order", "stopped", "restarted")


class DrainRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`drained` None: it takes part."""

    drained: Switch | None = None


class Papers(NamedTuple):
    """Everything of the three kinds that was read, by name."""

    nodes: dict[str, NodeRecord]
    switches: dict[str, SwitchRecord]
    drains: dict[str, DrainRecord]

    def read(self, records: Iterable[tuple[str, bytes]]) -> list[str]:
        """Take these keys with their values over. Returns what cannot be read; that stays as it was."""
        damaged = []
        for key, value in records:
            kind, _, name = key.partition("/")
            try:
                match f"{kind}/":
                    case "nodes/":
                        self.nodes[name] = decode(NodeRecord, key, value)
                    case "switches/":
                        self.switches[name] = decode(SwitchRecord, key, value)
                    case "drains/":
                        self.drains[name] = decode(DrainRecord, key, value)
            except DamagedRecord as damage:
                damaged.append(str(damage))
        return damaged
