"""The conformance kit one floor up: the rules of the lease, kept by real managers on the store under test.

Time is virtual, so that no test waits for a lease; every call of the managers is made to the store. Same fixture and
hooks as `store_contract`. Needs pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import pytest

from .. import lease
from ..lease import encode, session_key
from ..ports import HaltAsked, StoreChanged
from ..store import Store
from ..types import State, Verb
from .contract import Contract, Follower
from .lease_world import TIMING, WEB, Life, World

Opener = Callable[[], Store]
L = TIMING.lease

#: Seconds: differences of instants are not exact.
ROUNDING = 1e-6


class LeaseContract(Contract):
    """Every rule of the lease. All along, at every step: never is a package up on two nodes, never do two managers
    believe to hold it, and terms grow."""

    _where = "btw_core.store, btw_core.lease and btw_core.claim"

    @pytest.fixture
    def make_world(self, open_store: Opener) -> Iterator[Callable[..., World]]:
        """A cluster with these packages, free, and so many lives, each with a connection of its own."""
        worlds: list[World] = []

        def make(lives: int, packages: tuple[str, ...] = ("web",)) -> World:
            worlds.append(World(open_store(), self.must, self.patience, packages))
            for _ in range(lives):
                worlds[-1].begin(open_store())
            return worlds[-1]

        yield make
        for world in worlds:
            world.close()

    @pytest.fixture
    def pair(self, make_world: Callable[..., World], open_store: Opener) -> tuple[World, Life, Life]:
        """A holder, whose package is up, and a stand-by."""
        world = make_world(1)
        self.must(world.run(L, lambda: bool(world.up())), f"nobody took a free package; {world.story()}")
        world.begin(open_store())
        world.run(3.3)  # the stand-by has read what there is, too
        holder, other = world.lives
        return world, holder, other

    def test_one_of_many_holds(self, make_world: Callable[..., World]) -> None:
        """Of four managers that try to take eight free packages at the same instant, one gets each; when it halts, one
        of the others; until none is left."""
        packages = tuple(f"p{n}" for n in range(8))
        world = make_world(4, packages)
        for left in (4, 3, 2, 1):
            world.run(3 * TIMING.pace)
            for name in packages:
                told = f"{name} is up on {world.up(name)}, with {left} managers; {world.story()}"
                self.must(len(world.up(name)) == 1, told)
            leaver = next(life for life in world.lives if not life.manager.finished)
            leaver.handle(HaltAsked(cause="test"))
            world.run(1.0, lambda leaver=leaver: leaver.manager.finished)  # type: ignore[misc]
            self.must(leaver.manager.finished, f"{leaver.me.nonce} did not end: {leaver.journal.lines[-3:]}")
        self.must(not any(world.up(name) for name in packages), "something is up after all have left")

    def test_a_holder_that_renews_keeps_it(self, pair: tuple[World, Life, Life]) -> None:
        """A holder that goes on renewing is not disturbed for three leases: one term, one start."""
        world, holder, _ = pair
        world.run(3 * L)
        self.must(holder.holds() and len(world.taken) == 1, f"not held any more: {world.story()}")
        self.must(holder.verbs() == [Verb.START], f"it did {holder.verbs()}")

    def test_a_silent_holder_is_followed_after_its_lease(self, pair: tuple[World, Life, Life]) -> None:
        """A stand-by takes from a holder that has gone silent once it has seen no sign of it for L, and not before."""
        world, holder, other = pair
        last = holder.manager.session.sent
        assert last is not None
        holder.frozen = True
        self.must(world.run(3 * L, other.holds), f"{other.me.nonce} did not take it within 3 L; {world.story()}")
        waited = world.taken[-1].at - last
        self.must(waited >= L - ROUNDING, f"taken {waited:.2f} s after the last renewal, before L = {L:.2f} s")
        self.must(waited <= L + TIMING.pace + ROUNDING, f"taken {waited:.2f} s after the last renewal, L is {L:.2f} s")

    def test_what_is_released_is_taken_at_once(self, pair: tuple[World, Life, Life]) -> None:
        """The watch tells a stand-by of a release, and it takes the package at that very instant."""
        world, holder, other = pair
        found = self.get(world.person.store, WEB)
        assert found is not None
        with Follower(other.store.store, lease.PACKAGES, found.revision) as follower:
            holder.handle(HaltAsked(cause="test"))
            world.run(TIMING.pace / 2, lambda: world.record().released)
            released = world.clock.now()
            self.must(world.record().released, f"not released: {holder.journal.lines[-3:]}")
            self.eventually("the watch yields the release", lambda: WEB in follower.newest() or follower.ended)
        other.handle(StoreChanged(records=tuple(follower.seen)))
        world.settle()
        self.must(other.holds() and world.up() == [other.node.name], f"not taken at {released - 1000:.1f} s")

    def test_terms_grow_though_the_store_was_set_back(self, pair: tuple[World, Life, Life]) -> None:
        """Each acquisition has a greater term than all before, also after the record was set back to an old one: who
        saw the later term waits L, then takes a later one still."""
        world, holder, other = pair
        old = world.record()
        holder.handle(HaltAsked(cause="test"))
        self.must(world.run(3 * TIMING.pace, other.holds), f"not taken after a release; {world.story()}")
        seen = world.record().term
        other.handle(HaltAsked(cause="test"))
        self.must(world.run(TIMING.pace, lambda: other.manager.finished), f"{other.journal.lines[-3:]}")
        world.person.write(WEB, encode(lease.released(old, holder.me, "", "set back")))
        again, began = world.begin(other.store.store, other.node), world.clock.now()
        self.must(world.run(3 * L, again.holds), f"never taken after the record was set back; {world.story()}")
        waited, term = world.clock.now() - began, world.taken[-1].term
        self.must(waited >= L - ROUNDING, f"taken {waited:.2f} s after the record was set back, L is {L:.2f} s")
        self.must(term > seen > old.term, f"taken with term {term}, term {seen} was seen; {world.story()}")

    def test_a_fence_debt_keeps_the_taker_from_starting(self, pair: tuple[World, Life, Life]) -> None:
        """Who takes from a silent holder writes it down as unfenced and starts nothing until that debt is settled: here
        by the former holder itself, which comes back, stops and says so."""
        world, holder, other = pair
        holder.frozen = True
        world.run(3 * L, other.holds)
        world.run(2 * L)
        owed = [debt.nonce for debt in world.record().unfenced]
        self.must(owed == [holder.me.nonce], f"{holder.me.nonce} did not release, the record's debts are {owed}")
        state = other.manager.controllers["web"].situation.state
        self.must(other.holds() and state is State.FENCING, f"the taker is {state}, holding: {other.holds()}")
        self.must(Verb.START not in other.verbs(), f"the taker did {other.verbs()} before the debt was settled")
        holder.frozen = False
        self.must(
            world.run(5 * TIMING.pace, lambda: world.up() == [other.node.name]),
            f"after the former holder came back the package is up on {world.up()}, debts {world.record().unfenced}",
        )
        self.must(Verb.STOP in holder.verbs(), f"the former holder did {holder.verbs()}")
        self.must(not world.record().unfenced, f"debts are left: {world.record().unfenced}")

    def test_a_late_write_of_a_former_holder_is_refused(self, pair: tuple[World, Life, Life]) -> None:
        """A change of the record that a former holder sent while it held, and that comes to pass only after another has
        taken the package, is refused; and the former holder, back again, knows that it has lost."""
        world, holder, other = pair
        late = []

        def catch(life: Life) -> bool:
            if life is not holder or life.store.calls[0][0].key != WEB or life.store.calls[0][0].value is None:
                return True
            late.append(life.store.delay())
            holder.frozen = True
            return False

        world.passes = catch
        holder.handle(HaltAsked(cause="test"))  # it is stopped, and its release gets lost on the way
        self.must(world.run(3 * L, other.holds), f"{other.me.nonce} did not take it; {world.story()}")
        self.must(bool(late), "the former holder never wrote its release")
        before = self.get(world.person.store, WEB)
        for write in late:
            answer = write()
            self.must(answer.conflict, f"the late release of term {world.taken[0].term} was answered {answer}")
        self.must(self.get(world.person.store, WEB) == before, f"it was {before}, the late write made it another")
        world.passes = lambda life: True
        holder.frozen = False
        world.run(3 * L)
        taker = world.record().holder
        right = other.holds() and taker is not None and taker.nonce == other.me.nonce
        self.must(right, f"the record names {taker}; {world.story()}")
        self.must(holder.manager.finished, f"the former holder did not end: {holder.journal.lines[-3:]}")

    def test_a_late_renewal_does_not_bring_it_back(self, pair: tuple[World, Life, Life]) -> None:
        """A renewal that comes to pass after another has taken the package changes nothing: the former holder stops."""
        world, holder, other = pair
        late = []

        def catch(life: Life) -> bool:
            if life is not holder or life.store.calls[0][0].key != session_key(holder.me):
                return True
            late.append(life.store.delay())
            holder.frozen = True
            return False

        world.passes = catch
        self.must(world.run(3 * L, other.holds), f"{other.me.nonce} did not take it; {world.story()}")
        world.passes = lambda life: True
        self.must(bool(late), "the former holder never renewed its session")
        for write in late:
            write()
        holder.frozen = False
        world.settle()
        holder.manager.tick()  # what was due while it was frozen
        self.must(not holder.holds(), f"the late renewal brought {holder.me.nonce} back; {world.story()}")
        world.run(5 * TIMING.pace)
        self.must(world.up() == [other.node.name], f"up on {world.up()}; {world.story()}")

    def test_lost_answers_and_frozen_managers_break_nothing(self, make_world: Callable[..., World]) -> None:
        """Whatever answers are lost (written or not, or written later) and whoever is frozen for how long: never two;
        and when the trouble is over, one."""
        world, random = make_world(3), Random(3)
        late: list[Callable[[], object]] = []

        def trouble(life: Life) -> bool:
            chance = random.random()
            if chance < 0.05:
                late.append(life.store.delay())
            elif chance < 0.15:
                life.store.lose(committed=chance < 0.1)
            return chance >= 0.15

        world.passes = trouble
        for _ in range(30):
            for life in world.lives:
                life.frozen = random.random() < 0.3
            world.run(random.uniform(0, L))
            random.shuffle(late)
            while len(late) > 2:
                late.pop()()
        world.passes = lambda life: True
        for life in world.lives:
            life.frozen = False
        world.run(3 * L)
        self.must(len(world.up()) == 1, f"after the trouble it is up on {world.up()}; {world.story()}")

    def test_a_record_that_vanished_is_written_again(self, pair: tuple[World, Life, Life]) -> None:
        """When a person deletes the record, its living holder writes it again with the same term: nobody takes it."""
        world, holder, other = pair
        before = world.record()
        self.remove(WEB)
        self.must(self.get(other.store.store, WEB) is None, "the hook remove() has not removed the record")
        world.run(3 * L)
        after = world.record()
        self.must(after.holder == before.holder and after.term == before.term, f"{before} became {after}")
        self.must(holder.verbs() == [Verb.START] and not other.verbs(), f"{holder.verbs()}, {other.verbs()}")

    def test_an_absent_record_is_not_a_free_one(self, pair: tuple[World, Life, Life]) -> None:
        """When the record was deleted and its holder is gone, a stand-by waits L from when it first saw that, then
        takes a greater term than all it has seen."""
        world, holder, other = pair
        world.kill(holder, computer=True)
        self.remove(WEB)
        gone, term = world.clock.now(), world.taken[-1].term
        self.must(world.run(3 * L, other.holds), f"nobody took the package without record; {world.story()}")
        waited = world.taken[-1].at - gone
        self.must(L - ROUNDING <= waited <= L + TIMING.pace + ROUNDING, f"taken after {waited:.2f} s, L is {L:.2f} s")
        self.must(world.taken[-1].term > term, f"term {term} was seen; {world.story()}")

    def test_a_node_adopts_what_its_former_manager_left(self, pair: tuple[World, Life, Life]) -> None:
        """A manager that was killed is followed by another of the same node: it takes the record over with its term,
        and goes on with what is up, without start or stop; a stand-by that was waiting begins its wait anew."""
        world, holder, other = pair
        world.kill(holder)
        world.run(L - 3 * TIMING.pace)
        again = world.begin(holder.store.store, holder.node)
        self.must(world.run(2 * TIMING.pace, again.holds), f"not adopted: {again.journal.lines[-3:]}")
        world.run(3 * L)
        self.must(again.holds() and not other.verbs(), f"the stand-by did {other.verbs()}; {world.story()}")
        changed = [verb for verb in again.verbs() if verb in (Verb.START, Verb.STOP, Verb.HEAL)]
        self.must(not changed and world.up() == [holder.node.name], f"it did {changed}, up on {world.up()}")
        record = world.record()
        named = record.holder is not None and record.holder.nonce == again.me.nonce
        self.must(named and record.term == world.taken[-1].term, f"the record is {record}; {world.story()}")
