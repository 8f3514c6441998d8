"""The cluster as one picture, from what the store holds: what `placement` decides by. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from .cluster import ClusterView, Kind, NodeView, PackageView, Phase, Rules, Switch
from .lease import PackageRecord, View, session_of
from .records import SLOT, NodeRecord, Papers
from .types import State

V = TypeVar("V")

#: Where a node is with a package whose lock it holds.
PHASES = {
    State.STANDBY: Phase.STARTING,  # held by a former life, to be adopted
    State.FENCING: Phase.STARTING,
    State.UNKNOWN: Phase.STARTING,
    State.STARTING: Phase.STARTING,
    State.RUNNING: Phase.UP,
    State.DEGRADED: Phase.UP,
    State.HALTING: Phase.HALTING,
    State.HALTED: Phase.HALTING,
    State.FAILING: Phase.FAILING,
    State.FAILED: Phase.FAILING,
    State.OFF: Phase.FAILING,
    State.STUCK: Phase.STUCK,
}


class Silent(NamedTuple):
    """Nodes of which nothing is heard: for so long that they count as lost, or for a moment."""

    lost: Collection[str] = ()
    quiet: Collection[str] = ()


def picture(
    rules: Mapping[str, Rules], view: View, papers: Papers, silent: Silent, me: str, own: Mapping[str, Phase]
) -> ClusterView:
    """`own`: the phases of the locks at node `me`, which knows them best."""
    packages = {}
    heirs = _heirs(papers, silent)
    for name, rule in rules.items():
        at: dict[str, Phase] = {}
        waited = []
        off: dict[str, Switch] = {}
        for lock, record in _locks(name, rule.type, view):
            off |= {node: Switch(why=why) for node, why in record.off.items()}
            if record.holder is None or record.released:
                continue
            node = record.holder.node
            said = papers.nodes.get(node)
            if _abandoned(name, record, said):
                continue
            heard = said if said and said.nonce == record.holder.nonce else None  # not a word of another life
            if node == me and heard and lock not in own:
                continue  # given back, and this reading is older
            phases = own if node == me else heard.phases if heard else {}
            waited += [node] if heard and name in heard.waited else []
            # held, and no word of it yet: a daemon that has just taken it, or a `btw run`, which never says a word
            at[node] = phases.get(lock, Phase.UP if record.holder.slot != SLOT else Phase.STARTING)
        # in one order, not in that in which this node has heard of them: all see, and decide, the same
        at, off = _ordered(at), _ordered(off)
        package = PackageView(**msgspec.structs.asdict(rule), at=at, off=off, heir=heirs.get(name, ""))
        package = msgspec.structs.replace(package, waited=tuple(sorted(waited))) if waited else package
        switches = papers.switches.get(name)
        if switches is not None:
            package = switches.on(package)
            package = msgspec.structs.replace(package, off=_ordered(off | package.off))
        packages[name] = package
    return ClusterView(
        nodes={node: _node(node, view, papers, silent) for node in sorted(papers.nodes)}, packages=packages
    )


def _ordered(by_node: dict[str, V]) -> dict[str, V]:
    return dict(sorted(by_node.items()))


def _heirs(papers: Papers, silent: Silent) -> dict[str, str]:
    """Package -> the node that it was given up for; a new life of that node is asked anew."""
    nodes = {record.nonce: node for node, record in papers.nodes.items()}
    said = (record.given for node, record in sorted(papers.nodes.items()) if node not in silent.lost)
    return {name: nodes[nonce] for given in said for name, nonce in given.items() if nonce in nodes}


def _abandoned(name: str, record: PackageRecord, said: NodeRecord | None) -> bool:
    """A former life of that daemon has it, and the present one does not know the package: nothing of it counts but the
    lease, and whoever is to have it waits for the end of that."""
    assert record.holder is not None
    another = said is not None and said.nonce != record.holder.nonce and record.holder.slot == SLOT
    return another and said is not None and name not in said.digests


def _locks(name: str, kind: Kind, view: View) -> Iterator[tuple[str, PackageRecord]]:
    if kind is Kind.FAILOVER:
        if name in view.packages:
            yield name, view.packages[name][1]
        return
    for lock, (_, record) in view.packages.items():
        if lock.startswith(f"{name}@"):
            yield lock, record


def _node(node: str, view: View, papers: Papers, silent: Silent) -> NodeView:
    record = papers.nodes[node]
    drain = papers.drains.get(node)
    drained = "its btw ends" if record.leaving else ""
    if drain is not None and drain.drained is not None:
        drained = drain.drained.alone
    session = view.sessions.get(session_of(node, SLOT))
    ended = session is not None and session[1].ended
    serves = () if ended else tuple(record.digests)
    lost, quiet = node in silent.lost, node in silent.quiet
    return NodeView(lost=lost, quiet=quiet and not lost, drained=drained, boot=record.boot, serves=serves)
