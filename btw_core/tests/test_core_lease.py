"""The rules of the lease: who may take a package when, what becomes of debts, and records as bytes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from btw_core import lease
from btw_core.lease import (
    ClusterRecord,
    DamagedRecord,
    Judgement,
    PackageRecord,
    SessionRecord,
    Sighting,
    View,
    decode,
    encode,
    judge,
    session_key,
)
from btw_core.types import Incarnation

L = 60.0


def life(node: str = "a", number: int = 1, boot: str = "b1", machine: str = "", slot: str = "web") -> Incarnation:
    return Incarnation(node=node, machine=machine or f"m-{node}", boot=boot, nonce=f"{node}{number}{boot}", slot=slot)


A, B, ME = life("a"), life("b"), life("me")
LIVES = st.builds(
    life, st.sampled_from(["a", "b", "me"]), st.integers(1, 3), st.sampled_from(["b1", "b2"]), slot=st.just("web")
)
TEXT = st.text(max_size=10)
INCARNATIONS = st.builds(
    Incarnation, node=TEXT, machine=TEXT, boot=TEXT, nonce=TEXT, slot=TEXT, pid=st.integers(0, 2**22), cgroup=TEXT
)
RECORDS = st.builds(
    PackageRecord,
    term=st.integers(0, 2**62),
    lease=st.floats(0.1, 1e6),
    holder=st.none() | LIVES,
    released=st.booleans(),
    orderly=st.booleans(),
    unfenced=st.lists(LIVES, max_size=4, unique_by=lambda i: i.nonce).map(tuple),
    off=st.dictionaries(st.sampled_from(["a", "b", "me"]), TEXT.filter(bool)),
    macs=st.dictionaries(st.sampled_from(["a", "b", "me"]), st.lists(TEXT, max_size=2).map(tuple)),
    cause=TEXT,
)
SESSIONS = st.builds(
    SessionRecord, incarnation=st.sampled_from([A, life("a", 2)]), seq=st.integers(0, 2), ended=st.booleans()
)


def view(
    record: PackageRecord | None,
    *sessions: SessionRecord,
    at: float = 100.0,
    took: float = 0.0,
    revision: int = 5,
    others: dict[str, tuple[int, PackageRecord]] | None = None,
) -> View:
    packages = {**(others or {}), **({"web": (revision, record)} if record is not None else {})}
    living = {session_key(s.incarnation): (9, s) for s in sessions}
    return View(sent=at, received=at + took, packages=packages, sessions=living)


def held(by: Incarnation = A, term: int = 3, **more: Any) -> PackageRecord:
    return PackageRecord(term=term, lease=more.pop("lease", L), holder=by, **more)


def alive(who: Incarnation = A, seq: int = 1) -> SessionRecord:
    return SessionRecord(incarnation=who, seq=seq)


def judged(seen: View, sighting: Sighting | None = None, **more: Any) -> Judgement:
    return judge(seen, "web", ME, sighting, floor=more.pop("floor", 0), lease=more.pop("lease", L), **more)


# ---- waiting
READINGS = st.lists(
    st.tuples(
        st.sampled_from([4.0, 10.0, 30.0, 59.0]),  # since the answer before
        st.sampled_from([0.0, 0.5, 8.0]),  # how long the answer took
        st.none() | SESSIONS,
        st.sampled_from([5, 5, 5, 6]),  # revision
    ),
    max_size=12,
)


@given(READINGS)
def test_nothing_is_taken_before_a_whole_lease_of_silence(readings: list[tuple[float, float, Any, int]]) -> None:
    """The package is taken exactly by a reading that was *sent* a whole L or more after the unchanged sign was first
    *received*. A change of the record's revision, of seq, of ended, or of the slot's owner starts anew; once the slot
    is another's, nothing that this other one does matters."""
    sighting, sign, since, now = None, None, 0.0, 0.0
    for gap, took, session, revision in readings:
        now += gap
        seen = view(held(), *([session] if session else []), at=now, took=took, revision=revision)
        now += took
        own = session is not None and session.incarnation == A
        current = (revision, (session.seq, session.ended) if own else "replaced" if session else "absent")
        if own and session.ended:
            current = (revision, "ended")  # nothing follows the goodbye
        if current != sign:
            sign, since = current, now
        found = judged(seen, sighting)
        sighting = found.sighting
        assert sighting.since == since
        assert (found.take is not None) == (seen.sent >= since + L)
        if found.take is not None:
            assert found.expected == revision


