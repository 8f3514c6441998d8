"""What a node does with a `vip`, as functions for `Computer.call`: each in a process of its own, as in btw."""

from __future__ import annotations

import os
import select
import subprocess
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from vip_lan import GENEROUS, Computer

from btw_core import Failed
from btw_core.parameters import convert, fields
from btw_core.testing import FakeContext
from btw_core.types import Verb
from btw_vip import packets
from btw_vip.address import Address
from btw_vip.kernel import Kernel, Link
from btw_vip.vip import Vip
from btw_vip.wire import Wire

V4, V6 = "10.77.0.100/24", "fd77::100/64"
STATE = dict[str, Any]


@dataclass
class Outcome:
    """How an operation ended, and what `status` says behind it, as the core asks after a stop."""

    error: str
    state: STATE
    status: str
    lines: list[str] = field(default_factory=list)


def vip(address: str = V4, **more: Any) -> Vip:
    """With parameters as TOML gives them."""
    types = {field.encode_name: field.type for field in fields(Vip)}
    return Vip(address=Address(address), **{key: convert(value, types[key]) for key, value in more.items()})


def perform(
    verb: Verb,
    resource: Vip,
    state: STATE,
    seconds: float = 30.0,
    holders: dict[str, list[str]] | None = None,
    *,
    handed_over: bool = False,
    loses: int | None = None,
) -> Outcome:
    """`loses`: after so many rechecks the lock is gone."""
    ctx = FakeContext(verb, state=dict(state), seconds=seconds, holders=holders, handed_over=handed_over)
    if loses is not None:
        ctx.lose_lock(after=loses)
    error = ""
    try:
        getattr(resource, verb)(ctx)
    except Failed as failure:
        error = str(failure)
    return Outcome(error, ctx.state, looked(resource, ctx.state).status, ctx.lines)


def looked(resource: Vip, state: STATE) -> Outcome:
    ctx = FakeContext(None, state=dict(state))
    return Outcome("", state, str(resource.status(ctx)), ctx.lines)


def start(
    computer: Computer, resource: Vip, state: STATE | None = None, holders: dict[str, list[str]] | None = None
) -> Outcome:
    return computer.call(perform, Verb.START, resource, state or {}, holders=holders)


def stop(computer: Computer, resource: Vip, state: STATE | None = None) -> Outcome:
    return computer.call(perform, Verb.STOP, resource, state or {})


def heal(computer: Computer, resource: Vip, state: STATE) -> Outcome:
    return computer.call(perform, Verb.HEAL, resource, state)


def status(computer: Computer, resource: Vip, state: STATE | None = None) -> str:
    return computer.call(looked, resource, state or {}).status


class Observed:
    """One resource as the observer has it: watched, and asked when its descriptor becomes readable. For use within a
    namespace."""

    def __init__(self, resource: Vip, state: STATE, package: str = "test") -> None:
        self.resource, self.state, self.package = resource, state, package
        self.lines: list[str] = []
        self.descriptor = -1
        self.arm()

    def context(self) -> FakeContext:
        return FakeContext(None, state=dict(self.state), package=self.package)

    def arm(self) -> None:
        """As the observer: new descriptors, then the former ones are closed."""
        before = self.descriptor
        (self.descriptor,) = self.resource.watch(self.context())
        if before >= 0:
            os.close(before)

    def fired(self, seconds: float = GENEROUS) -> bool:
        return bool(select.select([self.descriptor], [], [], seconds)[0])

    def status(self) -> str:
        ctx = self.context()
        answer = str(self.resource.status(ctx))
        self.lines += [line for line in ctx.lines if line not in self.lines]
        return answer

    def news(self) -> str:
        """Wait until it fires, ask, arm again."""
        assert self.fired(), "not told of any change"
        answer = self.status()
        self.arm()
        return answer

    def unwatch(self) -> None:
        os.close(self.descriptor)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=GENEROUS)


def eth0() -> Link:
    """Of the namespace in which this process is."""
    return next(link for link in Kernel().links().values() if link.name == "eth0")


def announce(*texts: str) -> None:
    """Claim addresses that others have."""
    link = eth0()
    for address in [ip_address(text.split("/")[0]) for text in texts]:
        with Wire(link, packets.ethertype(address), [address]) as wire:
            for frame in packets.announcements(link.mac, address):
                wire.send(frame)
