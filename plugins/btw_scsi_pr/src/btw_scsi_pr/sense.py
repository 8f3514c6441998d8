"""What a disk, or the way to it, says of a command, in words (SAM-5 5.3, SPC-4 4.5, Linux scsi/scsi_status.h). Pure."""

from __future__ import annotations

from typing import NamedTuple

GOOD, CHECK_CONDITION, BUSY, CONFLICT, TASK_SET_FULL = 0x00, 0x02, 0x08, 0x18, 0x28
NOT_READY, ILLEGAL_REQUEST, UNIT_ATTENTION, ABORTED_COMMAND = 0x2, 0x5, 0x6, 0xB

_STATUS = {
    CHECK_CONDITION: "check condition",
    BUSY: "busy",
    CONFLICT: "reservation conflict",
    TASK_SET_FULL: "task set full",
    0x30: "ACA active",
    0x40: "task aborted",
}
_KEYS = (
    "no sense", "recovered error", "not ready", "medium error", "hardware error", "illegal request", "unit attention",
    "data protect", "blank check", "vendor specific", "copy aborted", "aborted command", "reserved", "volume overflow",
    "miscompare", "completed",
)  # fmt: skip
_CODES = {
    (0x04, 0x00): "not ready",
    (0x04, 0x01): "becoming ready",
    (0x04, 0x02): "needs a start command",
    (0x04, 0x0A): "asymmetric access in transition",
    (0x04, 0x0B): "path in standby",
    (0x04, 0x0C): "path unavailable",
    (0x08, 0x00): "communication failure",
    (0x1A, 0x00): "parameter list length error",
    (0x20, 0x00): "command not supported",
    (0x24, 0x00): "invalid field in command",
    (0x25, 0x00): "no such logical unit",
    (0x26, 0x00): "invalid field in parameter list",
    (0x26, 0x02): "parameter value invalid",
    (0x26, 0x04): "invalid release",
    (0x29, 0x00): "power on, reset or bus device reset",
    (0x2A, 0x03): "reservations preempted",
    (0x2A, 0x04): "reservations released",
    (0x2A, 0x05): "registrations preempted",
    (0x2A, 0x06): "asymmetric access state changed",
    (0x3F, 0x0E): "reported LUNs changed",
    (0x55, 0x04): "insufficient registration resources",
}
#: Of the host adapter, when no answer came from the disk.
_HOST = {
    0x01: "no connection",
    0x02: "bus busy",
    0x03: "timed out",
    0x04: "bad target",
    0x05: "aborted",
    0x07: "internal error",
    0x08: "reset",
    0x0C: "to be repeated at once",
    0x0D: "requeued",
    0x0E: "transport disrupted",
    0x0F: "transport failed fast",
    0x11: "nexus failure",
}
_AGAIN_HOST = frozenset({0x02, 0x08, 0x0C, 0x0D})


class Reply(NamedTuple):
    """How a command ended: SCSI status, the host adapter's and the driver's status, sense data, data."""

    status: int
    host: int = 0
    driver: int = 0
    sense: bytes = b""
    data: bytes = b""


class Sense(NamedTuple):
    key: int
    code: int = 0  # additional sense code
    qualifier: int = 0

    @property
    def words(self) -> str:
        what = _CODES.get((self.code, self.qualifier), f"{self.code:02x}h/{self.qualifier:02x}h")
        return f"{_KEYS[self.key]}, {what}"


def decode(data: bytes) -> Sense | None:
    """Fixed and descriptor format. None: there is none, or none that can be read."""
    kind = data[0] & 0x7F if data else 0
    if kind in (0x70, 0x71) and len(data) >= 14:
        return Sense(data[2] & 15, data[12], data[13])
    if kind in (0x72, 0x73) and len(data) >= 4:
        return Sense(data[1] & 15, data[2], data[3])
    return None


def good(reply: Reply) -> bool:
    return reply.status == GOOD and reply.host == 0


def conflict(reply: Reply) -> bool:
    return reply.host in (0, 0x11) and reply.status == CONFLICT


def again(reply: Reply) -> bool:
    """What a repetition a moment later may well mend."""
    if reply.host:
        return reply.host in _AGAIN_HOST
    found = decode(reply.sense) if reply.status == CHECK_CONDITION else None
    if found is None:
        return reply.status in (BUSY, TASK_SET_FULL)
    return found.key in (UNIT_ATTENTION, ABORTED_COMMAND) or found[:2] == (NOT_READY, 0x04)


def lost(reply: Reply) -> bool:
    """No answer of the disk: this way leads nowhere now."""
    found = decode(reply.sense)
    dead = found is not None and found.key == NOT_READY and found[1:] in ((0x04, 0x0B), (0x04, 0x0C))
    return (reply.host != 0 and not conflict(reply)) or dead


def unsupported(reply: Reply) -> bool:
    """The disk does not know this command, or this form of it."""
    found = decode(reply.sense)
    return found is not None and found.key == ILLEGAL_REQUEST and found.code in (0x20, 0x24, 0x26)


def words(reply: Reply) -> str:
    """ "unit attention, registrations preempted"."""
    if reply.host and not conflict(reply):
        return _HOST.get(reply.host, f"host status {reply.host:02x}h")
    found = decode(reply.sense) if reply.status == CHECK_CONDITION else None
    return found.words if found else _STATUS.get(reply.status, f"status {reply.status:02x}h")