@given(RECORDS, st.integers(0, 5), st.floats(0.1, 200), st.floats(0.1, 200))
def test_the_wait_is_never_too_short(record: PackageRecord, floor: int, own: float, other: float) -> None:
    """At first sight a record is taken only if it is released or held by nobody, by this node's own manager or by a
    former boot of this computer, and not below what was seen here. What waits, waits L of the record; below the floor
    the longest L that anybody may be relying on."""
    seen = view(record, others={"db": (6, held(B, lease=other))})
    found = judged(seen, floor=floor, lease=own)
    holder = record.holder
    ours = holder is not None and holder.node == "me" and (holder.nonce == ME.nonce or holder.boot != ME.boot)
    free = record.released or holder is None or ours
    assert (found.take is not None) == (free and record.term >= floor)
    if found.take is None:
        assert found.wait == (record.lease if record.term >= floor else max(own, other, record.lease))
        later = judged(msgspec.structs.replace(seen, sent=100 + found.wait), found.sighting, floor=floor, lease=own)
        assert later.take is not None and later.expected == 5


@given(st.none() | RECORDS, st.integers(0, 2**62), st.floats(0.1, 1e5), LIVES)
def test_a_new_term_is_higher_than_all_seen(
    record: PackageRecord | None, floor: int, own: float, predecessor: Incarnation
) -> None:
    """What is taken has a term above the record's and the floor and carries our own L; only adoption keeps the term."""
    first = judged(view(record), floor=floor, lease=own, predecessors=(predecessor,))
    found = judged(view(record, at=1e9), first.sighting, floor=floor, lease=own, predecessors=(predecessor,))
    assert found.take is not None
    assert found.take.holder == ME and not found.take.released
    term = record.term if record else 0
    if found.adopted:
        assert found.take.term == term >= floor
        assert record is not None and found.take.lease == max(own, record.lease)
    else:
        assert found.take.term == max(term, floor) + 1
        assert found.take.lease == own


@pytest.mark.parametrize("change", ["revision", "seq", "incarnation", "absent", "ended", "floor"])
def test_any_change_starts_anew(change: str) -> None:
    """A holder silent for nearly L and then seen to move has a whole L again."""
    first = judged(view(held(), alive()))
    late = {"at": 159.0, "revision": 6 if change == "revision" else 5}
    session = {
        "seq": [alive(seq=2)],
        "incarnation": [alive(life("a", 2))],
        "absent": [],
        "ended": [SessionRecord(incarnation=A, seq=1, ended=True)],
    }.get(change, [alive()])
    floor = 4 if change == "floor" else 0
    moved = judged(view(held(), *session, **late), first.sighting, floor=floor)  # type: ignore[arg-type]
    assert moved.sighting.since == 159
    assert judged(view(held(), *session, **(late | {"at": 218.9})), moved.sighting, floor=floor).take is None  # type: ignore[arg-type]
    assert judged(view(held(), *session, **(late | {"at": 219.0})), moved.sighting, floor=floor).take is not None  # type: ignore[arg-type]


def test_transit_counts_for_the_holder() -> None:
    """L runs from the *receipt* of the first reading to the *sending* of the last one."""
    first = judged(view(held(), alive(), at=100, took=7))
    assert judged(view(held(), alive(), at=166.9, took=30), first.sighting).take is None
    assert judged(view(held(), alive(), at=167.0), first.sighting).take is not None


def test_absent_record_waits_the_longest_lease() -> None:
    """A record that is gone from a cluster that exists is no "free": L of whoever is most patient, then any term."""
    others = {"db": (3, held(B, lease=500.0))}
    first = judged(view(None, others=others), floor=7)
    assert first.take is None and first.wait == 500
    assert judged(view(None, others=others, at=599.9), first.sighting, floor=7).take is None
    late = judged(view(None, others=others, at=600.0), first.sighting, floor=7)
    assert late.take is not None and late.take.term == 8 and late.expected is None


def test_record_below_the_floor_waits_even_if_released() -> None:
    """A store that was set back says nothing of the later term's holder; the holder that it names is owed."""
    for record in (held(term=3, released=True), held(ME, term=3), held(life("me", boot="b2"), term=3)):
        assert judged(view(record), floor=4).take is None
    first = judged(view(held(term=3)), floor=9)
    late = judged(view(held(term=3), at=160.0), first.sighting, floor=9)
    assert late.take is not None and late.take.term == 10 and late.take.unfenced == (A,)


