"""`btw check` of a `scsi_pr`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from btw_core import Problem, Resource
from btw_core.resource import CheckContext

from .cdb import Kind
from .doing import opened
from .path import Refused, Trouble
from .scsi_pr import ScsiPr
from .units import NotFound, Sysfs, Unit

#: Seconds that a path has for an answer.
TIMEOUT = 2.0
MULTIPATH_CONFIGURATION = (Path("/etc/multipath.conf"), Path("/etc/multipath/conf.d"))


def check(
    pr: ScsiPr, ctx: CheckContext, sysfs: Sysfs, configuration: Sequence[Path] = MULTIPATH_CONFIGURATION
) -> list[Problem]:
    """What is wrong with it on this node. Sends commands that change nothing."""
    try:
        units = sysfs.units(pr.devices)
    except NotFound as error:
        remedy = "connect the disk to this node, or correct the name (ls -l /dev/disk/by-id)"
        return [Problem(key="devices", text=str(error), remedy=remedy), *_unfenced(pr, ctx, sysfs)]
    found = [problem for unit in units for problem in _unit(pr, unit, sysfs)]
    if any(unit.multipath for unit in units):
        found += _multipathd(configuration)
    return [*found, *_unfenced(pr, ctx, sysfs)]


def _unit(pr: ScsiPr, unit: Unit, sysfs: Sysfs) -> Iterator[Problem]:
    for way in unit.ways:
        if not way.alive:
            text = f"path {way.name} ({way.address}) of {unit.wwid} is {way.state}"
            yield Problem(key="devices", text=text, remedy="see to its cable or its session", severity="warning")
    if len(unit.ways) > 1 and not unit.multipath:
        text = f"{unit.wwid} has {len(unit.ways)} paths, but no multipath device is on them"
        yield Problem(key="devices", text=text, remedy="use it through multipathd", severity="warning")
    with opened(sysfs, unit, TIMEOUT, lambda _line: None) as paths:
        for path in paths:
            try:
                path.keys()
                can = path.capabilities()
            except Refused as refused:
                what = f"has no persistent reservations ({refused})" if refused.unsupported else f"refuses: {refused}"
                remedy = "choose another disk, or have this one's set up to have them"
                yield Problem(key="devices", text=f"{unit.wwid} {what}", remedy=remedy)
                return
            except Trouble as trouble:
                yield Problem(key="devices", text=str(trouble), remedy="see to this path", severity="warning")
                continue
            if can is not None and can.kinds is not None and pr.reservation not in can.kinds:
                kinds = ", ".join(str(int(kind)) for kind in Kind if kind in can.kinds) or "none"
                text = f"{unit.wwid} has no reservations of type {pr.reservation}; it has: {kinds}"
                yield Problem(key="reservation", text=text, remedy="choose one of these")
            if can is not None and not can.persists:
                text = f"{unit.wwid} forgets reservations when it loses power: a frozen node could write after that"
                yield Problem(key="devices", text=text, remedy="if it can: turn APTPL on there", severity="warning")
            return
    yield Problem(key="devices", text=f"{unit.wwid}: no path answers", remedy="see to its paths", severity="warning")


def _multipathd(configuration: Sequence[Path]) -> Iterator[Problem]:
    """A path that comes back must not be registered by anybody else: by then this node may have lost the disk."""
    for place in configuration:
        for file in sorted(place.glob("*.conf")) if place.is_dir() else [place]:
            try:
                text = file.read_text(errors="replace")
            except OSError:  # most nodes have none
                continue
            if re.search(r"(?m)^\s*reservation_key\s+(?!\"?none)", text):
                said = f"multipathd registers paths by itself (reservation_key in {file}), whoever has the lock"
                yield Problem(key="devices", text=said, remedy="remove it for this disk", severity="warning")


def _unfenced(pr: ScsiPr, ctx: CheckContext, sysfs: Sysfs) -> Iterator[Problem]:
    """What other resources have on a disk that other machines reach, and no scsi_pr of their package guards. Said by
    the first scsi_pr of the package, or of the node for packages without one."""
    packages: dict[str, list[Resource]] = {}
    for sibling in ctx.everything:
        packages.setdefault(sibling.package, []).append(sibling.resource)
    first = next((each.resource for each in ctx.everything if isinstance(each.resource, ScsiPr)), None)
    for package, resources in packages.items():
        guards = [each for each in resources if isinstance(each, ScsiPr)]
        if (guards[0] if guards else first) is not pr:
            continue
        guarded = {unit.wwid for guard in guards for unit in _units(guard.devices, sysfs)}
        for resource in resources:
            if isinstance(resource, ScsiPr):
                continue
            for unit in _units(_devices(resource), sysfs):
                fabric = next((name for way in unit.ways if (name := sysfs.fabric(way.name))), "")
                if fabric and unit.wwid not in guarded:
                    text = f"`{resource.name}` of `{package}` is on {unit.wwid}, which others reach ({fabric})"
                    remedy = f"fence it: give `{package}` a scsi_pr with this disk, above `{resource.name}`"
                    yield Problem(text=text, remedy=remedy, severity="warning")


def _devices(resource: Resource) -> tuple[str, ...]:
    """The block devices that its parameters name."""
    said = [getattr(resource, name, ()) for name in ("device", "devices")]
    flat = [each for one in said for each in ((one,) if isinstance(one, str) else one or ())]
    return tuple(each for each in flat if isinstance(each, str) and each.startswith("/dev/"))


def _units(devices: Sequence[str], sysfs: Sysfs) -> tuple[Unit, ...]:
    """Those that can be found."""
    found: dict[str, Unit] = {}
    for device in devices:
        try:
            found |= {unit.wwid: unit for unit in sysfs.units([device])}
        except NotFound:  # `check` of that resource says so
            continue
    return tuple(found.values())
