"""What keeper and manager of a slot know of each other: RUN/NODE/SLOT.pulse, a file that both have mapped.

One half is the manager's, one the keeper's. Each half has two places, written in turn: a write that was torn (its
writer was killed in the midst of it) leaves the other place. A place is a sequence number, a length, a checksum of all
of it, and JSON. Reading and writing touch memory only; RUN is a tmpfs(5) on any usual computer.

Standard library only: the keeper imports it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

#: In a manager's environment: the command of its keeper, as JSON.
KEEPER = "BTW_KEEPER"
#: In a zygote's environment: the path of its manager's pulse.
PULSE = "BTW_PULSE"
#: Seconds after which a keeper that has not beaten counts as gone.
STALE = 2.0

_HEADER = struct.Struct("<QII")  # sequence number, length, checksum
_PLACE = 64 * 1024
#: Bytes of the JSON of a half: some 600 packages.
LARGEST = _PLACE - _HEADER.size
SIZE = 4 * _PLACE
_TRIES = 4  # a reader may come across a writer


class Held(Exception):
    """Another keeper has the slot; `pid` is its process, 0 where it has not said so yet."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"pid {pid}" if pid else "another process")
        self.pid = pid


class ManagerHalf(NamedTuple):
    """The manager's half. Instants are on CLOCK_BOOTTIME."""

    pid: int = 0
    start: int = 0  # field 22 of /proc/PID/stat
    beat: float = 0.0
    stall: float = STALE  # seconds without a beat after which it counts as stalled
    home: str = ""  # what marks the processes of its operations,
    cgroup: str = ""  # and the directory below which they live, see `containment`
    fence: str = "none"  # the self_fence that it promises to others
    ready: bool = False  # it answers, and can be told to halt
    ended: int | None = None  # its exit code, written last
    said: str = ""  # a line about its packages
    leases: Mapping[str, tuple[float, float]] = {}  # package that may be up -> lost_at, hard
    #: Package whose lock is held -> its term, and the instant before which an effect may begin. None: not said.
    locks: Mapping[str, tuple[int, float]] | None = None


class KeeperHalf(NamedTuple):
    """The keeper's half."""

    pid: int = 0
    start: int = 0
    beat: float = 0.0
    window: float = 0.0  # W; 0 without a watchdog
    served: bool = False  # a service manager starts another keeper when this one ends


_Half = TypeVar("_Half", ManagerHalf, KeeperHalf)
_FIRST = {ManagerHalf: 0, KeeperHalf: 2}  # number of the half's first place


