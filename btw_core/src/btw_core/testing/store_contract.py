"""The conformance kit of lock back ends: every rule of `btw_core.store`, tried on a real engine. Needs pytest.

    from btw_core.testing import LeaseContract, StoreContract

    class TestMyStore(StoreContract):
        @pytest.fixture
        def make_store(self) -> Iterator[Callable[[], Store]]:
            self.server = MyServer()            # a fresh place for each test
            yield lambda: MyStore(self.server.address)
            self.server.end()

        def outage(self) -> AbstractContextManager[None]:
            return self.server.frozen()         # SIGSTOP ... SIGCONT

Each rule is one test, its docstring the rule. `LeaseContract` takes the same fixture. All keys are such as btw uses:
slash-separated names of `btw_core.settings.NAME`.
"""

from __future__ import annotations

import string
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

from ..store import Conflict, Record, Store, StoreUnavailable
from .contract import Call, Follower
from .outage_contract import A, B, C, Opener, OutageContract, calls


class StoreContract(OutageContract):
    """Every rule of a store. Override the fixture `make_store` and the hook `outage` (see the module)."""

    # ---- what it is
    def test_it_says_what_it_is(self, open_store: Opener) -> None:
        """A store has the methods of `Store`, describes itself in one line, and says by a bool whether it creates
        itself."""
        store = open_store()
        self.must(isinstance(store, Store), f"{store!r} lacks attributes of btw_core.store.Store")
        said = store.description
        self.must(isinstance(said, str) and bool(said) and said.isprintable(), f"description is {said!r}")
        self.must(isinstance(store.creates_itself, bool), f"creates_itself is {store.creates_itself!r}")

    # ---- compare and swap
    def test_what_is_not_there_is_none(self, open_store: Opener) -> None:
        """get of an absent key is None, and a list without records is []."""
        store = open_store()
        self.must(self.get(store, A) is None, f"get({A!r}) of an empty store is {self.get(store, A)}")
        self.must(self.records(store, "") == {}, "list('') of an empty store is not empty")
        self.put(store, A + "bc", b"1")
        self.must(self.get(store, A) is None, f"get({A!r}) finds {self.get(store, A)}")
        self.must(self.records(store, "sessions/") == {}, "list('sessions/') finds what is below 'packages/'")

    def test_put_writes_at_the_expected_revision_only(self, open_store: Opener) -> None:
        """put writes where the key is absent (expected None) or at exactly the expected revision; otherwise (there,
        changed since, never so, absent, another key's revision) it answers Conflict."""
        store, second = open_store(), open_store()
        first = self.put(store, A, b"1")
        other = self.put(store, B, b"1")
        now = self.put(second, A, b"2", first)
        for key, expected, why in (
            (A, None, f"{A} is at {now}, not absent"),
            (A, first, f"{A} has been changed since, it is at {now}"),
            (A, now + 1000, f"{A} is at {now}"),
            (A, other, f"that is the revision of {B}; {A} is at {now}"),
            (C, now, f"{C} is absent"),
        ):
            for each in (store, second):
                answer = self.try_put(each, key, b"x", expected)
                self.must(answer == Conflict(), f"put({key!r}, expected={expected}) answered {answer}; {why}")

    def test_a_conflict_writes_nothing(self, open_store: Opener) -> None:
        """After Conflict every record is as it was, at its revision."""
        store = open_store()
        first = self.put(store, A, b"1")
        self.put(store, A, b"2", first)
        self.put(store, B, b"1")
        before = self.records(store, "")
        for key, expected in ((A, None), (A, first), (A, before[B].revision), (B, None), (C, first)):
            self.try_put(store, key, b"x", expected)
            self.must(self.records(store, "") == before, f"put({key!r}, expected={expected}) changed {before}")

    def test_exactly_one_creator_wins(self, open_store: Opener) -> None:
        """Of several who create the same key at once, on one store and on several, exactly one gets a revision; the
        key holds what that one wrote."""
        stores = [open_store(), open_store()]
        for n in range(10):
            key = f"packages/p{n}"
            creators = [(store, b"%d" % i) for i, store in enumerate(stores * 3)]
            answers = self.together([partial(self.try_put, store, key, value, None) for store, value in creators])
            won = [(v, a) for (_, v), a in zip(creators, answers, strict=True) if not isinstance(a, Conflict)]
            self.must(len(won) == 1, f"{len(won)} of {len(creators)} creators of {key} won: {answers}")
            found = self.get(stores[0], key)
            self.must(found == Record(key, *won[0]), f"{won[0]} won, but it is {found}")

    def test_no_increment_is_lost(self, open_store: Opener) -> None:
        """Threads that count one key up by compare-and-swap, on one store and on another, come to the full sum."""
        one, other = open_store(), open_store()
        self.put(one, A, b"0")
        times = 20
        counters = [partial(self._count, store, times) for store in (one, one, one, other, other)]
        self.together(counters)
        found, total = self.get(one, A), len(counters) * times
        self.must(found is not None and found.value == b"%d" % total, f"{total} increments, but it is {found}")

    def _count(self, store: Store, times: int) -> None:
        while times:
            found = self.get(store, A)
            assert found is not None
            if self.try_put(store, A, b"%d" % (int(found.value) + 1), found.revision) != Conflict():
                times -= 1

    # ---- reading
    def test_a_read_shows_all_that_was_answered_before(self, open_store: Opener) -> None:
        """A get or list that is called after a put was answered shows that put, on every connection: no stale copy."""
        writer, reader = open_store(), open_store()
        revision: int | None = None
        for n in range(30):
            revision = self.put(writer, A, b"%d" % n, revision)
            expected = Record(A, b"%d" % n, revision)
            for found in (self.get(reader, A), self.records(reader, "packages/").get(A), self.get(writer, A)):
                self.must(found == expected, f"{expected} was answered, then a read showed {found}")
            writer, reader = reader, writer

    def test_a_list_shows_one_instant(self, open_store: Opener) -> None:
        """A list shows all records as they were at one instant: while `a` is always written before `z`, no list shows
        `z` ahead of `a`, or more than one behind."""
        writer, reader = open_store(), open_store()
        for n in range(40):
            self.put(writer, f"packages/m{n}", b"x" * 500)
        ends = [self.put(writer, "packages/a", b"0"), self.put(writer, "packages/z", b"0")]
        done = threading.Event()

        def write() -> None:
            n = 0
            while not done.is_set():
                n += 1
                for i, key in enumerate(("packages/a", "packages/z")):
                    ends[i] = self.put(writer, key, b"%d" % n, ends[i])

        writing, seen = Call(write), set[tuple[int, int]]()
        try:
            until = time.monotonic() + self.patience
            while len(seen) < 25 and time.monotonic() < until and not writing.ended(0):
                listed = self.records(reader, "packages/")
                a, z = (int(listed[key].value) for key in ("packages/a", "packages/z"))
                self.must(a - z in (0, 1), f"a list with a = {a} and z = {z}")
                seen.add((a, z))
        finally:
            done.set()
            writing.ended(self.patience)
        writing.result()
        self.must(len(seen) >= 5, f"only {len(seen)} states were seen in {self.patience:g} s")

    def test_prefixes_are_literal(self, open_store: Opener) -> None:
        """list and watch take the prefix as text, from the beginning of the key: no wildcard, no case folding, no
        notion of directories. watch("") and list("") mean everything."""
        store = open_store()
        keys = {"packages", "packages.x", "sessions/packages/a_b"}
        keys |= {f"packages/{name}" for name in ("a", "a.b", "a_b", "a_bc", "a_b/c", "axb", "A_b", "b")}
        for key in keys:
            self.put(store, key, b"")
        for prefix in ("packages/a_", "packages/a.", "packages/a_b/", "packages/", "packages/z", ""):
            right = {key for key in keys if key.startswith(prefix)}
            listed = set(self.records(store, prefix))
            self.must(listed == right, f"list({prefix!r}) is {sorted(listed)}, not {sorted(right)}")
            with Follower(store, prefix) as watch:
                self.eventually(f"watch({prefix!r}) yields", lambda w=watch: w.yields, self.slack)  # type: ignore[misc]
                self.eventually(
                    f"watch({prefix!r}) yields {sorted(right)}",
                    lambda w=watch, r=right: set(w.newest()) >= r,  # type: ignore[misc]
                )
                self.must(set(watch.newest()) == right, f"watch({prefix!r}) yields {sorted(watch.newest())}")

    def test_values_are_any_bytes(self, open_store: Opener) -> None:
        """A value comes back byte for byte: empty, NUL, all 8-bit values, 100 kB."""
        store = open_store()
        values = [b"", b"\0", b"\0a\0", bytes(range(256)), b"\xff\xfe", b" \n", bytes(range(256)) * 400]
        revision: int | None = None
        for value in values:
            revision = self.put(store, A, value, revision)
            for found in (self.get(store, A), self.records(store, "").get(A)):
                same = found is not None and found.value == value and isinstance(found.value, bytes)
                self.must(same, f"{len(value)} bytes {value[:20]!r} were written, read {repr(found)[:100]}")

    def test_keys_are_told_apart(self, open_store: Opener) -> None:
        """Every key that btw can make is one of its own: all letters in both cases, digits, `.`, `_` and `-`."""
        store = open_store()
        signs = string.ascii_letters + string.digits
        names = [*(f"x{sign}" for sign in signs + "._-"), "x..", "X" * 39, "0.1-a_B", signs[:39], signs[-39:]]
        keys = ["cluster", *(f"packages/{name}" for name in names), *(f"sessions/{name}/{name}" for name in names)]
        written = {key: Record(key, key.encode(), self.put(store, key, key.encode())) for key in keys}
        self.must(self.records(store, "") == written, "list('') does not show each key with its own value")
        wrong = [key for key in keys if self.get(store, key) != written[key]]
        self.must(not wrong, f"get does not show these keys with their own values: {wrong}")

    # ---- revisions
    def test_revisions_only_grow(self, open_store: Opener) -> None:
        """Every put makes a revision that is positive and greater than all before it in the whole store, whatever the
        key and the connection, also when the value stays the same; a record shows that of its own last change."""
        one, other = open_store(), open_store()
        last, revisions = 0, dict[str, int]()
        for store, key in ((one, A), (other, B), (one, B), (one, B), (other, A), (other, C), (one, C), (one, C)):
            revision = self.put(store, key, b"same", revisions.get(key))
            self.must(revision > last, f"put({key!r}) answered revision {revision} after {last}")
            last = revisions[key] = revision
        shown = {key: record.revision for key, record in self.records(one, "").items()}
        self.must(shown == revisions, f"put answered {revisions}, list shows {shown}")

    def test_reopening_changes_nothing(self, open_store: Opener) -> None:
        """After all connections were closed, a new one finds every record at its revision, and new revisions are
        greater than all before."""
        stores = [open_store(), open_store()]
        for key in (A, B):
            self.put(stores[1], key, b"1")
        before = self.records(stores[0], "")
        for store in stores:
            store.close()
        store = open_store()
        self.must(self.records(store, "") == before, f"before {before}, after {self.records(store, '')}")
        revision, last = self.put(store, C, b"1"), max(record.revision for record in before.values())
        self.must(revision > last, f"revision {revision} after reopening, {last} before")

    # ---- watching
    def test_a_watch_yields_what_is_newer(self, open_store: Opener) -> None:
        """watch yields what was changed after revision `since`, also before the call, oldest first; nothing else."""
        store, writer = open_store(), open_store()
        since = self.put(writer, A, b"1")
        self.put(writer, B, b"1")
        self.put(writer, "sessions/a/daemon", b"1")
        changed = self.put(writer, A, b"2", since)
        with Follower(store, "packages/", since) as follower:
            self._follows(follower, changed)
            self.put(writer, "sessions/b/daemon", b"1")
            for n in range(10):
                changed = self.put(writer, f"packages/n{n}", b"1")
            self._follows(follower, changed)
        self._is_in_order(follower, since)
        keys, right = [record.key for record in follower.seen], [B, A, *(f"packages/n{n}" for n in range(10))]
        self.must(keys == right, f"changed since {since}: {right}; the watch yields {keys}")

    def test_a_watch_opened_again_has_no_gap(self, open_store: Opener) -> None:
        """A watch that is closed and opened again with the last revision seen, while others write, misses no key and
        ends with the newest record of each; it repeats nothing."""
        store, writer = open_store(), open_store()
        hot, last = self.put(writer, A, b"0"), 0
        with Follower(store, "packages/", short=True) as follower:
            for n in range(60):
                last = self.put(writer, f"packages/n{n}", b"")
                hot = self.put(writer, A, b"%d" % n, hot)
                if n % 20 == 0:
                    self._follows(follower, last)
            self._follows(follower, hot)
        self._is_in_order(follower, 0)
        right = self.records(writer, "packages/")
        missed = sorted(key for key in right if follower.newest().get(key) != right[key])
        self.must(not missed, f"opened {follower.opened} times, the watch missed {missed}")
        self.must(follower.opened > 3, f"the watch was opened only {follower.opened} times")

    def test_an_idle_watch_yields(self, open_store: Opener) -> None:
        """A watch yields [] at least every second when nothing changes, so that its thread can be ended."""
        with Follower(open_store(), "packages/") as follower:
            for n in range(1, 4):
                self.eventually(f"yield number {n} of an idle watch", lambda n=n: follower.yields >= n, 1 + self.slack)  # type: ignore[misc]
        self.must(not follower.seen and follower.error is None, f"it yields {follower.seen}, {follower.error!r}")

    def test_watches_do_not_disturb_each_other(self, open_store: Opener) -> None:
        """Several watches at once, on one store and on several, each yield all there is below their prefix, and calls
        are answered meanwhile."""
        stores, last = [open_store(), open_store()], 0
        with ExitStack() as stack:
            followers = [stack.enter_context(Follower(s, "packages/")) for s in (*stores, *stores, *stores)]
            elsewhere = stack.enter_context(Follower(stores[0], "sessions/"))
            for n in range(20):
                last = self.put(stores[n % 2], f"packages/n{n}", b"")
            for follower in followers:
                self._follows(follower, last)
                self.must(len(follower.newest()) == 20, f"one of {len(followers)} saw {sorted(follower.newest())}")
            self.must(not elsewhere.seen, f"watch('sessions/') yields {elsewhere.seen}")

    def _follows(self, follower: Follower, revision: int) -> None:
        self.eventually(
            f"the watch yields revision {revision}",
            lambda: follower.error is not None or any(record.revision >= revision for record in list(follower.seen)),
        )
        self.must(follower.error is None, f"the watch raised {follower.error!r}, though the engine is up")

    def _is_in_order(self, follower: Follower, since: int) -> None:
        revisions = [since, *(record.revision for record in follower.seen)]
        grow = all(one < two for one, two in pairwise(revisions))
        self.must(grow, f"since {since} the watch yields revisions {revisions[1:]}")

    # ---- the end
    def test_calls_after_close_raise(self, open_store: Opener) -> None:
        """close may be repeated; afterwards every call raises StoreUnavailable. Other connections go on."""
        store, other = open_store(), open_store()
        revision = self.put(store, A, b"1")
        for _ in range(2):
            self.must(Call(store.close).ended(self.slack), f"close took more than {self.slack:g} s")
        each = {**calls(store, revision, self.brief), "watch": lambda: next(_watch(store))}
        for name, act in each.items():
            call = Call(act)
            call.ended(self.brief + self.slack)
            self.must(call.outcome() == "StoreUnavailable", f"{name} after close: {call.outcome()}")
        self.must(self.get(other, A) == Record(A, b"1", revision), f"another connection shows {self.get(other, A)}")

    def test_close_ends_watches(self, open_store: Opener) -> None:
        """close ends the watches of its own connection, with StoreUnavailable, and no others."""
        store, other = open_store(), open_store()
        with Follower(store, "packages/") as mine, Follower(other, "packages/") as others:
            for follower in (mine, others):
                self.eventually("the watch yields", lambda f=follower: f.yields, self.slack)  # type: ignore[misc]
            store.close()
            self.eventually("a watch ends after close", lambda: mine.ended, 1 + self.slack)
            self.must(isinstance(mine.error, StoreUnavailable), f"it ended with {mine.error!r}")
            self._follows(others, self.put(other, A, b"1"))

    # ---- deadlines when all is well
    def test_a_deadline_of_nothing_does_no_harm(self, open_store: Opener) -> None:
        """With no time at all a call is answered rightly or raises StoreUnavailable, at once; the store goes on."""
        store = open_store()
        revision = self.put(store, A, b"1")
        for name, act in calls(store, revision, 0.0).items():
            call = Call(act)
            self.must(call.ended(self.slack), f"{name} with deadline=0: no answer within {self.slack:g} s")
            if call.outcome() != "StoreUnavailable":
                answer = call.result()
                right = isinstance(answer, int) if name == "put" else answer in (Record(A, b"1", revision), [])
                self.must(right, f"{name} with deadline=0: {answer}")
        self.put(store, C, b"1")


def _watch(store: Store) -> Iterator[list[Record]]:
    return iter(store.watch("", 0))
