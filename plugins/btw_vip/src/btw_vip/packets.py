"""Frames as they are on the wire, and what a received one says. Pure.

IPv4: ARP (RFC 826), probes and announcements (RFC 5227). IPv6: neighbour discovery (RFC 4861), duplicate address
detection (RFC 4862).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from .address import IP

ARP, IPV6 = 0x0806, 0x86DD  # EtherTypes
BROADCAST = b"\xff" * 6
_NOBODY = bytes(6)
_REQUEST, _REPLY = 1, 2
_SOLICITATION, _ADVERTISEMENT = 135, 136
_ICMPV6 = 58
_ALL_NODES = IPv6Address("ff02::1")
_OVERRIDE = 0x20000000
_SOURCE_MAC, _TARGET_MAC = 1, 2  # options of neighbour discovery


class Claim(NamedTuple):
    """What a frame says: `mac` uses `ip`, or is about to (a probe of its own)."""

    ip: IP
    mac: bytes


def ethertype(ip: IP) -> int:
    """Of the frames that resolve such an address."""
    return ARP if isinstance(ip, IPv4Address) else IPV6


def probe(mac: bytes, ip: IP) -> bytes:
    """Does anybody use `ip`? Changes no cache: the sender's address is 0.0.0.0 or ::."""
    if isinstance(ip, IPv4Address):
        return _arp(_REQUEST, mac, IPv4Address(0), _NOBODY, ip)
    solicited = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(ip) & 0xFFFFFF)
    return _icmp(mac, IPv6Address(0), solicited, struct.pack("!BBHI16s", _SOLICITATION, 0, 0, 0, ip.packed))


def announcements(mac: bytes, ip: IP) -> list[bytes]:
    """`ip` is at `mac` from now on. For IPv4 a request and a reply: some devices heed only one of them."""
    if isinstance(ip, IPv4Address):
        return [_arp(_REQUEST, mac, ip, _NOBODY, ip), _arp(_REPLY, mac, ip, mac, ip)]
    option = struct.pack("!BB6s", _TARGET_MAC, 1, mac)
    return [_icmp(mac, ip, _ALL_NODES, struct.pack("!BBHI16s", _ADVERTISEMENT, 0, 0, _OVERRIDE, ip.packed) + option)]


def groups(ip: IP) -> list[bytes]:
    """Ethernet multicast addresses where others ask for and tell of `ip`."""
    if isinstance(ip, IPv4Address):
        return []
    return [b"\x33\x33\xff" + ip.packed[-3:], b"\x33\x33\x00\x00\x00\x01"]


def claim(frame: bytes) -> Claim | None:
    """Who claims which address with this frame; None: nobody any."""
    if len(frame) >= 42 and frame[12:20] == struct.pack("!HHHBB", ARP, 1, 0x0800, 6, 4):
        mac, sender, target = frame[22:28], frame[28:32], frame[38:42]
        operation = frame[20:22] if sender == bytes(4) else b""
        if operation and operation != struct.pack("!H", _REQUEST):
            return None
        return Claim(IPv4Address(target if sender == bytes(4) else sender), mac)
    if len(frame) >= 78 and frame[12:14] == struct.pack("!H", IPV6) and frame[20] == _ICMPV6 and frame[21] == 255:
        kind, code, target = frame[54], frame[55], frame[62:78]
        from_nobody = frame[22:38] == bytes(16)
        if code == 0 and (kind == _ADVERTISEMENT or (kind == _SOLICITATION and from_nobody)):
            return Claim(IPv6Address(target), _option(frame[78:], _TARGET_MAC) or frame[6:12])
    return None


def shown(mac: bytes) -> str:
    """02:00:5e:00:53:01"""
    return mac.hex(":")


def claims_filter(ips: Iterable[IP], type: int) -> list[tuple[int, int, int, int]]:
    """A classic BPF program (Linux Documentation/networking/filter.rst) that passes the frames of EtherType `type`
    which may claim one of `ips`."""
    load_half, load_byte, load_word = 0x28, 0x30, 0x20
    equal, answer, take = 0x15, 0x06, 0xFFFF
    found = [(load_half, 0, 0, 12), (equal, 1, 0, type), (answer, 0, 0, 0)]
    if type == IPV6:
        found += [(load_byte, 0, 0, 20), (equal, 1, 0, _ICMPV6), (answer, 0, 0, 0)]
    for ip in ips:
        if ethertype(ip) != type:
            continue
        for place in (62,) if type == IPV6 else (28, 38):
            words = struct.unpack(f"!{len(ip.packed) // 4}I", ip.packed)
            for number, word in enumerate(words):
                rest = 2 * (len(words) - number - 1) + 1  # to the next address
                found += [(load_word, 0, 0, place + 4 * number), (equal, 0, rest, word)]
            found.append((answer, 0, 0, take))
    return [*found, (answer, 0, 0, 0)]


def _arp(operation: int, mac: bytes, sender: IPv4Address, target_mac: bytes, target: IPv4Address) -> bytes:
    ethernet = struct.pack("!6s6sH", BROADCAST, mac, ARP)
    fixed = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return ethernet + fixed + mac + sender.packed + target_mac + target.packed


def _icmp(mac: bytes, source: IPv6Address, destination: IPv6Address, message: bytes) -> bytes:
    pseudo = source.packed + destination.packed + struct.pack("!II", len(message), _ICMPV6)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    ethernet = b"\x33\x33" + destination.packed[-4:] + mac + struct.pack("!H", IPV6)
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255)
    return ethernet + header + source.packed + destination.packed + message


def _checksum(data: bytes) -> int:
    """RFC 1071; `data` has an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _option(options: bytes, wanted: int) -> bytes:
    while len(options) >= 8 and options[1]:
        if options[0] == wanted:
            return options[2:8]
        options = options[8 * options[1] :]
    return b""
