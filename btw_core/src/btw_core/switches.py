"""The two switches of a package, auto_run and node switching: what changes them. A table of rows. Pure.

The rows are those of Serviceguard's manuals; where those contradict each other or are silent the choice is marked "?".
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from .cluster import Kind, PackageView, Switch


class Happening(StrEnum):
    """What may change a switch. All but ENABLED and DISABLED concern one node."""

    HALTED = "halted by hand"
    RUN = "run by hand"
    ENABLED = "enabled"
    DISABLED = "disabled"
    NODE_ENABLED = "enabled on a node"
    NODE_DISABLED = "disabled on a node"
    FAILED = "service failed, restarts used up"
    START_FINAL = "start said: do not try elsewhere (exit 1)"
    START_ELSEWHERE = "start said: try another node (exit 2)"
    TIMED_OUT = "start or halt timed out"
    HALT_FAILED = "halt failed"
    NODE_CRASHED = "node crashed"


class Row(NamedTuple):
    """One line of the table. None: unchanged. `needs_node`: refused while the node is switched off."""

    kinds: tuple[Kind, ...]
    happening: Happening
    auto_run: bool | None
    node: bool | None
    needs_node: bool = False
    unsure: bool = False  # the manuals do not say; our choice
    note: str = ""


_BOTH = (Kind.FAILOVER, Kind.MULTI_NODE)
ROWS: tuple[Row, ...] = (
    Row((Kind.FAILOVER,), Happening.HALTED, False, None),
    Row((Kind.MULTI_NODE,), Happening.HALTED, None, None, note="only running it by hand, or a reboot, starts it again"),
    Row(_BOTH, Happening.RUN, None, None, needs_node=True, note="it runs with auto_run as it was"),
    Row(_BOTH, Happening.ENABLED, True, None),
    Row(_BOTH, Happening.DISABLED, False, None, note="never halts it"),
    Row(_BOTH, Happening.NODE_ENABLED, None, True),
    Row(_BOTH, Happening.NODE_DISABLED, None, False, note="never halts it"),
    Row(_BOTH, Happening.FAILED, None, False, note="fails over"),
    Row(_BOTH, Happening.START_FINAL, False, None),
    Row(_BOTH, Happening.START_ELSEWHERE, None, False),
    Row(_BOTH, Happening.TIMED_OUT, False, False, unsure=True, note="something may be left active there"),
    Row(_BOTH, Happening.HALT_FAILED, False, None, note="nobody may start it before a person acts"),
    Row(_BOTH, Happening.NODE_CRASHED, None, None, unsure=True),
)
_TABLE = {(kind, row.happening): row for row in ROWS for kind in row.kinds}


class Refused(ValueError):
    """It may not happen as things stand; the text says why."""


def switched(
    name: str,
    package: PackageView,
    happening: Happening,
    node: str = "",
    *,
    by: str = "",
    when: str = "",
    why: str = "",
) -> PackageView:
    """The package with its switches as they are afterwards. `by`: who did it, a person or btw. Raises Refused."""
    row = _TABLE[package.type, happening]
    if row.needs_node and node in package.off:
        raise Refused(f"{name} is switched off on {node}{package.off[node]}; enable it there first")
    said = msgspec.structs.replace  # of frozen structs
    if row.auto_run is not None:
        package = said(package, switch=Switch(on=row.auto_run, by=by, when=when, why=why or str(happening)))
    if row.node is not None and node:
        off = {other: switch for other, switch in package.off.items() if other != node}
        if not row.node:
            off[node] = Switch(by=by, when=when, why=why or str(happening))
        package = said(package, off=off)
    return package


def markdown() -> str:
    """The table as docs/cluster.md shows it."""
    words = {None: "unchanged", True: "on", False: "off"}
    lines = ["| what happens | package | auto_run | node switching of that node | |", "|---|---|---|---|---|"]
    for row in ROWS:
        kind = "any" if len(row.kinds) > 1 else str(row.kinds[0])
        node = "has to be on, else refused" if row.needs_node else words[row.node]
        doubt = " ?" if row.unsure else ""
        lines.append(f"| {row.happening}{doubt} | {kind} | {words[row.auto_run]} | {node} | {row.note} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
