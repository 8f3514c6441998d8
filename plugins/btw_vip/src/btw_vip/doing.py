"""Start, stop and heal of a `vip`."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator, Mapping
from ipaddress import IPv6Address

from btw_core import Context, Failed
from btw_core.clock import boot_id, boottime

from . import connections, heralds
from .choice import Choice, choose
from .kernel import DADFAILED, LABEL, LONGEST, TENTATIVE, Found, Kernel, Link
from .monitor import Monitor
from .packets import announcements, ethertype, shown
from .vip import Vip
from .voice import BURST
from .wire import Wire, announce, ask

#: Seconds within which `heals` are counted.
MINUTE = 60.0
#: Seconds between two looks at how far the kernel's duplicate detection is.
PAUSE = 0.01


def start(vip: Vip, ctx: Context) -> None:
    """See `Vip.start`. Blocks `probe` seconds, and up to 2 s for the kernel's duplicate detection. Raises Failed."""
    with _refusals(vip):
        _forget_other_boots(ctx)
        kernel = ctx.shared(Monitor).kernel
        link = _link(vip, kernel)
        there = _tidy(vip, kernel, link)
        with _wire(vip, link) as wire:
            if there is None and not ctx.handed_over:
                _probe(vip, ctx, wire)
            detect = vip.dad == "kernel" and there is None
            ctx.recheck()
            _put(vip, kernel, link, detect=detect)
            if detect:
                _detected(vip, ctx, kernel, link)
            _proclaim(vip, ctx, wire)


def heal(vip: Vip, ctx: Context) -> None:
    """See `Vip.heal`. Does not ask whether others have the address: the lock is ours, and nothing else was known of
    them a moment ago. Raises Failed."""
    with _refusals(vip):
        _forget_other_boots(ctx)
        kernel = ctx.shared(Monitor).kernel
        link = _link(vip, kernel)
        if _tidy(vip, kernel, link) is not None:
            return
        recent = [each for each in ctx.state.get("heals", []) if each > boottime() - MINUTE]
        ctx.state["heals"] = [*recent, boottime()]
        if len(recent) >= vip.heals:
            raise Failed(
                f"{vip.address} on {link.name} was deleted {len(recent) + 1} times within a minute, "
                f"heals = {vip.heals}; see who does it (`ip monitor address`); "
                "NetworkManager and networkd can be told to leave it alone"
            )
        ctx.log(f"{vip.address} had vanished from {link.name}: put back, {len(recent) + 1} of {vip.heals} in a minute")
        ctx.recheck()
        _put(vip, kernel, link, detect=False)
        with _wire(vip, link) as wire:
            _proclaim(vip, ctx, wire)


def stop(vip: Vip, ctx: Context) -> None:
    """See `Vip.stop`. First the herald, then the address: nobody announces it afterwards. Raises Failed when this node
    has the address in another place where this plugin did not put it."""
    with _refusals(vip):
        _forget_other_boots(ctx)
        heralds.end(ctx)
        kernel = ctx.shared(Monitor).kernel
        link = _place(vip, ctx, kernel)
        if link is not None:
            for route in vip.routes:
                kernel.remove_route(link, route)
        foreign = []
        for found in kernel.find(vip.address.ip):
            # what is exactly as the package says is the package's, whoever put it there
            if found.ours or (link is not None and found.is_(vip.address, link)):
                kernel.remove(found)
            else:
                foreign.append(found)
        if foreign:
            raise Failed(_elsewhere(vip, kernel, foreign[0]))
        _end_connections(vip, ctx)
        ctx.state.clear()


def rehearse(vip: Vip, ctx: Context) -> None:
    """Look at what a start will look at, with nothing said or changed: what it touches for the first time takes a
    forked process several times as long."""
    with _refusals(vip):
        boot_id()
        kernel = ctx.shared(Monitor).kernel
        kernel.find(vip.address.ip)
        link = _link(vip, kernel)
        announcements(link.mac, vip.address.ip)
        _wire(vip, link).close()


# ---- parts
@contextlib.contextmanager
def _refusals(vip: Vip) -> Iterator[None]:
    """What the kernel refuses, in words."""
    try:
        yield
    except OSError as error:
        remedy = "; btw must run as root" if error.errno == errno.EPERM else ""
        raise Failed(f"{vip.address}: {error.strerror or error}{remedy}") from error


def _link(vip: Vip, kernel: Kernel) -> Link:
    choice = _choice(vip, kernel, kernel.named(vip.interface) if vip.interface else {})
    if choice.link is None:
        raise Failed(f"{vip.address}: {choice.why}; see `btw check`")
    if choice.link.loopback or not choice.link.ethernet:
        raise Failed(f"{vip.address}: {choice.link.name} is no Ethernet: nobody can be told there who has an address")
    if not choice.link.carrier:
        raise Failed(
            f"{vip.address}: {choice.link.name} has no carrier (down, or nothing at the other end of its cable)"
        )
    return choice.link