def test_record_below_the_floor_waits_for_silence() -> None:
    """A holder that still renews in a store that was set back is not taken from, however long that goes on."""
    first = judged(view(held(), alive(seq=1)), floor=9)
    moved = judged(view(held(), alive(seq=2), at=159.0), first.sighting, floor=9)
    assert moved.take is None
    assert judged(view(held(), alive(seq=2), at=218.9), moved.sighting, floor=9).take is None
    assert judged(view(held(), alive(seq=2), at=219.0), moved.sighting, floor=9).take is not None


# ---- free at once
@pytest.mark.parametrize(
    "record",
    [
        held(released=True),
        PackageRecord(term=0, lease=L),
        lease.first(L, "new"),
        held(ME),
        held(life("me", boot="b2")),
    ],
    ids=["released", "never held", "first", "own", "rebooted"],
)
def test_free_is_taken_at_once(record: PackageRecord) -> None:
    """Released, never held, our own or held before this computer's reboot: no wait, and no new debt."""
    found = judged(view(record, alive()))
    assert found.take is not None and found.take.unfenced == () and not found.adopted


def test_reboot_is_told_by_machine_and_boot_alone() -> None:
    """Another computer with another boot is not gone; nor is another node on this computer in this boot."""
    assert judged(view(held(life("a", boot="b9")))).take is None
    assert judged(view(held(life("x", machine="m-me")))).take is None
    assert judged(view(held(life("x", machine="m-me", boot="b9")))).take is not None


def test_another_boot_must_be_silent_where_computers_may_be_clones() -> None:
    """With `recheck` the holder's session must not have moved for so long; whoever lives starts the wait anew."""
    holder = life("x", machine="m-me", boot="b9")
    first = judged(view(held(holder), alive(holder, 1), at=100), recheck=8.0)
    assert first.take is None
    moved = judged(view(held(holder), alive(holder, 2), at=107), first.sighting, recheck=8.0)
    assert moved.take is None and moved.sighting.since == 107
    early = judged(view(held(holder), alive(holder, 2), at=114), moved.sighting, recheck=8.0)
    assert early.take is None
    silent = judged(view(held(holder), alive(holder, 2), at=115), early.sighting, recheck=8.0)
    assert silent.take is not None and silent.take.unfenced == ()


def test_who_fences_itself_is_trusted_only_elsewhere() -> None:
    """On this computer a look says more than a promise; who promised nothing is not trusted at all."""
    elsewhere = msgspec.structs.replace(A, self_fence="stop")
    here = msgspec.structs.replace(elsewhere, machine=ME.machine, boot=ME.boot)
    assert lease.fences_itself(elsewhere, ME)
    assert not lease.fences_itself(here, ME)
    assert not lease.fences_itself(A, ME)


def test_rebooted_is_proved_by_a_living_session() -> None:
    """A session of the same computer in another boot proves that the former holder is gone."""
    assert lease.rebooted(view(None, alive(life("a", 2, "b2"))), A)
    assert not lease.rebooted(view(None, alive(life("a", 2, "b1"))), A)
    assert not lease.rebooted(view(None, alive(life("b", 2, "b2"))), A)


# ---- adoption
@given(st.lists(LIVES, max_size=3).map(tuple), LIVES)
def test_only_the_predecessor_is_adopted(debts: tuple[Incarnation, ...], holder: Incarnation) -> None:
    """Adoption needs the record to name exactly the nonce that this node remembers; same term, same debts, at once."""
    assume(holder.nonce != ME.nonce)
    predecessor = life("me", 2)
    found = judged(view(held(holder, unfenced=debts)), predecessors=(predecessor,))
    assert found.adopted == (holder.nonce == predecessor.nonce)
    if found.adopted:
        assert found.take is not None
        assert (found.take.term, found.take.holder, found.take.unfenced) == (3, ME, debts)


def test_no_memory_no_adoption() -> None:
    """A former life of this node, this computer and this boot is waited for like anybody if it is not remembered."""
    assert judged(view(held(life("me", 2)))).take is None


