"""Messages between manager, zygote, operations and observer: one JSON text per packet of a SOCK_SEQPACKET pair.

A packet arrives whole or not at all (unix(7)), so several operations may share one sending end. What is too large for a
socket buffer travels as a memory file whose descriptor the packet carries (memfd_create(2), SCM_RIGHTS).
"""

from __future__ import annotations

import array
import os
import select
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from .clock import boottime
from .cluster import Rules
from .ports import Look, Looked, Operation
from .resource import Problem
from .types import PackageSpec

M = TypeVar("M")

#: Bytes of a packet that go through the socket itself; a default socket buffer holds three of them.
INLINE = 64 * 1024
#: Bytes of the largest message; a larger one is a defect and raises ValueError.
LARGEST = 16 * 1024 * 1024
#: Characters of one text (error, line) in a message.
TEXT = 2000
_ELSEWHERE = b"@"  # the message is in the memory file that came along; no JSON object begins so


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all messages; the class name is the tag."""


# ---- manager to zygote ------------------------------------------------------------------------------------------
class Operate(Message, frozen=True, kw_only=True):
    operation: Operation


class Prepare(Message, frozen=True, kw_only=True):
    """Fork what will be the operation of this id, and let it wait for that; "" = nothing more. One for each package."""

    package: str
    id: str


class Kill(Message, frozen=True, kw_only=True):
    """End a running operation with everything it started. Unknown ids are ignored: it has ended in the meantime."""

    id: str


class Reap(Message, frozen=True, kw_only=True):
    """End what an operation of a former zygote has left running."""

    id: str


class Observe(Message, frozen=True, kw_only=True):
    """Fork an observer on the socket that comes along."""

    number: int


class EndObserver(Message, frozen=True, kw_only=True):
    number: int


class Ping(Message, frozen=True, kw_only=True):
    """Also to the observer. Answered by Pong from the main thread."""


# ---- manager to observer ----------------------------------------------------------------------------------------
class Ask(Message, frozen=True, kw_only=True):
    look: Look


class Watch(Message, frozen=True, kw_only=True):
    package: str
    term: int
    state: dict[str, dict[str, Any]]


class Unwatch(Message, frozen=True, kw_only=True):
    package: str


class Happened(Message, frozen=True, kw_only=True):
    """A journal event for the hooks."""

    event: dict[str, Any]


# ---- to the manager ---------------------------------------------------------------------------------------------
class Loaded(Message, frozen=True, kw_only=True):
    """The zygote is ready. `problems`: what was wrong with other packages and with plugins. For a daemon: `rules` of
    all packages, also those of other nodes, `digests` of its own."""

    packages: tuple[PackageSpec, ...] = ()
    problems: tuple[Problem, ...] = ()
    rules: dict[str, Rules] = {}
    digests: dict[str, dict[str, str]] = {}


class Result(Message, frozen=True, kw_only=True):
    """From an operation, right before it exits; counts only once it has exited."""

    id: str
    error: str = ""  # "" = ok
    state: dict[str, Any] | None = None
    survivors: tuple[str, ...] = ()
    everywhere: bool = False  # a start failed for every node


class Exited(Message, frozen=True, kw_only=True):
    """The operation's process is gone; where it was killed or ended badly, everything in its place as well."""

    id: str
    cause: str = ""  # "exit code 3", "killed by SIGKILL"; "" = it delivered its result and exited
    killed: bool = False  # by order
    swept: bool = False  # see `OperationEnded`


class ObserverEnded(Message, frozen=True, kw_only=True):
    number: int
    cause: str


class Stuck(Message, frozen=True, kw_only=True):
    """From an observer that wants to be replaced."""

    cause: str


class Answer(Message, frozen=True, kw_only=True):
    looked: Looked


class Line(Message, frozen=True, kw_only=True):
    package: str
    resource: str
    text: str


class Pong(Message, frozen=True, kw_only=True):
    pass


ToZygote = Operate | Prepare | Kill | Reap | Observe | EndObserver | Ping
ToObserver = Ask | Watch | Unwatch | Happened | Ping
ToManager = Loaded | Result | Exited | ObserverEnded | Stuck | Answer | Line | Pong

TO_ZYGOTE = msgspec.json.Decoder(ToZygote)
TO_OBSERVER = msgspec.json.Decoder(ToObserver)
TO_MANAGER = msgspec.json.Decoder(ToManager)


def bounded(text: str, limit: int = TEXT) -> str:
    """Cut to `limit` characters and made encodable (undecodable bytes of file names become "?")."""
    return (text if len(text) <= limit else text[: limit - 1] + "…").encode(errors="replace").decode()


class Packet(NamedTuple):
    """What goes through the socket; `descriptors` belong to the packet and are closed with it."""

    data: bytes
    descriptors: tuple[int, ...] = ()

    def send(self, channel: socket.socket) -> None:
        """Hand it to the kernel at once. Raises BlockingIOError (then it is still to be sent), OSError."""
        rights = array.array("i", self.descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if self.descriptors else []
        # not socket.send_fds and recv_fds: Python's ignore their flags, and so would block
        channel.sendmsg([self.data], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        self.close()

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


def pack(message: Message, descriptor: int | None = None) -> Packet:
    """`descriptor` goes along and is the packet's from now on (small messages only). Raises ValueError when the
    message is larger than LARGEST, TypeError when it holds what JSON cannot."""
    data = msgspec.json.encode(message)
    if descriptor is not None:
        return Packet(data, (descriptor,))
    if len(data) <= INLINE:
        return Packet(data)
    if len(data) > LARGEST:
        raise ValueError(f"{type(message).__name__} of {len(data)} bytes, at most {LARGEST} can be sent")
    file = os.memfd_create("btw-message")
    with open(file, "wb", closefd=False) as writer:
        writer.write(data)
    return Packet(_ELSEWHERE, (file,))


def send(channel: socket.socket, message: Message, seconds: float) -> bool:
    """Blocks at most `seconds`. False: the other side did not read in time. Raises OSError when it is gone."""
    packet, end = pack(message), boottime() + seconds
    writable = select.poll()
    writable.register(channel, select.POLLOUT)
    while True:
        try:
            packet.send(channel)
            return True
        except BlockingIOError:
            if boottime() >= end:
                packet.close()
                return False
            writable.poll(max(0.0, end - boottime()) * 1000)


class Closed(Exception):
    """The other side is gone."""


def receive(channel: socket.socket, decoder: msgspec.json.Decoder[M]) -> tuple[M, Sequence[int]]:
    """The next message and the descriptors that came along, which are the caller's. Does not block: raises
    BlockingIOError when there is none, Closed at the end, ValueError for what is no message."""
    descriptors = array.array("i")
    room = socket.CMSG_SPACE(descriptors.itemsize)
    try:
        data, ancillary, _, _ = channel.recvmsg(INLINE, room, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    except ConnectionError as error:  # it was closed with unread messages
        raise Closed from error
    for _, _, rights in ancillary:
        descriptors.frombytes(rights)
    if not data:
        raise Closed
    if data == _ELSEWHERE and descriptors:
        with open(descriptors[0], "rb") as file:
            file.seek(0)
            return decoder.decode(file.read(LARGEST)), ()
    return decoder.decode(data), tuple(descriptors)
