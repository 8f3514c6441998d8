"""SCSI commands through the kernel: ioctl(SG_IO) on the block device of one path (Linux scsi/sg.h, sg_io_hdr v3)."""

from __future__ import annotations

import ctypes
import fcntl
import os
from pathlib import Path

from .sense import Reply

SG_IO, SG_SCSI_RESET = 0x2285, 0x2284
_RESET_DEVICE, _DO_NOT_ESCALATE = 1, 0x100
_NONE, _TO_DEVICE, _FROM_DEVICE = -1, -2, -3
_SENSE = 96


class _Header(ctypes.Structure):
    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


class SgIo:
    """One path. Opened for reading, which is enough for who has CAP_SYS_RAWIO, and so that closing it does not make
    udev look at the disk again."""

    def __init__(self, device: Path) -> None:
        """Raises OSError."""
        self._descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def execute(self, command: bytes, out: bytes, room: int, timeout: float) -> Reply:
        """Send `out`, or receive at most `room` bytes. Blocks: the kernel gives the command up after `timeout` seconds,
        and may then need some more for its error handling. Raises OSError: it could not be sent."""
        data = ctypes.create_string_buffer(out, len(out)) if out else ctypes.create_string_buffer(room or 1)
        sense = ctypes.create_string_buffer(_SENSE)
        text = ctypes.create_string_buffer(command, len(command))
        header = _Header(
            interface_id=ord("S"),
            dxfer_direction=_TO_DEVICE if out else _FROM_DEVICE if room else _NONE,
            cmd_len=len(command),
            mx_sb_len=_SENSE,
            dxfer_len=len(out) or room,
            dxferp=ctypes.addressof(data),
            cmdp=ctypes.addressof(text),
            sbp=ctypes.addressof(sense),
            timeout=max(1, int(timeout * 1000)),
        )
        fcntl.ioctl(self._descriptor, SG_IO, header)
        received = b"" if out else data.raw[: max(0, room - max(0, header.resid))]
        return Reply(
            header.status, header.host_status, header.driver_status, sense.raw[: header.sb_len_wr], received
        )

    def reset(self) -> None:
        """Reset the logical unit, and nothing more than that: ends every task in it. Blocks. Raises OSError."""
        fcntl.ioctl(self._descriptor, SG_SCSI_RESET, ctypes.c_int(_RESET_DEVICE | _DO_NOT_ESCALATE))

    def close(self) -> None:
        """May be repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
