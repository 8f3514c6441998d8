"""Taking a disk for one term: register, preempt every lower term, reserve; and what has to be true afterwards.

The order is what makes it safe, whatever other nodes do meanwhile and wherever this one stands still:
- Nothing is changed while a key is there that forbids it (a higher term, or one that is not this cluster's).
- Who comes to register late finds the higher term and withdraws; whoever holds the disk finds a lower term's key that
  came back, and preempts it again.
- Only keys of a lower term of this cluster are preempted, each by its own number: a command of an old term that is
  carried out late finds either its own registration gone, or a key that was to go anyway.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from btw_core import Failed

from . import key as keys
from .cdb import OF_ALL, Kind, Reservation
from .key import Key
from .path import Conflict, PrPath, Refused, Trouble, Unreachable

#: Keys may come back while others are preempted; so often is looked again.
ROUNDS = 5
T = TypeVar("T")


class Terms(NamedTuple):
    """Under which a disk is taken. `known`: names of nodes, for messages."""

    key: Key
    kind: Kind
    force: bool = False
    plain: bool = False
    known: tuple[str, ...] = ()

    @property
    def own(self) -> int:
        return int(self.key)

    def of(self, number: int) -> str:
        """ "node2, term 7", or the number of a key that is not this cluster's."""
        found = keys.parts(number)
        if found.cluster != self.key.cluster:
            return f"key {keys.shown(number)}, which is not of this cluster"
        return f"node {keys.name(found.node, self.known)}, term {found.term}"

    def sorted(self, found: Iterable[int]) -> tuple[set[int], set[int], set[int]]:
        """Of the keys that are not ours: those of lower terms, those of higher ones, those of others."""
        lower, higher, strange = set[int](), set[int](), set[int]()
        for number in set(found) - {self.own}:
            its = keys.parts(number)
            if its.cluster != self.key.cluster:
                strange.add(number)
            else:
                (lower if its.term < self.key.term else higher).add(number)
        return lower, higher, strange

    def holds(self, found: Reservation | None) -> bool:
        """The reservation is of our kind, and ours."""
        return found is not None and found.kind == self.kind and (self.kind in OF_ALL or found.key == self.own)


