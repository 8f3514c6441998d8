"""A disk with persistent reservations, as SPC-4 5.13 has them, to which paths (nexuses) of several nodes lead."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from btw_scsi_pr.cdb import OF_ALL, In, Out
from btw_scsi_pr.path import PrPath, Transport
from btw_scsi_pr.sense import CHECK_CONDITION, CONFLICT, GOOD, Reply

OK = Reply(GOOD)
REFUSED = Reply(CONFLICT)
ATTENTION = Reply(CHECK_CONDITION, sense=bytes([0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x2A, 0x05, 0, 0, 0, 0]))


def illegal(code: int) -> Reply:
    """Illegal request, with this additional sense code."""
    return Reply(CHECK_CONDITION, sense=bytes([0x72, 5, code, 0, 0, 0, 0, 0]))


class Killed(BaseException):
    """Whoever sent the command is gone before or after it."""


@dataclass
class Disk:
    """`hook(nexus, action)` is called before each command, and may answer in its place, or raise."""

    aborts: bool = True
    persists: bool = True
    resets: bool = True
    registered: dict[str, int] = field(default_factory=dict)  # nexus -> key
    holder: str = ""  # nexus; any registrant where the kind is of all
    kind: int = 0
    generation: int = 0
    attention: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)  # nexuses without a connection
    log: list[str] = field(default_factory=list)
    hook: Callable[[str, In | Out], Reply | None] = lambda nexus, action: None

    # ---- what a node sees
    def path(self, nexus: str, *, before: Callable[[], None] = lambda: None) -> PrPath:
        return PrPath(nexus, nexus, self.transport(nexus), timeout=1.0, before=before, pause=lambda _seconds: None)

    def transport(self, nexus: str) -> Transport:
        return Nexus(self, nexus)

    def takes_write(self, nexus: str) -> bool:
        """A write on this path reaches the disk."""
        if not self.reserved:
            return True
        if self.kind in (1, 3):
            return nexus == self.holder
        return nexus in self.registered

    @property
    def reserved(self) -> bool:
        return bool(self.holder) or (self.kind in OF_ALL and bool(self.registered))

    @property
    def keys(self) -> list[int]:
        return sorted(self.registered.values())

    # ---- commands
    def execute(self, nexus: str, command: bytes, out: bytes) -> Reply:
        action: In | Out = In(command[1] & 31) if command[0] == 0x5E else Out(command[1] & 31)
        if nexus in self.cut:
            return Reply(GOOD, host=0x0F)
        if (answer := self.hook(nexus, action)) is not None:
            return answer
        if nexus in self.attention:
            self.attention.discard(nexus)
            return ATTENTION
        if isinstance(action, In):
            return Reply(GOOD, data=self._said(action))
        own, other, flags = struct.unpack(">QQ4xB3x", out)
        self.log.append(f"{nexus}: {action.words} {own:x} {other:x}")
        return self._changed(nexus, action, command[2] & 15, own, other, bool(flags & 1))

    def _said(self, action: In) -> bytes:
        key = 0 if self.kind in OF_ALL else self.registered.get(self.holder, 0)
        match action:
            case In.READ_KEYS:
                body = b"".join(struct.pack(">Q", each) for each in self.registered.values())
            case In.READ_RESERVATION:
                body = struct.pack(">Q4xxB2x", key, self.kind) if self.reserved else b""
            case In.REPORT_CAPABILITIES:
                return bytes([0, 8, int(self.persists), 0x80, 0xEA, 1, 0, 0])
            case In.READ_FULL_STATUS:
                body = b"".join(self._line(*each) for each in self.registered.items())
        return struct.pack(">II", self.generation, len(body)) + body

    def _line(self, nexus: str, key: int) -> bytes:
        holds = self.reserved and (nexus == self.holder or self.kind in OF_ALL)
        transport = bytes([0x05, 0, 0, len(nexus) + 1]) + nexus.encode() + b"\0"
        return struct.pack(">Q4xBB4xHI", key, int(holds), self.kind if holds else 0, 1, len(transport)) + transport

    def _changed(self, nexus: str, action: Out, kind: int, own: int, other: int, persist: bool) -> Reply:
        mine = self.registered.get(nexus, 0)
        if action is Out.REGISTER_AND_IGNORE or action is Out.REGISTER:
            if action is Out.REGISTER and own != mine:
                return REFUSED
            if persist and not self.persists:
                return illegal(0x26)
            self._register(nexus, other)
            return OK
        if not mine or own != mine:
            return REFUSED
        match action:
            case Out.RESERVE:
                if self.reserved and (not self._holds(nexus) or kind != self.kind):
                    return REFUSED
                self.holder, self.kind = nexus, kind
            case Out.RELEASE:
                if self.reserved and self._holds(nexus):
                    if kind != self.kind:
                        return illegal(0x26)
                    self._free()
            case Out.CLEAR:
                self.registered.clear()
                self._free()
                self.generation += 1
            case Out.PREEMPT | Out.PREEMPT_AND_ABORT:
                if action is Out.PREEMPT_AND_ABORT and not self.aborts:
                    return illegal(0x20)
                return self._preempt(nexus, kind, other)
        return OK

    def _register(self, nexus: str, key: int) -> None:
        self.generation += 1
        if key:
            self.registered[nexus] = key
        elif nexus in self.registered:
            del self.registered[nexus]
            if self.holder == nexus and (self.kind not in OF_ALL or not self.registered):
                self._free()

    def _preempt(self, nexus: str, kind: int, other: int) -> Reply:
        of_all = self.reserved and self.kind in OF_ALL
        gone = [each for each, key in self.registered.items() if key == other or (of_all and other == 0)]
        holds = self.reserved and not of_all and self.registered.get(self.holder) == other
        if not gone:
            return REFUSED
        for each in gone:
            if each != nexus:
                del self.registered[each]
                self.attention.add(each)
        if holds or (of_all and other == 0):
            self.holder, self.kind = nexus, kind
        self.generation += 1
        return OK

    def _holds(self, nexus: str) -> bool:
        return nexus == self.holder or (self.kind in OF_ALL and nexus in self.registered)

    def _free(self) -> None:
        self.holder, self.kind = "", 0


@dataclass
class Nexus:
    """`path.Transport` on the disk."""

    disk: Disk
    name: str

    def execute(self, command: bytes, out: bytes, room: int, timeout: float) -> Reply:
        return self.disk.execute(self.name, command, out)

    def reset(self) -> None:
        if not self.disk.resets:
            raise OSError(95, "Operation not supported")
        self.disk.log.append(f"{self.name}: reset")

    def close(self) -> None:
        return
