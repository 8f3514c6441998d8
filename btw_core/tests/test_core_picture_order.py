"""What a node hears, and in which order, must not matter: all nodes see, and so decide, the same."""

from __future__ import annotations

from itertools import permutations

import msgspec

from btw_core.cluster import Kind, Rules
from btw_core.lease import PackageRecord, View
from btw_core.picture import Silent, picture
from btw_core.records import SLOT, Papers
from btw_core.types import Incarnation


def _held(node: str) -> PackageRecord:
    life = Incarnation(node=node, machine=node, boot="1", nonce=f"{node}1", slot=SLOT)
    return PackageRecord(term=1, lease=60.0, holder=life, off={node: "by hand"})


def test_the_order_of_the_news_is_not_seen() -> None:
    rules = {"log": Rules(nodes=("a", "b", "c"), type=Kind.MULTI_NODE)}
    seen = set()
    for nodes in permutations("abc"):
        locks = {f"log@{node}": (1, _held(node)) for node in nodes}
        view = View(sent=0.0, received=0.0, packages=locks, sessions={})
        seen.add(msgspec.json.encode(picture(rules, view, Papers({}, {}, {}), Silent(), "a", {})))
    assert len(seen) == 1
