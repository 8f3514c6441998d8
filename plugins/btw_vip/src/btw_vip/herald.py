"""The herald: a process that `start` leaves behind to send announcements later, until `stop` ends it.

    python -I -S herald.py NAME INTERFACE

It decides nothing. The observer, when the manager asks it how the address is, tells the herald at the abstract socket
NAME what to send now: an instant of CLOCK_BOOTTIME and one frame. What is older than STALE is not sent: a herald that
was frozen sends nothing when it wakes. Runs by itself, with as little of Python as possible: there is one per address.
"""

import _socket as socket  # not `socket`, which costs another megabyte
import errno
import os
import struct
import sys
import time

#: Seconds from the observer's word to the frame.
STALE = 0.5
_INSTANT = struct.Struct("=d")
_CREDENTIALS = struct.Struct("=iII")  # unix(7): pid, uid, gid
_SO_PASSCRED, _SCM_CREDENTIALS = 16, 2


def order(instant: float, frame: bytes) -> bytes:
    """The datagram that makes the herald send `frame`."""
    return _INSTANT.pack(instant) + frame


def wanted(data: bytes, uid: int, now: float) -> bytes:
    """The frame to send now, b"" for none."""
    if uid != os.geteuid() or len(data) <= _INSTANT.size:
        return b""
    (instant,) = _INSTANT.unpack_from(data)
    return data[_INSTANT.size :] if 0 <= now - instant <= STALE else b""


def main(name: str, interface: str) -> None:
    """Does not return."""
    ears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ears.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
    ears.bind("\0" + name)
    while True:
        data, extra, *_ = ears.recvmsg(2048, socket.CMSG_SPACE(_CREDENTIALS.size))
        uid = next((_CREDENTIALS.unpack(given)[1] for _, kind, given in extra if kind == _SCM_CREDENTIALS), -1)
        frame = wanted(data, uid, time.clock_gettime(time.CLOCK_BOOTTIME))
        if frame:
            send(interface, frame)


def send(interface: str, frame: bytes) -> None:
    """Once, if the interface is up. The socket is not kept: closing it takes the kernel some ms, and `stop` waits for
    the end of this process."""
    mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        mouth.bind((interface, 0))
        mouth.send(frame)
    except OSError as error:
        if error.errno not in (errno.ENETDOWN, errno.ENOBUFS, errno.ENXIO, errno.ENODEV):  # the next may get through
            raise
    finally:
        mouth.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