def _place(vip: Vip, ctx: Context, kernel: Kernel) -> Link | None:
    """Where it was put; when that is not known, where the parameters say."""
    name = ctx.state.get("interface")
    if name:
        return next(iter(kernel.named(name).values()), None)
    return _choice(vip, kernel, {}).link


def _choice(vip: Vip, kernel: Kernel, named: Mapping[int, Link]) -> Choice:
    """`named`: the interface of the parameters, where it was found: no need to look at the others."""
    routes = [] if vip.interface else kernel.routes(vip.address.ip.version)
    return choose(named or kernel.links(), routes, vip.address, vip.interface, vip.network)


def _tidy(vip: Vip, kernel: Kernel, link: Link) -> Found | None:
    """The address as it should be, if it is there and good; what else we left of it goes."""
    there = None
    for found in kernel.find(vip.address.ip):
        if found.is_(vip.address, link) and not found.flags & DADFAILED:
            there = found
        elif found.ours or found.is_(vip.address, link):
            kernel.remove(found)
        else:
            raise Failed(_elsewhere(vip, kernel, found))
    return there


def _elsewhere(vip: Vip, kernel: Kernel, found: Found) -> str:
    link = kernel.links().get(found.ifindex)
    where = link.name if link else str(found.ifindex)
    return (
        f"{vip.address}: this node has {found.ip}/{found.prefix} on {where}, which btw did not put there; "
        f"if it is not wanted: ip address del {found.ip}/{found.prefix} dev {where}"
    )


def _wire(vip: Vip, link: Link) -> Wire:
    return Wire(link, ethertype(vip.address.ip), [vip.address.ip])


def _probe(vip: Vip, ctx: Context, wire: Wire) -> None:
    if vip.probe >= ctx.remaining():
        raise Failed(
            f"{vip.address}: probe = {vip.probe:g} s does not fit into the {ctx.remaining():.1f} s that are left; "
            "raise start_timeout, or ask for a shorter time"
        )
    mac = ask(wire, vip.address.ip, vip.probe) if vip.probe else None
    if mac is None:
        return
    who = next((node for node, macs in ctx.holders.items() if shown(mac) in macs), None)
    text = f"{vip.address}: {shown(mac)} on {wire.link.name} has it"
    if who is None:
        raise Failed(f"{text}; no node that has held {ctx.package}: find that machine, or choose another address")
    if vip.on_conflict == "refuse":
        raise Failed(f'{text}; this is {who}, which should have stopped: take it away there, or on_conflict = "take"')
    ctx.log(f"{text}; this is {who}, which holds the lock no more: taken from it")


def _put(vip: Vip, kernel: Kernel, link: Link, *, detect: bool) -> None:
    label = vip.label or f"{link.name}{LABEL}"
    kernel.add(
        link,
        vip.address,
        label=label if len(label) <= LONGEST else "",
        scope=vip.scope,
        route=not vip.noprefixroute,
        source=vip.source,
        detect=detect,
    )
    for route in vip.routes:
        kernel.add_route(link, route, vip.address.ip)


def _detected(vip: Vip, ctx: Context, kernel: Kernel, link: Link) -> None:
    """Wait for the end of the kernel's duplicate detection (RFC 4862, 5.4)."""
    while True:
        found = next((each for each in kernel.find(vip.address.ip) if each.is_(vip.address, link)), None)
        if found is None:
            raise Failed(f"{vip.address}: vanished from {link.name} while the kernel looked for duplicates")
        if found.flags & DADFAILED:
            kernel.remove(found)
            raise Failed(f"{vip.address}: the kernel found it in use by another machine on {link.name} (dadfailed)")
        if not found.flags & TENTATIVE:
            return
        if ctx.remaining() <= PAUSE:
            kernel.remove(found)
            raise Failed(f"{vip.address}: the kernel still looked for duplicates on {link.name}; raise start_timeout")
        time.sleep(PAUSE)


def _proclaim(vip: Vip, ctx: Context, wire: Wire) -> None:
    """At once from here, later from the herald."""
    announce(wire, vip.address.ip, BURST, ctx.recheck)
    link = wire.link
    if vip.refresh:
        heralds.leave(ctx, link.name)
    ctx.state.update(interface=link.name, since=boottime(), boot=boot_id())


def _end_connections(vip: Vip, ctx: Context) -> None:
    """Those of programs that still run; see `connections`."""
    if not isinstance(vip.address.ip, IPv6Address):
        return
    try:
        ended = connections.end(vip.address.ip)
    except OSError as error:
        ctx.log(f"{vip.address}: connections from it cannot be ended ({error.strerror or error}); they may go on")
        return
    if ended:
        ctx.log(f"{vip.address}: {ended} connections from it were still there: ended")


def _forget_other_boots(ctx: Context) -> None:
    """Instants, pids and interfaces mean nothing in another boot."""
    if ctx.state.get("boot", "") != boot_id():
        ctx.state.clear()
