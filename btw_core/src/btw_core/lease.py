"""The rules of the lease: what the records say, and who may take a package. Pure; the same for every store.

Instants are on this node's own clock; a stand-by compares only its own instants with each other, and the lease length
in the record already allows for clocks that run apart (timing.Timing.grace).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from .types import Incarnation

CLUSTER_KEY = "cluster"
SESSIONS = "sessions/"
PACKAGES = "packages/"
#: More terms than a package goes through while a backup of the store is of use.
AHEAD = 10_000


class ClusterRecord(msgspec.Struct, frozen=True, kw_only=True):
    """There is a cluster: an absent package record therefore means that something was lost."""

    id: str
    name: str
    by: Incarnation | None = None


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A living node: seq counts attempts to renew, so that a record read back names the attempt."""

    incarnation: Incarnation
    seq: int
    ended: bool = False


class PackageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a package. Never deleted; free is said with `released`."""

    term: Annotated[int, Meta(ge=0)]
    lease: Annotated[float, Meta(gt=0)]  # L in seconds: what a stand-by has to wait
    holder: Incarnation | None = None
    released: bool = False
    orderly: bool = False  # with `released`: it was up there, and was halted, by nothing that had failed
    unfenced: tuple[Incarnation, ...] = ()  # former holders that nobody has yet seen down
    off: dict[str, str] = {}  # node -> why it does not take part
    macs: dict[str, tuple[str, ...]] = {}  # node that holds or has held it -> its Ethernet addresses then
    cause: str = ""  # of the last change

    def held_by(self, life: Incarnation) -> bool:
        """The lock is that very life's; one that was given back is nobody's."""
        return not self.released and self.holder is not None and self.holder.nonce == life.nonce


R = TypeVar("R")


class DamagedRecord(Exception):
    """A record that cannot be read: cannot tell."""


def encode(record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(record)


def decode(kind: type[R], key: str, value: bytes) -> R:
    """The record of that kind. Raises DamagedRecord."""
    try:
        record: R = _decoded(kind, value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:  # the two others come from msgspec too
        raise DamagedRecord(f"record {key} in the store cannot be read: {error}") from error
    return record


#: Most of what is read at each pace was read before.
_decoded: Callable[..., Any] = lru_cache(4096)(lambda kind, value: msgspec.json.decode(value, type=kind))


def session_of(node: str, slot: str) -> str:
    return f"{SESSIONS}{node}/{slot}"


def session_key(incarnation: Incarnation) -> str:
    return session_of(incarnation.node, incarnation.slot)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """All records as they were at one instant between `sent` and `received`."""

    sent: float
    received: float
    packages: dict[str, tuple[int, PackageRecord]]
    sessions: dict[str, tuple[int, SessionRecord]]  # by session key

    def longest(self, own: float) -> float:
        """The largest lease anybody here may be relying on."""
        return max([own, *(record.lease for _, record in self.packages.values())])


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A holder's sign of life, and since when (time of receipt) it has not changed."""

    sign: tuple[int | str, ...]
    since: float


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What a stand-by may do now. `take` is to be written at revision `expected` (None: absent), and nothing else."""

    sighting: Sighting
    cause: str
    take: PackageRecord | None = None
    expected: int | None = None
    adopted: bool = False
    wait: float = 0.0  # seconds from the sighting on


def sight(sighting: Sighting | None, sign: tuple[int | str, ...], received: float) -> Sighting:
    """The sighting goes on while the sign stays the same, and starts anew otherwise."""
    return sighting if sighting is not None and sighting.sign == sign else Sighting(sign=sign, since=received)


def sign_of_life(view: View, holder: Incarnation) -> int | str:
    """The holder's seq; "replaced" or "absent" when its session slot is another's or gone (it cannot renew again)."""
    found = view.sessions.get(session_key(holder))
    if found is None:
        return "absent"
    record = found[1]
    if record.incarnation.nonce != holder.nonce:
        return "replaced"
    return "ended" if record.ended else record.seq


def heard(
    sighting: Sighting | None, revision: int, record: PackageRecord, key: str, session: SessionRecord, received: float
) -> Sighting | None:
    """The holder's sign of life came by the watch, before a reading showed it: its silence counts from then on. What
    is judged by other signs goes on as it was; so does a record below the floor, whose sign has a third part."""
    holder = record.holder
    if holder is None or record.released or session_key(holder) != key:
        return sighting
    if session.ended or session.incarnation.nonce != holder.nonce:
        return sighting
    if sighting is None or sighting.sign[0] != revision or not isinstance(sighting.sign[1], int):
        return sighting
    return sight(sighting, (revision, session.seq, *sighting.sign[2:]), received)


def gone_by_reboot(former: Incarnation, known: Incarnation) -> bool:
    """`known` lives on the same computer in another boot: `former` and all that it did are gone."""
    return former.machine == known.machine and former.boot != known.boot


def same_boot(one: Incarnation, other: Incarnation) -> bool:
    """Both live on the same computer at the same time."""
    return (one.machine, one.boot) == (other.machine, other.boot)


def rebooted(view: View, former: Incarnation) -> bool:
    """A life in another boot has followed in the very session slot of `former`: what it did is gone.

    Boots have no order of their own: a session elsewhere on that computer may be the older one, never ended. But a
    slot passes from life to life by compare-and-swap, so another life in it came later.
    """
    found = view.sessions.get(session_key(former))
    return found is not None and gone_by_reboot(former, found[1].incarnation)


def fences_itself(former: Incarnation, me: Incarnation) -> bool:
    """`former` lives elsewhere and has promised to be down when a lease L has passed without a renewal. Whoever owes a
    fence debt was silent for L when it was written down. What lives on this computer is looked at instead."""
    return former.self_fence != "none" and not same_boot(former, me)


def judge(
    view: View,
    name: str,
    me: Incarnation,
    sighting: Sighting | None,
    *,
    floor: int,
    lease: float,
    recheck: float = 0.0,
    predecessors: Iterable[Incarnation] = (),
) -> Judgement:
    """May `me`, which holds nothing of `name` and has it verified down, take it now?

    `floor`: highest term this node has ever seen of it. `lease`: L of this node's own timing. `recheck`: how long
    another boot of this computer must be silent to count as over (`Session.seen`). `predecessors`: the lives
    of this node's manager that its memory names, in this boot, known to be dead; only they can be adopted.
    """
    found = view.packages.get(name)
    if found is None:
        seen = sight(sighting, ("absent",), view.received)
        wait = view.longest(lease)
        cause = f"no lock record of {name} in a cluster that exists"
        return _ripe(view, seen, wait, cause, _taken(None, me, floor, lease, cause, owing=False), None)
    revision, record = found
    holder = record.holder
    if record.term < floor:
        # the store went back in time: whoever holds the later term may be alive
        # our own renewals are no sign of whoever holds the later term
        others = holder is not None and holder.nonce != me.nonce and not record.released
        life = sign_of_life(view, holder) if holder is not None and others else "nobody"
        seen = sight(sighting, (revision, life, "below floor"), view.received)
        cause = f"the record's term {record.term} is below {floor}, seen here: the store was set back"
        taken = _taken(record, me, floor, lease, cause, owing=not record.released)
        return _ripe(view, seen, view.longest(lease), cause, taken, revision)
    seen = sight(sighting, (revision, sign_of_life(view, holder) if holder else "nobody"), view.received)
    now = None
    if record.released or holder is None:
        now = f"released by {holder.node}" if holder else "free"
    elif holder.nonce == me.nonce:
        now = "an earlier term of this very manager"
    if now is not None:
        taken = _taken(record, me, floor, lease, now, owing=False)
        return Judgement(sighting=seen, cause=now, take=taken, expected=revision)
    assert holder is not None
    if any(holder.nonce == life.nonce for life in predecessors):
        cause = f"adopted from this node's former manager (pid {holder.pid})"
        longer = max(lease, record.lease)
        adopted = msgspec.structs.replace(record, holder=me, lease=longer, macs=_macs(record, me), cause=cause)
        return Judgement(sighting=seen, cause=cause, take=adopted, expected=revision, adopted=True)
    if gone_by_reboot(holder, me):
        cause = f"held by {holder.node} on this computer before it rebooted"
        taken = _taken(record, me, floor, lease, cause, owing=False)
        return _ripe(view, seen, recheck, cause, taken, revision)
    cause = f"held by {holder.node}, term {record.term}"
    silent = f"{holder.node} was silent for {record.lease:.1f} s"
    taken = _taken(record, me, floor, lease, silent, owing=True)
    return _ripe(view, seen, record.lease, cause, taken, revision, silent)


def _ripe(
    view: View, seen: Sighting, wait: float, cause: str, taken: PackageRecord, expected: int | None, then: str = ""
) -> Judgement:
    # the reading that shows the sign unchanged must have been *sent* a whole lease after the sign was *received*
    if view.sent >= seen.since + wait:
        return Judgement(sighting=seen, cause=then or cause, take=taken, expected=expected, wait=wait)
    return Judgement(sighting=seen, cause=cause, wait=wait)


def _taken(
    record: PackageRecord | None, me: Incarnation, floor: int, lease: float, cause: str, *, owing: bool
) -> PackageRecord:
    term = max(record.term if record else 0, floor) + 1
    debts: list[Incarnation] = []
    if record is not None:
        debts = [*record.unfenced, *([record.holder] if owing and record.holder else [])]
    kept = {d.nonce: d for d in debts if d.nonce != me.nonce and not gone_by_reboot(d, me)}
    off = record.off if record else {}
    return PackageRecord(
        term=term, lease=lease, holder=me, unfenced=tuple(kept.values()), off=off, macs=_macs(record, me), cause=cause
    )


def _macs(record: PackageRecord | None, me: Incarnation) -> dict[str, tuple[str, ...]]:
    return {**(record.macs if record else {}), me.node: me.macs}


def released(
    record: PackageRecord, me: Incarnation, off: str, cause: str, *, orderly: bool = False
) -> PackageRecord:
    """Given back by its holder; unchanged when `me` does not hold it. `off`: this node is switched off as well.
    `orderly`: see PackageRecord."""
    if not record.held_by(me):
        return record
    switched = {**record.off, me.node: off} if off else record.off
    return msgspec.structs.replace(record, released=True, orderly=orderly, off=switched, cause=cause)


def handed_over(before: PackageRecord | None, now: PackageRecord | None) -> bool:
    """Between these two readings the holder has given it back: by its own word, after it was up and then verified down
    there, and nobody else is owed for. A start that has failed says nothing of what else there is: perhaps it failed
    because somebody else has the address."""
    return (
        before is not None
        and now is not None
        and before.holder is not None
        and not before.released
        and now.released
        and now.orderly
        and now.holder == before.holder
        and now.term == before.term
        and not now.unfenced
    )


def touched(record: PackageRecord, me: Incarnation, cause: str) -> PackageRecord:
    """The same with another cause, so that it gets a new revision; unchanged when `me` does not hold it."""
    if not record.held_by(me):
        return record
    return msgspec.structs.replace(record, cause=cause)


def settled(record: PackageRecord, nonces: Iterable[str]) -> PackageRecord:
    """Without the debts of these incarnations."""
    gone = set(nonces)
    left = tuple(d for d in record.unfenced if d.nonce not in gone)
    return record if len(left) == len(record.unfenced) else msgspec.structs.replace(record, unfenced=left)


def switched_on(record: PackageRecord, node: str) -> PackageRecord:
    """With `node` taking part again."""
    if node not in record.off:
        return record
    return msgspec.structs.replace(record, off={n: why for n, why in record.off.items() if n != node})


def unlocked(record: PackageRecord, cause: str) -> PackageRecord:
    """Free because a person says that it is down everywhere: no holder waits, no debt is owed. The term is ahead of
    whatever a node remembers, so that nobody's memory makes it wait, also where an old backup of the store was put
    back before; yet a mere mark "at once" in the record would free it once more when *this* record is put back."""
    return msgspec.structs.replace(record, released=True, unfenced=(), term=record.term + AHEAD, cause=cause)


def first(lease: float, cause: str) -> PackageRecord:
    """The record that whoever creates a cluster writes for a package: free, never held."""
    return PackageRecord(term=0, lease=lease, released=True, cause=cause)
