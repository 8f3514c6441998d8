"""What other computers notice: a client's cache follows, and a node that has stopped says nothing more."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from itertools import pairwise
from pathlib import Path

import pytest
from vip_lan import GENEROUS, Computer, lan
from vip_steps import V4, V6, perform, start, stop, vip

from btw_core.types import Verb

SO_TIMESTAMPNS = 35  # socket(7); not in Python 3.11

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
Lan = dict[str, Computer]


@pytest.fixture
def net() -> Iterator[Lan]:
    with lan("a", "b", "client") as computers:
        for number, name in enumerate(("a", "b", "client"), 1):
            computers[name].ip("address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            computers[name].ip("address", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")
        yield computers


def ping(text: str, seconds: float, pause: float = 0.005) -> list[float]:
    """Echo requests in a steady rhythm; the instants (CLOCK_MONOTONIC) of the answers."""
    ip = ip_address(text.split("/")[0])
    six = isinstance(ip, IPv6Address)
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    request, reply = (128, 129) if six else (8, 0)
    answers = []
    with socket.socket(family, socket.SOCK_RAW, protocol) as channel:
        begun = time.monotonic()
        number = 0
        while (now := time.monotonic()) < begun + seconds:
            if now >= begun + number * pause:
                number += 1
                body = struct.pack("!HH", 77, number & 0xFFFF)
                total = (request << 8) + 77 + (number & 0xFFFF)
                total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
                with contextlib.suppress(OSError):  # no neighbour: that is what is measured
                    channel.sendto(struct.pack("!BBH", request, 0, 0 if six else total) + body, (str(ip), 0))
            if select.select([channel], [], [], max(0.0, begun + number * pause - time.monotonic()))[0]:
                packet, sender = channel.recvfrom(2048)
                message = packet if six else packet[20:]
                if message[0] == reply and sender[0].split("%")[0] == str(ip):
                    answers.append(time.monotonic())
    return answers


def cached(client: Computer, text: str) -> str:
    """The MAC address in the client's cache."""
    words = client.ip("neigh", "show", text.split("/")[0]).split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


@pytest.mark.parametrize("text", [V4, V6])
def test_a_move(net: Lan, text: str) -> None:
    """A client that pings the address meets the new holder at once: its cache follows the announcement."""
    a, b, client = net["a"], net["b"], net["client"]
    state = start(a, vip(text)).state
    job = client.start(ping, text, 4.0)
    wait(lambda: cached(client, text) == a.mac)
    time.sleep(0.5)
    assert stop(a, vip(text), state).status == "down"
    moved = start(b, vip(text))
    assert moved.status == "up", moved.error
    assert cached(client, text) == b.mac
    answers = job.result()
    gaps = [later - earlier for earlier, later in pairwise(answers)]
    print(f"{text}: longest gap {1000 * max(gaps):.0f} ms")
    assert max(gaps) < 2.0
    assert len(answers) > 100


@pytest.mark.parametrize("text", [V4, V6])
def test_without_announcement(net: Lan, text: str) -> None:
    """The check of the test above: when the address moves by hand the cache stays with the former holder."""
    a, b, client = net["a"], net["b"], net["client"]
    options = ["nodad"] if text == V6 else []
    a.ip("address", "add", text, "dev", "eth0", *options)
    wait(lambda: client.call(ping, text, 0.3))
    a.ip("address", "del", text, "dev", "eth0")
    b.ip("address", "add", text, "dev", "eth0", *options)
    client.call(ping, text, 0.3)
    assert cached(client, text) == a.mac


def wait(condition: object) -> None:
    end = time.monotonic() + GENEROUS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def sent(port: str, mac: str, text: str, over: Path) -> list[tuple[float, str]]:
    """What comes into the switch at `port` from `mac` and bears the address as its own, until the file `over` is there:
    instant (time(2); the kernel's, for a busy computer reads late) and frame."""
    ip = ip_address(text.split("/")[0])
    own = bytes.fromhex(mac.replace(":", ""))
    found = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ears:
        ears.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        ears.bind((port, 3))
        while not over.exists():
            if not select.select([ears], [], [], 0.1)[0]:
                continue
            frame, ((_, _, stamp),), _, _ = ears.recvmsg(2048, 64)
            seconds, nanoseconds = struct.unpack("qq", stamp)
            type, now = frame[12:14].hex(), seconds + nanoseconds / 1e9
            source = {"0806": frame[28:32], "0800": frame[26:30], "86dd": frame[22:38]}.get(type, b"")
            advertised = frame[62:78] if type == "86dd" and frame[20] == 58 and frame[54] == 136 else b""
            if frame[6:12] == own and ip.packed in (source, advertised):
                found.append((now, frame.hex()))
    return found