class Taking:
    """`paths` of one logical unit that are alive; one that answers no more is left out. `log` takes a line. Every
    method blocks on the disk and raises Failed."""

    def __init__(self, wwid: str, paths: Sequence[PrPath], terms: Terms, log: Callable[[str], None]) -> None:
        self.wwid, self.terms, self._log = wwid, terms, log
        self._paths = list(paths)

    @property
    def registered(self) -> list[str]:
        """Addresses of the paths that are ours once it is taken."""
        return [path.address for path in self._paths]

    def take(self) -> None:
        """May be repeated."""
        try:
            self._admit()
            self._register()
            self._preempt()
            self._reserve()
            self._verify()
        except Trouble as trouble:
            with contextlib.suppress(Trouble):
                self._give_way()  # that another has it by now says more
            raise Failed(f"{trouble}; the disk is {self.wwid}") from trouble

    def still_ours(self) -> bool:
        """Some path shows our key holding: only then may another path be registered that has come back."""
        try:
            return self._any(lambda path: self.terms.own in path.keys().keys) and self.terms.holds(
                self._any(PrPath.reservation)
            )
        except Trouble as trouble:
            raise Failed(str(trouble)) from trouble

    def give_back(self) -> None:
        """Release the reservation, and withdraw every key of ours. Somebody else's is left alone."""
        def ours() -> bool:
            return self._any(lambda path: self.terms.own in path.keys().keys)

        try:
            if not ours():
                return
            self._each(lambda path: self._quietly(lambda: path.release(self.terms.own, self.terms.kind)))
            self._each(lambda path: self._quietly(lambda: path.unregister(self.terms.own)))
            left = ours()
        except Trouble as trouble:
            raise Failed(str(trouble)) from trouble
        if left:
            raise Failed(f"{self.wwid}: a registration of this node is left, on a path that does not answer")

    # ---- steps
    def _admit(self) -> None:
        """Before anything is changed."""
        _, higher, strange = self.terms.sorted(self._any(lambda path: path.keys().keys))
        self._refuse(higher, strange)

    def _refuse(self, higher: set[int], strange: set[int]) -> None:
        if higher:
            raise Failed(
                f"superseded: {self.wwid} is registered by {self._words(higher)}, and this is term "
                f"{self.terms.key.term}; if the lock was set up anew since, and that node is down: "
                "btw scsi-pr clear --force DEVICE"
            )
        if strange and not self.terms.force:
            raise Failed(
                f"{self.wwid} is registered with {self._words(strange)}: make sure that nobody else uses this disk, "
                "then `force = true`, or once: btw scsi-pr clear --force DEVICE"
            )

    def _register(self) -> None:
        persist = self._any(PrPath.capabilities)
        self._each(lambda path: self._register_one(path, persist is not None and persist.persists))

    def _register_one(self, path: PrPath, persist: bool) -> None:
        try:
            path.register(self.terms.own, persist=persist)
        except Refused as refused:
            if not persist:
                raise
            self._log(f"{refused}; registered so that it does not outlive a loss of power of the disk")
            path.register(self.terms.own, persist=False)

    def _preempt(self) -> None:
        for _ in range(ROUNDS):
            lower, higher, strange = self.terms.sorted(self._any(lambda path: path.keys().keys))
            if higher or (strange and not self.terms.force):
                self._withdraw()
                self._refuse(higher, strange)
            if not lower and not strange:
                return
            for number in sorted(lower | strange):
                self._any(lambda path, number=number: self._preempt_one(path, number))  # type: ignore[misc]
                self._log(f"{self.wwid}: preempted {self.terms.of(number)}")
        raise Failed(f"{self.wwid}: {self._words(lower | strange)} registers again whenever it is preempted")

    def _preempt_one(self, path: PrPath, number: int) -> None:
        """A conflict is settled by looking again: the key has gone by itself, or so has ours."""
        own, kind = self.terms.own, self.terms.kind
        try:
            path.preempt(own, number, kind, abort=True)
        except Conflict:
            return
        except Refused as refused:
            if not refused.unsupported:
                raise
            self._preempt_plainly(path, number)

    def _preempt_plainly(self, path: PrPath, number: int) -> None:
        """The disk cannot abort what the former holder has queued there: a reset of the logical unit does."""
        try:
            path.preempt(self.terms.own, number, self.terms.kind, abort=False)
        except Conflict:
            return
        try:
            path.reset()
        except Refused as refused:
            if not self.terms.plain:
                raise Failed(
                    f"{self.wwid} knows no PREEMPT AND ABORT, and {refused}: writes of {self.terms.of(number)} that "
                    "the disk has queued may still be carried out; accept_plain_preempt = true takes that chance"
                ) from refused
            self._log(f"{self.wwid}: preempted without abort; writes that the disk has queued may still be carried out")

    def _give_way(self) -> None:
        """To a higher term."""
        _, higher, _ = self.terms.sorted(self._any(lambda path: path.keys().keys))
        if higher:
            self._withdraw()
            self._refuse(higher, set())

    def _withdraw(self) -> None:
        """Registered too late. The reservation is not given up: without one nobody would be shut out."""
        if self.terms.holds(self._any(PrPath.reservation)) and self.terms.kind not in OF_ALL:
            return
        self._each(lambda path: self._quietly(lambda: path.unregister(self.terms.own)))

    def _reserve(self) -> None:
        own, kind = self.terms.own, self.terms.kind
        found = self._any(PrPath.reservation)
        if found is None:
            self._any(lambda path: path.reserve(own, kind))
        elif not self.terms.holds(found):
            # of another kind, by us alone: preempting oneself changes it in one step (SPC-4 5.13.11.4.3)
            other = 0 if found.kind in OF_ALL else own
            self._any(lambda path: path.preempt(own, other, kind, abort=False))
            self._register()  # only the path that did so is registered now

    def _verify(self) -> None:
        """On every path: they may lead to different controllers of the disk."""
        self._give_way()

        def check(path: PrPath) -> None:
            there = path.keys().keys
            found = path.reservation()
            missing = len(self._paths) - there.count(self.terms.own)
            strange = set(there) - {self.terms.own}
            if strange or missing > 0 or not self.terms.holds(found):
                keyed = ", ".join(sorted(keys.shown(each) for each in there)) or "none"
                held = f"{keys.shown(found.key)}, type {found.kind}" if found else "nobody"
                raise Failed(
                    f"{path.name}: taken, but it shows keys {keyed} (wanted: {keys.shown(self.terms.own)} on "
                    f"{len(self._paths)} paths) and holder {held}; see btw scsi-pr show"
                )

        self._each(check)

    # ---- paths
    def _any(self, do: Callable[[PrPath], T]) -> T:
        """On the first path that answers."""
        while True:
            path = self._first()
            try:
                return do(path)
            except Unreachable as lost:
                self._lose(path, lost)

    def _each(self, do: Callable[[PrPath], object]) -> None:
        for path in list(self._paths):
            try:
                do(path)
            except Unreachable as lost:
                self._lose(path, lost)
        self._first()

    def _first(self) -> PrPath:
        if not self._paths:
            raise Failed(f"{self.wwid}: no path answers")
        return self._paths[0]

    def _lose(self, path: PrPath, lost: Unreachable) -> None:
        self._log(f"{lost}; going on without this path")
        self._paths.remove(path)

    def _quietly(self, do: Callable[[], None]) -> None:
        with contextlib.suppress(Conflict, Refused):  # not ours, or not any more: what is there is looked at afterwards
            do()

    def _words(self, numbers: Iterable[int]) -> str:
        return " and ".join(self.terms.of(number) for number in sorted(numbers))
