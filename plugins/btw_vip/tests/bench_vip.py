"""Costs of a `vip` against bare netlink in the same run: `python plugins/btw_vip/tests/bench_vip.py`. Needs root.

Medians, in milliseconds. Operations run in forks of a process that is prepared as the zygote is.
"""

from __future__ import annotations

import gc
import os
import socket
import statistics
import struct
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from vip_lan import lan
from vip_steps import V4, V6, Observed, vip

import btw_vip
from btw_core.testing import FakeContext
from btw_core.types import Verb
from btw_vip.address import Address

ROUNDS = 15
ADDRESSES = 150
_ADD, _DEL, _GETLINK = 20, 21, 18  # rtnetlink(7)


class Bare:
    """One netlink socket and packed messages: as cheap as it gets in Python."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._index = socket.if_nametoindex("eth0")

    def address(self, type: int, text: str) -> None:
        wanted = Address(text)
        family = socket.AF_INET if wanted.ip.version == 4 else socket.AF_INET6
        body = struct.pack("=BBBBI", family, wanted.prefix, 0x02, 0, self._index)
        for attribute in (1, 2):
            body += struct.pack("=HH", 4 + len(wanted.ip.packed), attribute) + wanted.ip.packed
        self._ask(type, 0x405 if type == _ADD else 0x5, body)

    def link(self) -> None:
        self._ask(_GETLINK, 0x1, struct.pack("=BBHiII", 0, 0, 0, self._index, 0, 0))

    def _ask(self, type: int, flags: int, body: bytes) -> None:
        self._socket.send(struct.pack("=IHHII", 16 + len(body), type, flags, 1, 0) + body)
        answer = self._socket.recv(65536)
        if struct.unpack_from("=H", answer, 4)[0] == 2 and (code := struct.unpack_from("=i", answer, 16)[0]):
            raise OSError(-code, os.strerror(-code))


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begun)


def operation(verb: Verb, text: str, state: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    ctx = FakeContext(verb, state=dict(state))
    resource = vip(text, probe=0, heals=1000)
    return timed(lambda: getattr(resource, verb)(ctx)), ctx.state


def bare(text: str) -> tuple[list[float], list[float], list[float]]:
    kernel = Bare()
    add = [
        (timed(lambda: kernel.address(_ADD, text)), timed(lambda: kernel.address(_DEL, text))) for _ in range(ROUNDS)
    ]
    return [a for a, _ in add], [d for _, d in add], [timed(kernel.link) for _ in range(200)]


def status() -> tuple[float, float, float]:
    """One status among 150, a round of all, and CPU seconds of a round."""
    kernel = Bare()
    first = int(ip_address("10.77.4.0"))
    texts = [f"{ip_address(first + number)}/16" for number in range(1, ADDRESSES + 1)]
    for text in texts:
        kernel.address(_ADD, text)
    watched = [Observed(vip(text), {"interface": "eth0"}, text) for text in texts]
    contexts = [each.context() for each in watched]
    pairs = list(zip(watched, contexts, strict=True))
    single = statistics.median(timed(lambda e=e, c=c: e.resource.status(c)) for e, c in pairs)  # type: ignore[misc]
    cpu, begun = time.process_time(), time.perf_counter()
    for _ in range(ROUNDS):
        for each, ctx in pairs:
            each.resource.status(ctx)
    return single, 1000 * (time.perf_counter() - begun) / ROUNDS, 1000 * (time.process_time() - cpu) / ROUNDS


def main() -> None:
    btw_vip._prepare()
    gc.collect()
    gc.freeze()
    median = statistics.median
    with lan("a") as net:
        node = net["a"]
        node.ip("address", "add", "10.77.0.1/16", "dev", "eth0")
        node.ip("address", "add", "fd77::1/64", "dev", "eth0", "nodad")
        for text in (V4, V6):
            add, delete, link = map(median, node.call(bare, text))
            print(f"{text}: bare netlink: add {add:.3f}, delete {delete:.3f}, query {link:.3f}")
            spent: dict[Verb, list[float]] = {Verb.START: [], Verb.HEAL: [], Verb.STOP: []}
            for _ in range(ROUNDS):
                state: dict[str, Any] = {}
                for verb in spent:
                    if verb is Verb.HEAL:
                        node.ip("address", "del", text, "dev", "eth0")
                    cost, state = node.call(operation, verb, text, state)
                    spent[verb].append(cost)
            print(
                f"{text}: " + ", ".join(f"{verb} {median(costs):.1f}" for verb, costs in spent.items()) + " (no probe)"
            )
        single, round_, cpu = node.call(status)
        print(
            f"status: one of {ADDRESSES} {single:.3f} = {single / link:.1f} x a bare query; round of all {round_:.1f}"
        )
        print(f"CPU of a round {cpu:.1f}")


if __name__ == "__main__":
    main()
