"""Status of a `scsi_pr`: two short commands on one path while all is well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from btw_core import CannotTell, Context, Failed, Status

from .cdb import Keys, Reservation
from .doing import opened, terms_of
from .path import PrPath, Trouble, Unreachable
from .scsi_pr import ScsiPr
from .taking import Terms
from .units import NotFound, Sysfs

#: Seconds that a path has for an answer.
TIMEOUT = 1.0


class Found(NamedTuple):
    status: Status
    text: str = ""


def status(pr: ScsiPr, ctx: Context, sysfs: Sysfs) -> Status:
    """UP: reserved for this node under this term. DOWN: it is not, and never was under this term; or something of it
    vanished that `heal` can put back or has to judge (a path that is not registered, an old key that came back, a disk
    that has forgotten everything). CRITICAL: taken, and another has it now. Raises CannotTell: no path answers."""
    if ctx.state.get("stopped") == ctx.term:
        return Status.DOWN  # whatever the disk says: it was left as it is on purpose
    taken = ctx.state.get("term") == ctx.term
    try:
        units = sysfs.units(pr.devices)
        terms = terms_of(pr, ctx.cluster, ctx.node, ctx.term, tuple(ctx.state.get("nodes", (ctx.node,))))
    except NotFound as error:
        if taken:
            raise CannotTell(str(error)) from error
        return Status.DOWN
    except Failed:  # the term: nothing was registered under it
        return Status.DOWN
    worst = Status.UP
    for unit in units:
        with opened(sysfs, unit, TIMEOUT, ctx.log) as paths:
            read = _read(paths, unit.wwid)
            alive = [path.address for path in paths]
        found = judge(terms, *read, alive, ctx.state if taken else None)
        if found.text:
            ctx.log(f"{unit.wwid}: {found.text}")
        worst = max(worst, found.status, key=_ORDER.index)
    return worst


_ORDER = (Status.UP, Status.DEGRADED, Status.DOWN, Status.CRITICAL)


def judge(
    terms: Terms,
    keys: Keys,
    reservation: Reservation | None,
    alive: Sequence[str],
    taken: Mapping[str, Any] | None,
) -> Found:
    """What the disk's answers amount to. `alive`: addresses of the paths that answer; `taken`: ctx.state when the disk
    was taken under this term, else None. Pure."""
    own = keys.keys.count(terms.own)
    lower, higher, strange = terms.sorted(keys.keys)
    holds = terms.holds(reservation)
    if taken is None and not (own and holds):
        return Found(Status.DOWN)
    if higher or not own or not holds:
        who = " and ".join(terms.of(number) for number in sorted(higher or lower | strange))
        held = reservation is not None and reservation.key not in (0, terms.own)
        if higher or held or (not own and who):
            return Found(Status.CRITICAL, f"preempted: registered by {who or 'another key'}; nothing is written here")
        return Found(Status.DOWN, "the disk has lost its reservation: anybody could write to it")
    if lower:
        return Found(Status.DOWN, f"{' and '.join(map(terms.of, sorted(lower)))} is registered again")
    known = set(taken.get("paths", ())) if taken else set()
    missing = [address for address in alive if known and address not in known]
    if missing or own < max(len(alive), len(known)):
        which = f"path {', '.join(missing)} is" if missing else f"only {own} of {max(len(alive), len(known))} paths are"
        return Found(Status.DOWN, f"{which} not registered")
    if strange and not terms.force:
        return Found(Status.DEGRADED, f"{' and '.join(map(terms.of, sorted(strange)))} can write as well")
    return Found(Status.UP)


def _read(paths: Sequence[PrPath], wwid: str) -> tuple[Keys, Reservation | None]:
    """From the first path that answers."""
    said = "no path is alive"
    for path in paths:
        try:
            return path.keys(), path.reservation()
        except Unreachable as lost:
            said = str(lost)
        except Trouble as trouble:
            raise CannotTell(str(trouble)) from trouble
    raise CannotTell(f"{wwid}: {said}")
