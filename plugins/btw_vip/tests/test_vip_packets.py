"""Frames, byte for byte."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btw_vip import packets
from btw_vip.packets import Claim

MAC = bytes.fromhex("02005e005301")
V4 = IPv4Address("192.0.2.10")
V6 = IPv6Address("2001:db8::10")

ETHERNET = "ffffffffffff 02005e005301 0806"
ARP_REQUEST = "0001 0800 06 04 0001"
ARP_REPLY = "0001 0800 06 04 0002"
PROBE_4 = f"{ETHERNET} {ARP_REQUEST} 02005e005301 00000000 000000000000 c000020a"
ANNOUNCE_4 = f"{ETHERNET} {ARP_REQUEST} 02005e005301 c000020a 000000000000 c000020a"
REPLY_4 = f"{ETHERNET} {ARP_REPLY} 02005e005301 c000020a 02005e005301 c000020a"
#: From ::, to ff02::1:ff00:10, hop limit 255, 24 bytes of ICMPv6.
PROBE_6 = (
    "3333ff000010 02005e005301 86dd  60000000 0018 3a ff  00000000000000000000000000000000"
    "ff0200000000000000000001ff000010  87 00 {sum} 00000000 20010db8000000000000000000000010"
)
#: From the address, to ff02::1, flag O, option target link-layer address.
ANNOUNCE_6 = (
    "333300000001 02005e005301 86dd  60000000 0020 3a ff  20010db8000000000000000000000010"
    "ff020000000000000000000000000001  88 00 {sum} 20000000 20010db8000000000000000000000010 02 01 02005e005301"
)


def ones_complement(data: bytes) -> int:
    total = 0
    for place in range(0, len(data), 2):
        total += int.from_bytes(data[place : place + 2], "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def with_checksum(text: str) -> bytes:
    """RFC 4443 2.3: over the pseudo-header and the message with a sum of 0."""
    frame = bytes.fromhex(text.format(sum="0000"))
    message = frame[54:]
    pseudo = frame[22:54] + len(message).to_bytes(4, "big") + bytes([0, 0, 0, 58])
    total = ones_complement(pseudo + message) ^ 0xFFFF
    return bytes.fromhex(text.format(sum=f"{total:04x}"))


def test_arp_probe() -> None:
    """RFC 5227 2.1.1: a broadcast request whose sender address is 0 and whose target hardware address is 0."""
    assert packets.probe(MAC, V4) == bytes.fromhex(PROBE_4)


def test_arp_announcements() -> None:
    """RFC 5227 2.3: as the probe, with the address as sender and target; and a gratuitous reply."""
    assert packets.announcements(MAC, V4) == [bytes.fromhex(ANNOUNCE_4), bytes.fromhex(REPLY_4)]


def test_neighbour_probe() -> None:
    """RFC 4862 5.4.2: a solicitation from :: to the solicited-node group, hop limit 255, without options."""
    assert packets.probe(MAC, V6) == with_checksum(PROBE_6)


def test_neighbour_advertisement() -> None:
    """RFC 4861 7.2.6: unsolicited, to all nodes, Override set, Solicited not, with the link-layer address."""
    assert packets.announcements(MAC, V6) == [with_checksum(ANNOUNCE_6)]


def test_claims() -> None:
    """Whoever announces, answers or probes an address claims it; who merely asks for it does not."""
    assert packets.claim(bytes.fromhex(PROBE_4)) == Claim(V4, MAC)
    assert packets.claim(bytes.fromhex(ANNOUNCE_4)) == Claim(V4, MAC)
    assert packets.claim(bytes.fromhex(REPLY_4)) == Claim(V4, MAC)
    assert packets.claim(with_checksum(PROBE_6)) == Claim(V6, MAC)
    assert packets.claim(with_checksum(ANNOUNCE_6)) == Claim(V6, MAC)
    question = f"{ETHERNET} {ARP_REQUEST} 02005e005301 c0000201 000000000000 c000020a"
    assert packets.claim(bytes.fromhex(question)) == Claim(IPv4Address("192.0.2.1"), MAC)


def test_no_claims() -> None:
    """Solicitations of a neighbour, forwarded or cut frames, other protocols claim nothing."""
    probe, announcement = with_checksum(PROBE_6), with_checksum(ANNOUNCE_6)
    asked = probe[:22] + V6.packed + probe[38:]
    forwarded = announcement[:21] + b"\xfe" + announcement[22:]
    reply_of_nobody = bytes.fromhex(PROBE_4)[:21] + b"\x02" + bytes.fromhex(PROBE_4)[22:]
    for frame in (asked, forwarded, reply_of_nobody, announcement[:77], bytes.fromhex(ANNOUNCE_4)[:41], b"", bytes(60)):
        assert packets.claim(frame) is None


def test_the_option_counts() -> None:
    """The MAC address is the one in the advertisement's option; without one, or with a broken one, the sender's."""
    frame = with_checksum(ANNOUNCE_6)
    other = bytes.fromhex("02005e0053ff")
    assert packets.claim(frame[:80] + other) == Claim(V6, other)
    assert packets.claim(frame[:78]) == Claim(V6, MAC)
    assert packets.claim(frame[:78] + bytes(8)) == Claim(V6, MAC)
    assert packets.claim(frame[:78] + bytes.fromhex("0e01000000000000") + frame[78:]) == Claim(V6, MAC)


def run(program: list[tuple[int, int, int, int]], frame: bytes) -> int:
    """The few instructions of classic BPF that are used; a load beyond the end drops the frame."""
    accumulator, place = 0, 0
    sizes = {0x28: 2, 0x30: 1, 0x20: 4}
    while True:
        code, true, false, value = program[place]
        place += 1
        if code in sizes:
            data = frame[value : value + sizes[code]]
            if len(data) < sizes[code]:
                return 0
            accumulator = int.from_bytes(data, "big")
        elif code == 0x15:
            place += true if accumulator == value else false
        else:
            assert code == 0x06
            return value


@pytest.mark.parametrize("count", [1, 150])
def test_filter(count: int) -> None:
    """The kernel's filter passes what may claim one of the addresses, however many, and nothing else."""
    others = [ip_address(int(V4) + 1 + each) for each in range(count - 1)]
    others += [ip_address(int(V6) + 1 + each) for each in range(count - 1)]
    four = packets.claims_filter([*others, V4, V6], packets.ARP)
    six = packets.claims_filter([*others, V4, V6], packets.IPV6)
    assert max(len(four), len(six)) <= 4096  # BPF_MAXINSNS
    for text in (PROBE_4, ANNOUNCE_4, REPLY_4):
        assert run(four, bytes.fromhex(text))
        assert not run(six, bytes.fromhex(text))
    for text in (PROBE_6, ANNOUNCE_6):
        assert run(six, with_checksum(text))
        assert not run(four, with_checksum(text))
    stranger = IPv4Address("198.51.100.1")
    assert not run(four, packets.probe(MAC, stranger))
    assert not run(six, packets.probe(MAC, IPv6Address("2001:db8:1::10")))
    assert not run(packets.claims_filter([], packets.ARP), bytes.fromhex(ANNOUNCE_4))


@given(st.binary(max_size=120), st.booleans())
def test_whatever_comes(tail: bytes, real: bool) -> None:
    """No frame, however broken, is anything but a claim or none."""
    for head in (b"", bytes.fromhex(ANNOUNCE_4)[: len(tail)], with_checksum(ANNOUNCE_6)[: len(tail)]):
        found = packets.claim(head + tail if real else tail + head)
        assert found is None or len(found.mac) == 6