@pytest.mark.parametrize("text", [V4, V6])
@pytest.mark.parametrize("verb", [Verb.START, Verb.HEAL])
def test_each_packet_needs_the_lock(net: Lan, text: str, verb: Verb, tmp_path: Path) -> None:
    """The lock is asked for before the address is there and before each announcement: nothing comes after its loss."""
    a = net["a"]
    for rechecks, there in ((0, False), (2, True)):
        capture = net["switch"].start(sent, "to-a", a.mac, text, tmp_path / str(rechecks))
        time.sleep(0.3)
        outcome = a.call(perform, verb, vip(text), {}, loses=rechecks)
        assert "the lock has run out" in outcome.error
        assert (text in a.addresses()) is there
        (tmp_path / str(rechecks)).touch()
        frames = [frame for _, frame in capture.result()]
        assert len(frames) == (1 if there else 0), frames
        stop(a, vip(text))


def test_nobody_is_asked_after_an_orderly_release(net: Lan) -> None:
    """The former holder has given it back a moment ago: probing would only make clients wait."""
    net["client"].ip("address", "add", V4, "dev", "eth0")
    assert "has it; no node that has held" in start(net["a"], vip(V4)).error
    assert net["a"].call(perform, Verb.START, vip(V4), {}, handed_over=True).status == "up"


@pytest.mark.parametrize("text", [V4, V6])
def test_silence_after_stop(net: Lan, text: str, tmp_path: Path) -> None:
    """From the end of its stop on no packet leaves the node with the address: no ARP, no advertisement, no answer."""
    a, client = net["a"], net["client"]
    capture = net["switch"].start(sent, "to-a", a.mac, text, tmp_path / "over")
    time.sleep(0.3)
    state = start(a, vip(text)).state
    pings = client.start(ping, text, 3.0)
    time.sleep(0.7)
    assert stop(a, vip(text), state).status == "down"
    stopped = time.time()
    assert pings.result()
    (tmp_path / "over").touch()
    frames = capture.result()
    assert any(when < stopped for when, _ in frames)
    assert [frame for when, frame in frames if when > stopped] == []


def talk(text: str, seconds: float) -> int:
    """A server that sends to whoever connects, as fast as it goes, for so long after its first client came."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    with socket.create_server(("::" if family == socket.AF_INET6 else "", 7777), family=family) as server:
        server.settimeout(GENEROUS)
        client, _ = server.accept()
        client.setblocking(False)
        end, total = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            if select.select([], [client], [], 0.1)[1]:
                try:
                    total += client.send(bytes(10000))
                except OSError:
                    break
        os._exit(0)


def listen(text: str, seconds: float) -> None:
    """Its client."""
    end = time.monotonic() + GENEROUS
    while True:
        try:
            channel = socket.create_connection((text.split("/")[0], 7777), timeout=GENEROUS)
            break
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.02)
    end = time.monotonic() + seconds
    channel.settimeout(0.1)
    while time.monotonic() < end:
        try:
            channel.recv(65536)
        except OSError:
            continue


@pytest.mark.parametrize("text", [V4, V6])
def test_silence_of_connections(net: Lan, text: str, tmp_path: Path) -> None:
    """Nor do connections of programs that still run after the stop send from the address."""
    a, client = net["a"], net["client"]
    capture = net["switch"].start(sent, "to-a", a.mac, text, tmp_path / "over")
    time.sleep(0.2)
    state = start(a, vip(text)).state
    server, reader = a.start(talk, text, 20.0), client.start(listen, text, 4.0)
    time.sleep(1.0)
    try:
        outcome = stop(a, vip(text), state)
        assert outcome.status == "down"
        stopped = time.time()
        assert outcome.lines == ([f"{V6}: 1 connections from it were still there: ended"] if text == V6 else [])
        time.sleep(2.0)  # TCP would repeat what was not acknowledged several times
        (tmp_path / "over").touch()
        frames = capture.result()
        assert sum(when < stopped for when, _ in frames) > 10
        late = [frame for when, frame in frames if when > stopped]
        assert late == [], (len(late), late[:3])
    finally:
        server.kill()
        reader.kill()
