"""Which nodes a daemon hears of: by their sessions, as it has seen them change itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from .lease import PackageRecord, Sighting, View, session_of, sight, sign_of_life
from .picture import Silent
from .records import SLOT, NodeRecord
from .timing import Timing


class Hearing:
    """Of the node `me`. `silent`: as of the last reading."""

    def __init__(self, me: str, timing: Timing) -> None:
        self.me, self.timing = me, timing
        self.silent = Silent()
        self._signs: dict[str, Sighting] = {}  # node -> the last change of its daemon's session
        self._first: dict[str, Sighting] = {}  # as the store held it at our beginning: whoever wrote it may be dead

    def read(self, nodes: Mapping[str, NodeRecord], view: View) -> None:
        """Lost: its daemon's session was silent for as long as the first of the locks that it holds counts. Quiet: for
        longer than a renewal takes, so that nothing goes to a node that may be dead."""
        lost, quiet = set(), set()
        for node, record in nodes.items():
            session = view.sessions.get(session_of(node, SLOT))
            if node == self.me or (session is not None and session[1].ended):
                continue
            sign: tuple[int | str, ...] = ("absent",)
            if session is not None:
                sign = (sign_of_life(view, session[1].incarnation), session[1].incarnation.nonce)
            seen = self._signs[node] = sight(self._signs.get(node), sign, view.received)
            self._first.setdefault(node, seen)
            held = [each.lease for _, each in view.packages.values() if holds(each, node)]
            if view.sent >= seen.since + min(held, default=self.timing.lease):
                lost.add(node)
            elif view.sent >= seen.since + record.renews + self.timing.pace:
                quiet.add(node)
        self.silent = Silent(lost, quiet)

    def heard(self, node: str) -> bool:
        """It has given a sign of life since we began."""
        return self._signs.get(node) != self._first.get(node)


def holds(record: PackageRecord, node: str) -> bool:
    """The lock is that node's."""
    return record.holder is not None and not record.released and record.holder.node == node