# ---- debts
@given(RECORDS, st.integers(0, 9))
def test_debts_are_kept(record: PackageRecord, floor: int) -> None:
    """Taking keeps every debt and adds the holder who did not release; it drops what rebooted and never names us."""
    first = judged(view(record), floor=floor)
    found = judged(view(record, at=1e9), first.sighting, floor=floor).take
    assert found is not None
    owed = list(record.unfenced)
    if record.holder is not None and not record.released:
        owed.append(record.holder)
    expected = {i.nonce for i in owed if i.nonce != ME.nonce and not (i.machine == ME.machine and i.boot != ME.boot)}
    assert {i.nonce for i in found.unfenced} == expected
    assert len(found.unfenced) == len(expected)
    assert found.off == record.off


# ---- Ethernet addresses
def test_the_record_knows_all_holders_ethernet_addresses() -> None:
    """Each node's last ones, whoever takes it; a record from before there were any is read as it was."""

    def take(record: PackageRecord, node: str, *macs: str) -> PackageRecord:
        me = msgspec.structs.replace(life(node), macs=macs)
        found = judge(view(lease.released(record, record.holder or me, "", "")), "web", me, None, floor=0, lease=L)
        assert found.take is not None
        return found.take

    old = decode(PackageRecord, "packages/web", b'{"term":1,"lease":60,"released":true}')
    assert old.macs == {}
    both = take(take(old, "a", "02:00:5e:00:53:01"), "b", "02:00:5e:00:53:02")
    assert both.macs == {"a": ("02:00:5e:00:53:01",), "b": ("02:00:5e:00:53:02",)}
    assert take(both, "a", "02:00:5e:00:53:03", "02:00:5e:00:53:04").macs == {
        "a": ("02:00:5e:00:53:03", "02:00:5e:00:53:04"),
        "b": ("02:00:5e:00:53:02",),
    }


# ---- edits
@given(RECORDS, TEXT, TEXT, st.booleans())
def test_released(record: PackageRecord, off: str, cause: str, orderly: bool) -> None:
    """Only a record that we hold is given back, once; debts and term stay; `off` is added for us alone."""
    given_back = lease.released(record, ME, off, cause, orderly=orderly)
    assert lease.released(given_back, ME, off, cause) is given_back
    if record.released or record.holder != ME:
        assert given_back is record
    else:
        switched = {**record.off, "me": off} if off else record.off
        assert given_back == msgspec.structs.replace(record, released=True, orderly=orderly, off=switched, cause=cause)


@example(held(ME), "disk", "critical")
@given(RECORDS.map(lambda record: msgspec.structs.replace(record, holder=ME, released=False)), TEXT, TEXT)
def test_released_is_free_for_others(record: PackageRecord, off: str, cause: str) -> None:
    """After our release another node takes at once and owes nothing for us."""
    found = judge(view(lease.released(record, ME, off, cause)), "web", B, None, floor=0, lease=L)
    assert found.take is not None
    assert ME not in set(found.take.unfenced) - set(record.unfenced)


@given(RECORDS, st.sets(LIVES.map(lambda i: i.nonce)))
def test_settled(record: PackageRecord, nonces: set[str]) -> None:
    """Exactly these debts leave, the others stay in their order; nothing else changes."""
    after = lease.settled(record, nonces)
    assert lease.settled(after, nonces) is after
    left = tuple(i for i in record.unfenced if i.nonce not in nonces)
    assert after == msgspec.structs.replace(record, unfenced=left)


@given(RECORDS, st.sampled_from(["a", "b", "me"]))
def test_switched_on(record: PackageRecord, node: str) -> None:
    """Exactly this node takes part again."""
    after = lease.switched_on(record, node)
    assert lease.switched_on(after, node) is after
    assert after == msgspec.structs.replace(record, off={n: why for n, why in record.off.items() if n != node})


@given(RECORDS, TEXT)
def test_unlocked(record: PackageRecord, cause: str) -> None:
    """Free, nothing owed, the term far ahead; who is off stays."""
    after = lease.unlocked(record, cause)
    ahead = record.term + lease.AHEAD
    assert after == msgspec.structs.replace(record, released=True, unfenced=(), term=ahead, cause=cause)


def test_a_persons_word_counts_more_than_memory() -> None:
    """After `btw unlock --confirmed` a term below one seen here before does not make anybody wait."""
    me = Incarnation(node="n1", machine="m", boot="b", nonce="new", slot="web")
    restored = PackageRecord(term=2, lease=10.0, released=True)
    unlocked = lease.unlocked(restored, "btw unlock")
    for found, free in ((restored, False), (unlocked, True)):
        view = View(sent=0.0, received=0.0, packages={"web": (7, found)}, sessions={})
        taken = judge(view, "web", me, None, floor=5, lease=10.0).take
        assert (taken is not None) is free
        assert taken is None or taken.term == unlocked.term + 1


