"""Sees on the bridge which computers answer for an address, at every moment: the referee of virtual addresses.

    python lookout.py BRIDGE ADDRESS...        on the hub; prints, instants on CLOCK_BOOTTIME:
        holds ADDRESS INSTANT [MAC...]         these answer for it from now on
        until INSTANT                          all before that has been said; now and then

Every 2 ms it asks everybody for each address (ARP, or a neighbour solicitation) with another sender address, which the
answer repeats: so two answers to one question are two holders at one moment, however late they are read.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from collections import deque
from ipaddress import IPv4Address, IPv6Address, ip_address

PAUSE = 0.002
#: Different senders; an answer may be so many questions late.
SENDERS = 32
IP = IPv4Address | IPv6Address
_ARP, _IP6 = 0x0806, 0x86DD
_ALL = b"\xff" * 6


def sender(ip: IP, number: int) -> bytes:
    """One of SENDERS addresses of its network that no computer has."""
    return ip.packed[:-1] + bytes([110 + number]) if ip.version == 4 else ip.packed[:-2] + bytes([0xEE, number])


def question(mac: bytes, ip: IP, number: int) -> bytes:
    """Who has `ip`? RFC 826; RFC 4861, 4.3."""
    asking = sender(ip, number)
    if ip.version == 4:
        arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, asking, bytes(6), ip.packed)
        return _ALL + mac + struct.pack("!H", _ARP) + arp
    group = bytes.fromhex("ff0200000000000000000001ff") + ip.packed[-3:]
    body = struct.pack("!BBHI", 135, 0, 0, 0) + ip.packed + b"\x01\x01" + mac
    summed = asking + group + struct.pack("!II", len(body), 58) + body
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + asking + group
    return b"\x33\x33" + group[-4:] + mac + struct.pack("!H", _IP6) + header + body


def answer(frame: bytes) -> tuple[bytes, int, bytes] | None:
    """Address, number of the sender and MAC address of an answer; None for anything else."""
    kind = frame[12:14]
    if kind == b"\x08\x06" and frame[20:22] == b"\0\2":
        return frame[28:32], frame[41] - 110, frame[22:28]
    if kind == b"\x86\xdd" and frame[20] == 58 and frame[54] == 136 and frame[52] == 0xEE:
        return frame[62:78], frame[53], frame[6:12]
    return None


def main(bridge: str, *texts: str) -> None:
    """Until it is killed."""
    ips = [ip_address(text) for text in texts]
    known: dict[bytes, set[bytes] | None] = {ip.packed: None for ip in ips}
    rounds: deque[tuple[float, dict[bytes, set[bytes]]]] = deque()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ears:
        ears.bind((bridge, 3))
        ears.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        mac, number = ears.getsockname()[4], 0
        while True:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            rounds.append((now, {ip.packed: set() for ip in ips}))
            for ip in ips:
                ears.send(question(mac, ip, number % SENDERS))
            number += 1
            while (left := now + PAUSE - time.clock_gettime(time.CLOCK_BOOTTIME)) > 0:
                if select.select([ears], [], [], left)[0] and (found := answer(ears.recv(2048))):
                    packed, tag, who = found
                    late = (number - 1 - tag) % SENDERS
                    if packed in known and 0 <= tag < SENDERS and late < len(rounds):
                        rounds[-1 - late][1][packed].add(who)
            if len(rounds) == SENDERS:
                instant, answers = rounds.popleft()
                for packed, macs in answers.items():
                    if macs != known[packed]:
                        known[packed] = macs
                        print("holds", ip_address(packed), instant, *(each.hex(":") for each in macs), flush=True)
                if number % SENDERS == 0:
                    print("until", instant, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
