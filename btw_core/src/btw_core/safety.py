"""What keeps "never two" and "always one", fault by fault: the table of `btw check PKG` and of docs/safety.md. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable

import msgspec

from .faults import FAULTS, SELF_FENCE, Case, Promise, in_seconds
from .timing import Timing

#: Columns of the printed table.
WIDTH = 100
_FAULT, _GAP = 18, "  "
_CELL = (WIDTH - _FAULT) // 2 - len(_GAP)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, for one package; `simulated`: see faults.Fault."""

    fault: str
    two: Promise
    one: Promise
    simulated: tuple[str, ...] = ()


def table(
    timing: Timing, lock: str, self_fence: str, fenced_on_disk: bool, disk_pays: bool = False
) -> list[Row]:
    """The rows for a package with this timing on nodes with this `lock` (scheme:rest) and `self_fence`.
    `fenced_on_disk`, `disk_pays`: see faults.Case. Raises ValueError for an unknown self_fence."""
    if self_fence not in SELF_FENCE:
        raise ValueError(f'self_fence "{self_fence}": allowed: {", ".join(SELF_FENCE)}')
    case = Case(timing, lock.partition(":")[0] == "local", self_fence, fenced_on_disk, disk_pays)
    rows = []
    for fault in FAULTS:
        two, one = fault.cells(case)
        rows.append(Row(fault=fault.name, two=two, one=one, simulated=fault.simulated))
    return rows


# ---- printed ------------------------------------------------------------------------------------------------------
def _cell(promise: Promise) -> str:
    return f"{in_seconds(promise.seconds)}: {promise.text}" if promise.seconds else promise.text


def _wrapped(words: str, width: int) -> list[str]:
    """In lines; a number stays with its unit."""
    joined = re.sub(r"(?<=\d) (?=[s%])", "\xa0", words)
    return [line.replace("\xa0", " ") for line in textwrap.wrap(joined, width, break_on_hyphens=False)]


def text(rows: Iterable[Row]) -> str:
    """The table as `btw check` prints it, WIDTH columns at most."""
    lines = []
    for cells in [("FAULT", "NEVER TWO", "ALWAYS ONE"), *((r.fault, _cell(r.two), _cell(r.one)) for r in rows)]:
        columns = [_wrapped(cell, width) for cell, width in zip(cells, (_FAULT, _CELL, _CELL), strict=True)]
        for number in range(max(map(len, columns))):
            fault, two, one = (column[number] if number < len(column) else "" for column in columns)
            lines.append(f"{fault:{_FAULT}}{_GAP}{two:{_CELL}}{_GAP}{one}".rstrip())
        lines.append("")
    return "\n".join(lines).rstrip()


def summary(rows: Iterable[Row]) -> str:
    """Two lines: the faults for which nothing keeps a promise."""
    kinds: tuple[tuple[str, Callable[[Row], Promise]], ...] = (
        ("Two at once are possible", lambda row: row.two),
        ("It may run nowhere", lambda row: row.one),
    )
    found = list(rows)
    lines = []
    for what, promise in kinds:
        faults = "; ".join(row.fault for row in found if not promise(row).kept)
        line = f"{what}: {faults or 'for none of these faults'}."
        lines.append(textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(lines)


def markdown() -> str:
    """What docs/safety.md shows: for which fault which self_fence keeps which promise, and three examples."""
    tables = [table(Timing(watchdog=10.0 * (each == "watchdog")), "etcd:", each, False) for each in SELF_FENCE]
    tables.append(table(Timing(), "etcd:", "none", True, True))
    tables.append(table(Timing(), "local:", "none", False))
    columns = (*SELF_FENCE, "none, and the disk is fenced", "one computer")
    lines = ["| fault | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for rows in zip(*tables, strict=True):
        marks = [", ".join(word for word, cell in (("two", r.two), ("one", r.one)) if not cell.kept) for r in rows]
        lines.append(f"| {rows[0].fault} | {' | '.join(marks)} |")
    examples = (
        ('A cluster with `self_fence = "none"`, the default', tables[0]),
        ('A cluster with `self_fence = "watchdog"` and a watchdog of 10 s', tables[3]),
        ('A cluster with `self_fence = "none"`; the package has a `scsi_pr`, file systems and programs', tables[4]),
    )
    for title, rows_ in examples:
        lines += ["", f"## {title}", "```text", text(rows_), "```"]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
