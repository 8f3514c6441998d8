"""Status and watch of a `vip`."""

from __future__ import annotations

from btw_core import CannotTell, Context, Status
from btw_core.clock import boot_id, boottime

from .choice import choose
from .kernel import DADFAILED, TENTATIVE, Found, Link
from .monitor import Key, Monitor
from .packets import shown
from .vip import Vip
from .voice import Gateways, Voices, tell


def status(vip: Vip, ctx: Context) -> Status:
    """DOWN: this node does not have the address, in whatever form. There is one exception: an interface without carrier
    while the resource is watched, for then the manager can do nothing with DOWN but heal (which fails) and stop. Nor is
    anything CRITICAL when it is not watched: a stop is verified by this very answer.

    Never from memory: DOWN is asked of the kernel again. Raises CannotTell."""
    key, now, timeout = (ctx.package, ctx.resource), boottime(), ctx.remaining()
    try:
        monitor = ctx.shared(Monitor)
        asked = monitor.begin(key)
        watched = monitor.watched(key)
        found = monitor.find(vip.address.ip)
        if not found and not watched:
            return Status.DOWN
        link, why = _place(vip, ctx, monitor)
        if not found:
            return _gone(vip, ctx, link, why)
        there = next((each for each in found if link is not None and each.is_(vip.address, link)), None)
        trouble = _trouble(vip, monitor, link, there, found[0])
        if trouble:
            ctx.log(f"{vip.address}: {trouble}")
        if link is None or there is None:
            return Status.DEGRADED
        if not link.carrier:
            return Status.DOWN if watched and vip.on_carrier_loss == "move" else Status.DEGRADED
        if watched:
            _speak(vip, ctx, monitor, key, link, now if asked else None, timeout)
        if not trouble and vip.gateway and not ctx.shared(Gateways).answers(link, vip.gateway.ip):
            trouble = f"the gateway {vip.gateway} does not answer on {link.name}"
            ctx.log(f"{vip.address}: {trouble}")
        return Status.DEGRADED if trouble else Status.UP
    except OSError as error:
        raise CannotTell(f"{vip.address}: the kernel says: {error.strerror or error}") from error


def watch(vip: Vip, ctx: Context) -> list[int]:
    """One pipe; see `Monitor.watch`."""
    monitor = ctx.shared(Monitor)
    link, _ = _place(vip, ctx, monitor)
    there = link is not None and any(each.is_(vip.address, link) for each in monitor.find(vip.address.ip))
    trouble = not there or link is None or not link.carrier
    return [monitor.watch((ctx.package, ctx.resource), vip.address.ip, link, trouble=trouble)]


def _place(vip: Vip, ctx: Context, monitor: Monitor) -> tuple[Link | None, str]:
    """Where it was put, and as long as that is not known or gone, where it would be put; None and why."""
    links = monitor.links()
    name = ctx.state.get("interface")
    put = next((each for each in links.values() if each.name == name), None)
    if put is not None:
        return put, ""
    routes = [] if vip.interface else monitor.kernel.routes(vip.address.ip.version)
    return choose(links, routes, vip.address, vip.interface, vip.network)


def _gone(vip: Vip, ctx: Context, link: Link | None, why: str) -> Status:
    """It is not here, and the manager counts on it."""
    if link is None:
        ctx.log(f"{vip.address}: {why}; no interface of this node can carry it")
        return Status.CRITICAL
    if not link.carrier and vip.on_carrier_loss == "degraded":
        ctx.log(f"{vip.address}: {link.name} has no carrier, and has lost the address")
        return Status.DEGRADED
    ctx.log(f"{vip.address} is not on {link.name} any more")
    return Status.DOWN


def _trouble(vip: Vip, monitor: Monitor, link: Link | None, there: Found | None, other: Found) -> str:
    """What is wrong with an address that is here, "" for nothing."""
    if link is None or there is None:
        seen = monitor.links().get(other.ifindex)
        wanted = link.name if link else vip.interface or "its interface"
        where = seen.name if seen else other.ifindex
        return f"is on {where} as /{other.prefix}, not on {wanted} as /{vip.address.prefix}"
    if not link.carrier:
        return f"{link.name} has no carrier"
    if there.flags & DADFAILED:
        return f"the kernel found it in use by another machine on {link.name} (dadfailed)"
    if there.flags & TENTATIVE:
        return f"the kernel still looks for duplicates on {link.name}"
    return ""


def _speak(vip: Vip, ctx: Context, monitor: Monitor, key: Key, link: Link, asked: float | None, timeout: float) -> None:
    """Journal who else claims the address; let the herald announce what is due. `asked`: when the manager asked."""
    if ctx.state.get("boot") != ctx.shared(boot_id):
        return  # found up: nothing was started here
    voice = ctx.shared(Voices).of(key, ctx.state["since"])
    claim = monitor.claimed(vip.address.ip)
    if claim is not None:
        ctx.log(f"{vip.address}: {shown(claim.mac)} on {link.name} claims it as well, while this node holds the lock")
        voice.disputed = True
    if asked is not None:
        voice.pulse.beat(asked, timeout)
    now = boottime()
    voice.heard(link.mac)
    times = voice.due(now, link.mac, vip.refresh)
    if times and "herald" in ctx.state and voice.pulse.lively(now, timeout):
        if tell(ctx.state["herald"]["name"], link, vip.address.ip, times):
            voice.spoke(now, link.mac)
        else:
            ctx.log(f"{vip.address}: the herald has ended; it is announced no more until the next start")