def test_a_persons_word_counts_once() -> None:
    """Somebody has taken what a person had freed; then the store is set back to what the person wrote. Whoever saw the
    later term waits."""
    me = Incarnation(node="n1", machine="m", boot="b", nonce="new", slot="web")
    unlocked = lease.unlocked(PackageRecord(term=2, lease=10.0, released=True), "btw unlock")
    view = View(sent=0.0, received=0.0, packages={"web": (7, unlocked)}, sessions={})
    judged = judge(view, "web", me, None, floor=unlocked.term + 1, lease=10.0)
    assert judged.take is None and judged.wait == 10.0 and "set back" in judged.cause


# ---- bytes
CLUSTERS = st.builds(ClusterRecord, id=TEXT, name=TEXT, by=st.none() | INCARNATIONS)
ANY_SESSION = st.builds(SessionRecord, incarnation=INCARNATIONS, seq=st.integers(0, 2**62), ended=st.booleans())


@given(RECORDS | CLUSTERS | ANY_SESSION)
def test_records_come_back_as_they_were(record: PackageRecord | ClusterRecord | SessionRecord) -> None:
    """Encoding and decoding change nothing."""
    assert decode(type(record), "key", encode(record)) == record


@given(RECORDS | CLUSTERS | ANY_SESSION, st.data())
def test_cut_records_are_damaged(record: msgspec.Struct, data: st.DataObject) -> None:
    """Bytes that end early are never a record."""
    value = encode(record)
    with pytest.raises(DamagedRecord, match="record packages/web in the store cannot be read"):
        decode(type(record), "packages/web", value[: data.draw(st.integers(0, len(value) - 1))])


@given(st.binary(max_size=60) | RECORDS.map(encode), st.integers(0, 200), st.binary(max_size=3))
def test_damaged_records_raise_nothing_else(value: bytes, at: int, scribble: bytes) -> None:
    """Whatever bytes are found: a record within its limits, or DamagedRecord."""
    damaged = value[:at] + scribble + value[at + len(scribble) :]
    try:
        record = decode(PackageRecord, "packages/web", damaged)
    except DamagedRecord:
        return
    assert record.term >= 0 and record.lease > 0


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b'{"term":1}',
        b'{"term":-1,"lease":60}',
        b'{"term":1,"lease":0}',
        b'{"term":1,"lease":-60}',
        b'{"term":1,"lease":null}',
        b'{"term":1,"lease":60,"cause":"\xff"}',
        b'{"x":' + b"[" * 100_000,
    ],
    ids=["empty", "null", "missing", "term", "no lease", "negative lease", "infinite lease", "no UTF-8", "deep"],
)
def test_what_is_no_record(value: bytes) -> None:
    """A record without its term and lease, with a lease that nobody would wait for, or unreadable: cannot tell."""
    with pytest.raises(DamagedRecord):
        decode(PackageRecord, "packages/web", value)


def test_keys() -> None:
    """A session lies below sessions/NODE/SLOT."""
    assert session_key(life("a", slot="daemon")) == "sessions/a/daemon"


def test_the_watch_does_not_disturb_how_a_record_that_was_set_back_is_judged() -> None:
    """Its sign has a third part, and our own renewals are none: what the watch hears keeps both, or nobody would ever
    take it again."""
    holder = Incarnation(node="a", machine="m", boot="b", nonce="holder", slot="web")
    record = PackageRecord(term=2, lease=10.0, holder=holder)
    renewal = SessionRecord(incarnation=holder, seq=8)
    key = lease.session_key(holder)
    below = Sighting(sign=(5, 7, "below floor"), since=100.0)
    assert lease.heard(below, 5, record, key, renewal, 101.0) == Sighting(sign=(5, 8, "below floor"), since=101.0)
    own = Sighting(sign=(5, "nobody", "below floor"), since=100.0)
    assert lease.heard(own, 5, record, key, renewal, 101.0) is own
    older = Sighting(sign=(4, 7), since=100.0)  # of another revision of the record
    assert lease.heard(older, 5, record, key, renewal, 101.0) is older
    assert lease.heard(None, 5, record, key, renewal, 101.0) is None
