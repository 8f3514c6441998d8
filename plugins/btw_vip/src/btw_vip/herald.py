"""The herald: a process that `start` leaves behind to send announcements later, until `stop` ends it.

    python -I -S herald.py NAME INTERFACE

It decides nothing. The observer, when the manager asks it how the address is, tells the herald at the abstract socket
NAME what to send now: an instant of CLOCK_BOOTTIME and one frame. What is older than STALE is not sent: a herald that
was frozen sends nothing when it wakes. Runs by itself, with as little of Python as possible: there is one per address.

Most of them are no program of their own: a start asks any herald that it finds for a `twin`, a fork that shares nearly
all of its memory, in the place of the start's operation. From then on the two have nothing to do with each other.
"""

import _signal as signal  # type: ignore[import-not-found]
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
_TWIN = b"\xff" * 8  # instead of an instant; as one it is no number


def order(instant: float, frame: bytes) -> bytes:
    """The datagram that makes the herald send `frame`."""
    return _INSTANT.pack(instant) + frame


def request(instant: float, name: str, interface: str, place: str) -> bytes:
    """The datagram that makes it fork a herald that listens at NAME, in the cgroup whose directory is `place`."""
    return _TWIN + order(instant, "\0".join((name, interface, place)).encode())


def ears(name: str) -> socket.socket:
    """A socket that says who has sent what it gets; `name` "": the kernel chooses one (unix(7), autobind)."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    made.setsockopt(socket.SOL_SOCKET, _SO_PASSCRED, 1)
    made.bind("\0" + name if name else "")
    return made


def heard(listening: socket.socket) -> "tuple[bytes, int, int, bytes]":
    """What comes next: the datagram, pid and user of its sender (0 and -1: nobody knows), and where to answer."""
    data, extra, _, sender = listening.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
    pid, uid = next((_CREDENTIALS.unpack(given)[:2] for _, kind, given in extra if kind == _SCM_CREDENTIALS), (0, -1))
    return data, pid, uid, sender


def wanted(data: bytes, uid: int, now: float) -> bytes:
    """The frame to send now, b"" for none."""
    if uid != os.geteuid() or len(data) <= _INSTANT.size:
        return b""
    (instant,) = _INSTANT.unpack_from(data)
    return data[_INSTANT.size :] if 0 <= now - instant <= STALE else b""


def main(name: str, interface: str) -> None:
    """Does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # twins end by themselves, and are not waited for
    mine = ears(name)
    while True:
        data, _, uid, sender = heard(mine)
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if data.startswith(_TWIN):
            asked = wanted(data[len(_TWIN) :], uid, now)
            if asked and forked():
                mine.close()
                interface, mine = twin(asked, sender)
            continue
        frame = wanted(data, uid, now)
        if frame:
            send(interface, frame)


def forked() -> bool:
    """True in the fork."""
    try:
        return os.fork() == 0
    except OSError:  # no room for another process: who asked will find another way
        return False


def twin(asked: bytes, sender: bytes) -> "tuple[str, socket.socket]":
    """In the fork: first into its place, and only then there for anybody. Returns its interface and ears."""
    name, interface, place = asked.decode().split("\0")
    os.setsid()
    with open(place + "/cgroup.procs", "w") as members:
        members.write("0")
    nowhere = os.open("/dev/null", os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    os.close(nowhere)
    made = ears(name)
    made.sendto(b"twin", sender)
    return interface, made


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
