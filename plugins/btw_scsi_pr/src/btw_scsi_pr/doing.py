"""Start, heal, fence and stop of a `scsi_pr`.

In ctx.state: `term` and `paths` (H:C:T:L) once it is taken, `nodes` that held it before, for messages of status;
`stopped` = the term that was stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from btw_core import Context, Failed
from btw_core.resource import Former

from .cdb import Kind
from .key import key
from .path import PrPath, Unreachable
from .scsi_pr import ScsiPr
from .taking import Taking, Terms
from .units import NotFound, Sysfs, Unit, Way

#: Seconds that a command which changes something may take.
TIMEOUT = 5.0


def terms_of(pr: ScsiPr, cluster: str, node: str, term: int, known: tuple[str, ...] = ()) -> Terms:
    """Raises Failed: the term has no room in a key."""
    try:
        own = key(cluster, node, term)
    except ValueError as error:
        raise Failed(str(error)) from error
    return Terms(own, Kind(pr.reservation), pr.force, pr.accept_plain_preempt, known)


def start(pr: ScsiPr, ctx: Context, sysfs: Sysfs) -> None:
    """See `ScsiPr.start`. What this node has cached of the disk since an earlier term must not reach it: it is flushed
    while the disk still refuses it, and again when nobody else can write any more, so that the next layer reads what is
    there."""
    units = _units(pr, sysfs)
    ctx.state.pop("stopped", None)
    ctx.state.update(term=ctx.term, paths=[], nodes=sorted({ctx.node, *ctx.holders}))
    for unit in units:
        _flush(sysfs, unit, ctx)
        _take(pr, ctx, sysfs, unit)
        _flush(sysfs, unit, ctx)


def fence(pr: ScsiPr, ctx: Context, former: Former, sysfs: Sysfs) -> None:
    """See `ScsiPr.fence`."""
    for unit in _units(pr, sysfs):
        _take(pr, ctx, sysfs, unit)
        ctx.log(f"{unit.wwid}: node {former.node} cannot write any more")


def heal(pr: ScsiPr, ctx: Context, sysfs: Sysfs) -> None:
    """See `ScsiPr.heal`."""
    ctx.state.update(term=ctx.term, paths=[])
    for unit in _units(pr, sysfs):
        with _taking(pr, ctx, sysfs, unit) as taking:
            if not taking.still_ours():
                raise Failed(f"{unit.wwid}: no path shows this node's key holding it any more; no path is registered")
            taking.take()
            ctx.state["paths"] = [*ctx.state["paths"], *taking.registered]


def stop(pr: ScsiPr, ctx: Context, sysfs: Sysfs) -> None:
    """See `ScsiPr.stop`."""
    if pr.release_on_stop:
        for unit in _units(pr, sysfs):
            with _taking(pr, ctx, sysfs, unit) as taking:
                taking.give_back()
    ctx.state.clear()
    ctx.state["stopped"] = ctx.term


# ---- parts
def _units(pr: ScsiPr, sysfs: Sysfs) -> tuple[Unit, ...]:
    try:
        return sysfs.units(pr.devices)
    except NotFound as error:
        raise Failed(f"{error}; see `btw check`") from error


def _take(pr: ScsiPr, ctx: Context, sysfs: Sysfs, unit: Unit) -> None:
    with _taking(pr, ctx, sysfs, unit) as taking:
        taking.take()
        if "paths" in ctx.state:
            ctx.state["paths"] = [*ctx.state["paths"], *taking.registered]


@contextlib.contextmanager
def _taking(pr: ScsiPr, ctx: Context, sysfs: Sysfs, unit: Unit) -> Iterator[Taking]:
    terms = terms_of(pr, ctx.cluster, ctx.node, ctx.term, tuple({ctx.node, *ctx.holders}))
    timeout = min(TIMEOUT, max(1.0, ctx.remaining() / 2))
    with opened(sysfs, unit, timeout, ctx.log, before=ctx.recheck) as paths:
        yield Taking(unit.wwid, paths, terms, ctx.log)


@contextlib.contextmanager
def opened(
    sysfs: Sysfs,
    unit: Unit,
    timeout: float,
    log: Callable[[str], None],
    before: Callable[[], None] = lambda: None,
) -> Iterator[list[PrPath]]:
    """The paths that are alive, perhaps none. Those whose commands would wait for a lost connection are left out."""
    paths = []
    try:
        for way in unit.ways:
            if not way.alive:
                log(f"path {way.name} ({way.address}) of {unit.wwid} is {way.state}: left out")
                continue
            with contextlib.suppress(Unreachable):
                paths.append(_open(sysfs, way, timeout, before))
        yield paths
    finally:
        for path in paths:
            path.close()


def _open(sysfs: Sysfs, way: Way, timeout: float, before: Callable[[], None]) -> PrPath:
    try:
        transport = sysfs.transport(way.name)
    except OSError as error:
        raise Unreachable(f"{way.name}: {error.strerror or error}") from error
    return PrPath(way.name, way.address, transport, timeout=timeout, before=before)


def _flush(sysfs: Sysfs, unit: Unit, ctx: Context) -> None:
    ctx.recheck()
    try:
        sysfs.flush(unit.stack)
    except OSError as error:
        raise Failed(f"{unit.wwid}: what is cached of it cannot be flushed: {error.strerror or error}") from error