class Pulse:
    """An open pulse. What was written in another boot counts as nothing: nothing is up after a reboot."""

    def __init__(self, path: Path, descriptor: int, boot: str, access: int = mmap.ACCESS_DEFAULT) -> None:
        """`descriptor` is given away. Raises ValueError: the file is too short."""
        self.path, self.descriptor, self._boot = path, descriptor, boot
        if os.fstat(descriptor).st_size < SIZE:
            os.close(descriptor)
            raise ValueError(f"{path} is too short for a pulse")
        self._map = mmap.mmap(descriptor, SIZE, access=access)
        self._next = {half: self._highest(half)[0] + 1 for half in _FIRST}

    @classmethod
    def keep(cls, path: Path, boot: str) -> Pulse:
        """For a keeper: make it where it is missing or too short, and lock it (flock(2)) until it is closed. Children
        and what is executed do not inherit the lock. Does not block but on the directory. Raises Held, OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_size < SIZE:
                    os.ftruncate(descriptor, 0)  # half a pulse is none
                    os.posix_fallocate(descriptor, 0, SIZE)  # a hole on a full disk would be SIGBUS later
            except BlockingIOError:
                os.close(descriptor)
                raise Held(_keeper_of(path, boot)) from None
            except BaseException:  # Ctrl-C included: no lock stays held; raised again
                os.close(descriptor)
                raise
            pulse = cls(path, descriptor, boot)
            if not pulse.gone():
                return pulse
            pulse.close()  # removed since it was opened: the lock on it would shut out nobody

    @classmethod
    def open(cls, path: Path, boot: str) -> Pulse:
        """For a manager, and whoever wants to look. Raises OSError, ValueError (too short)."""
        return cls(path, os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), boot)

    @classmethod
    def look(cls, path: Path, boot: str) -> Pulse:
        """For whoever only reads. Raises OSError, ValueError (too short)."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        return cls(path, os.open(path, flags), boot, mmap.ACCESS_READ)

    def manager(self) -> ManagerHalf | None:
        """None: nothing of this boot can be read."""
        half = self._read(ManagerHalf)
        if half is None:
            return None
        locks = half.locks and {name: (int(a), float(b)) for name, (a, b) in half.locks.items()}
        return half._replace(leases={name: (float(a), float(b)) for name, (a, b) in half.leases.items()}, locks=locks)

    def keeper(self) -> KeeperHalf | None:
        """None: nothing of this boot can be read."""
        return self._read(KeeperHalf)

    def write(self, half: ManagerHalf | KeeperHalf) -> None:
        """Nothing where the file was cut short: touching what is not there would be SIGBUS. Raises ValueError when it
        does not fit."""
        if self._short():
            return
        kind = type(half)
        sequence = self._next[kind]
        data = place(sequence, half._asdict() | {"boot": self._boot})
        begin = (_FIRST[kind] + sequence % 2) * _PLACE
        self._map[begin : begin + len(data)] = data
        self._next[kind] = sequence + 1

    def gone(self) -> bool:
        """Its path does not lead to this file any more, or it was cut short: nobody else sees what is written."""
        try:
            there = self.path.lstat()
        except OSError:  # whatever the reason, others do not get there either
            return True
        return not os.path.samestat(there, os.fstat(self.descriptor)) or self._short()

    def renewed(self) -> Pulse:
        """For a keeper whose pulse is gone: an empty one at its path, locked. Raises Held, OSError."""
        try:
            cut = os.path.samestat(self.path.lstat(), os.fstat(self.descriptor))
        except FileNotFoundError:
            cut = False
        if cut:  # its lock is ours already
            os.ftruncate(self.descriptor, 0)
            os.posix_fallocate(self.descriptor, 0, SIZE)
            return self
        fresh = Pulse.keep(self.path, self._boot)
        self.close()
        return fresh

    def used(self) -> None:
        """Keep those away who remove what nobody has written to for days (systemd-tmpfiles(8)): a write to memory does
        not change the time of the file."""
        os.utime(self.descriptor)

    def close(self) -> None:
        """May be repeated."""
        self._map.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    # ---- inside
    def _read(self, kind: type[_Half]) -> _Half | None:
        said = self._highest(kind)[1]
        if said is None or said.get("boot") != self._boot:
            return None
        return kind(**{key: said[key] for key in kind._fields if key in said})  # another release may say more, or less

    def _highest(self, kind: type[ManagerHalf] | type[KeeperHalf]) -> tuple[int, dict[str, Any] | None]:
        """Sequence number and content of the valid place that was written last; 0 and None where there is none.

        Between the two places the writer may have gone on, and be writing to the second one: the first is the last only
        if it still is when it is read again."""
        best: tuple[int, dict[str, Any] | None] = (0, None)
        for _ in range(_TRIES):
            if self._short():
                break
            views = (self._place(_FIRST[kind] + n) for n in (0, 1))
            valid = [found for view in views if (found := content(view)) is not None]
            before, best = best[0], max((best, *valid), key=lambda found: found[0])
            if len(valid) == 2 or (valid and best[0] == before):
                break
        return best

    def _place(self, number: int) -> bytes:
        """What of it is in use."""
        begin = number * _PLACE
        length: int = _HEADER.unpack_from(self._map, begin)[1]
        return self._map[begin : begin + _HEADER.size + min(length, LARGEST)]

    def _short(self) -> bool:
        return os.fstat(self.descriptor).st_size < SIZE


def place(sequence: int, said: Mapping[str, Any]) -> bytes:
    """The bytes of one place. Raises ValueError when they do not fit."""
    data = json.dumps(said).encode()
    if len(data) > LARGEST:
        raise ValueError(f"{len(data)} bytes for a pulse, at most {LARGEST} fit: run fewer packages in one `btw run`")
    return _HEADER.pack(sequence, len(data), _checksum(sequence, data)) + data


def content(data: bytes) -> tuple[int, dict[str, Any]] | None:
    """Sequence number and what was said; None: torn, or never written."""
    sequence, length, checksum = _HEADER.unpack_from(data)
    said = data[_HEADER.size : _HEADER.size + length]
    if not sequence or len(said) != length or checksum != _checksum(sequence, said):
        return None
    found = json.loads(said)
    return (sequence, found) if isinstance(found, dict) else None


def start_of(pid: int) -> int:
    """Field 22 of /proc/PID/stat, which with the pid names a process for ever; 0: there is none, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def _checksum(sequence: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(struct.pack("<QI", sequence, len(data))))


def _keeper_of(path: Path, boot: str) -> int:
    with contextlib.suppress(OSError, ValueError):  # it is for a message only
        if stat.S_ISREG(path.lstat().st_mode):
            pulse = Pulse.open(path, boot)
            keeper = pulse.keeper()
            pulse.close()
            return keeper.pid if keeper and start_of(keeper.pid) == keeper.start else 0
    return 0
