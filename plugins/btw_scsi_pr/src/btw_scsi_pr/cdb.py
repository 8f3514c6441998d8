"""PERSISTENT RESERVE IN and OUT as bytes, and what a disk answers (SPC-4 6.15 and 6.16). Pure."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

#: Bytes that an answer may have: some thousand registrations.
ROOM = 16384


class Kind(IntEnum):
    """Types of a reservation (SPC-4 table 187)."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8


#: Every registrant is a holder; the key of the reservation is then 0.
OF_ALL = (Kind.WRITE_EXCLUSIVE_ALL_REGISTRANTS, Kind.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)


class In(IntEnum):
    """Service actions of PERSISTENT RESERVE IN."""

    READ_KEYS = 0
    READ_RESERVATION = 1
    REPORT_CAPABILITIES = 2
    READ_FULL_STATUS = 3


class Out(IntEnum):
    """Service actions of PERSISTENT RESERVE OUT."""

    REGISTER = 0
    RESERVE = 1
    RELEASE = 2
    CLEAR = 3
    PREEMPT = 4
    PREEMPT_AND_ABORT = 5
    REGISTER_AND_IGNORE = 6

    @property
    def words(self) -> str:
        return self.name.replace("_", " ")


class Keys(NamedTuple):
    """One key for each registered path of each initiator."""

    generation: int
    keys: tuple[int, ...]


class Reservation(NamedTuple):
    """`key` is 0 where all registrants hold it. `kind` may be a number that is no Kind."""

    key: int
    kind: int


class Registration(NamedTuple):
    """One line of READ FULL STATUS."""

    key: int
    holder: bool
    kind: int
    port: int  # relative target port
    initiator: str


class Capabilities(NamedTuple):
    persists: bool  # through a loss of power of the target (PTPL_C)
    kinds: frozenset[int] | None  # None: the disk does not say which


def reserve_in(action: In, room: int = ROOM) -> bytes:
    return struct.pack(">BB5xHB", 0x5E, action, room, 0)


def reserve_out(action: Out, kind: int, own: int, other: int, *, persist: bool = False) -> tuple[bytes, bytes]:
    """Command and parameter list. `own`: RESERVATION KEY, `other`: SERVICE ACTION RESERVATION KEY, `persist`: APTPL.
    Scope is always the logical unit."""
    listed = struct.pack(">QQ4xB3x", own, other, int(persist))
    return struct.pack(">BBB2xIB", 0x5F, action, kind, len(listed), 0), listed


def keys(data: bytes) -> Keys:
    """Raises ValueError, as all below: the answer is too short."""
    generation, length = _header(data)
    return Keys(generation, struct.unpack(f">{length // 8}Q", _body(data, length // 8 * 8)))


def reservation(data: bytes) -> Reservation | None:
    """None: nobody has reserved it."""
    _, length = _header(data)
    if length < 16:
        return None
    key, kind = struct.unpack(">Q4xxB2x", _body(data, 16))
    return Reservation(key, kind & 15)


def capabilities(data: bytes) -> Capabilities:
    if len(data) < 8:
        raise ValueError(f"{len(data)} bytes of capabilities, 8 expected")
    flags, valid, mask = data[2], data[3] & 0x80, data[4] | data[5] << 8
    bits = {7: 0x80, 6: 0x40, 5: 0x20, 3: 0x08, 1: 0x02, 8: 0x100}
    return Capabilities(bool(flags & 1), frozenset(k for k, bit in bits.items() if mask & bit) if valid else None)


def full_status(data: bytes) -> tuple[Registration, ...]:
    _, length = _header(data)
    body, found = _body(data, length), []
    while len(body) >= 24:
        key, flags, kind, port, more = struct.unpack_from(">Q4xBB4xHI", body)
        transport = body[24 : 24 + more]
        found.append(Registration(key, bool(flags & 1), kind & 15 if flags & 1 else 0, port, _initiator(transport)))
        body = body[24 + more :]
    return tuple(found)


def _initiator(transport: bytes) -> str:
    """The name in a TransportID (SPC-4 7.6.4), as people know it."""
    if not transport:
        return ""
    protocol = transport[0] & 15
    if protocol == 5:  # iSCSI: a name, and for format 1 a separator and the session's id
        return transport[4:].split(b"\0")[0].decode(errors="replace")
    if protocol == 0:
        return "fc " + transport[8:16].hex(":")
    if protocol == 6:
        return "sas " + transport[4:12].hex()
    return f"protocol {protocol}: {transport[4:].rstrip(bytes(1)).hex()}"


def _header(data: bytes) -> tuple[int, int]:
    if len(data) < 8:
        raise ValueError(f"{len(data)} bytes of an answer, at least 8 expected")
    generation, length = struct.unpack_from(">II", data)
    return generation, length


def _body(data: bytes, length: int) -> bytes:
    if len(data) < 8 + length:
        raise ValueError(f"an answer of {8 + length} bytes has only {len(data)}: more registrations than have room?")
    return data[8 : 8 + length]
