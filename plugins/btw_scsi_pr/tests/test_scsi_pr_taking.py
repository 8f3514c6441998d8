"""Taking a disk: whoever holds it under a lower term is shut out, whatever happens between two commands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scsi_pr_disk import Disk, Killed, illegal

from btw_core import Failed
from btw_scsi_pr.cdb import In, Keys, Kind, Out
from btw_scsi_pr.key import key
from btw_scsi_pr.looking import judge
from btw_scsi_pr.sense import BUSY, CHECK_CONDITION, Reply
from btw_scsi_pr.taking import Taking, Terms

NODES = ("n1", "n2", "n3")
KINDS = [Kind(number) for number in (5, 6, 7, 8)]


def own(node: str, term: int, cluster: str = "c") -> int:
    return int(key(cluster, node, term))


def paths(node: str, count: int = 2) -> list[str]:
    return [f"{node}.{number}" for number in range(count)]


class Life:
    """One node under one term."""

    def __init__(self, disk: Disk, node: str, term: int, kind: Kind = KINDS[0], **more: bool) -> None:
        self.disk, self.node = disk, node
        self.lines: list[str] = []
        self.held = True
        self.terms = Terms(key("c", node, term), kind, known=NODES, **more)

    def taking(self, names: list[str] | None = None) -> Taking:
        ways = [self.disk.path(name, before=self._recheck) for name in names or paths(self.node)]
        return Taking("wwid", ways, self.terms, self.lines.append)

    def take(self, names: list[str] | None = None) -> None:
        self.taking(names).take()

    def _recheck(self) -> None:
        if not self.held:
            raise Failed("the lock has run out")

    @property
    def writes(self) -> bool:
        return any(self.disk.takes_write(name) for name in paths(self.node))

    def status(self) -> str:
        """ "" when it has no path."""
        alive = [name for name in paths(self.node) if name not in self.disk.cut]
        if not alive:
            return ""
        path = self.disk.path(alive[0])
        taken = {"paths": paths(self.node)}
        return str(judge(self.terms, path.keys(), path.reservation(), alive, taken).status)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_disk_is_taken_on_all_paths(kind: Kind) -> None:
    """All paths may write afterwards, nobody else; a repetition changes nothing."""
    disk = Disk()
    first = Life(disk, "n1", 1, kind)
    for _ in range(2):
        first.take()
        assert disk.registered == dict.fromkeys(paths("n1"), own("n1", 1))
        assert (disk.kind, disk.reserved, first.status()) == (kind, True, "up")
        assert all(disk.takes_write(name) for name in paths("n1"))
        assert not disk.takes_write("n2.0")


@pytest.mark.parametrize(("before", "after"), list(product(KINDS, KINDS)))
def test_the_next_term_shuts_out_the_one_before(before: Kind, after: Kind) -> None:
    """Whatever kind of reservation it had; the former holder sees that it is preempted, and by whom."""
    disk = Disk()
    first, second = Life(disk, "n1", 1, before), Life(disk, "n2", 2, after)
    first.take()
    second.take()
    assert disk.registered == dict.fromkeys(paths("n2"), own("n2", 2)) and disk.kind == after
    assert (first.writes, second.writes) == (False, True)
    assert "preempted node n1, term 1" in str(second.lines)
    assert (first.status(), second.status()) == ("critical", "up")


def test_a_later_life_of_the_same_node_has_another_key() -> None:
    """Its paths get the new key; what is registered with the old one elsewhere (a path now dead) is shut out."""
    disk = Disk()
    Life(disk, "n1", 1).take()
    disk.cut = {"n1.1"}
    second = Life(disk, "n1", 3)
    second.take()
    assert disk.registered == {"n1.0": own("n1", 3)}
    assert "going on without this path" in str(second.lines)


def test_two_incarnations_of_one_node_on_two_computers() -> None:
    """The same name and cluster, and even then the term tells them apart."""
    disk = Disk()
    old, new = Life(disk, "n1", 4), Life(disk, "n1", 5)
    old.take(["here"])
    new.take(["there"])
    assert disk.registered == {"there": own("n1", 5)}


def test_a_higher_term_supersedes() -> None:
    """Nothing on the disk is touched; the message names the node and its term."""
    disk = Disk()
    Life(disk, "n2", 7).take()
    before, log = dict(disk.registered), list(disk.log)
    with pytest.raises(Failed, match=r"superseded: .* node n2, term 7, and this is term 6"):
        Life(disk, "n1", 6).take()
    assert (disk.registered, disk.log) == (before, log)


@pytest.mark.parametrize("foreign", [1, 0xABC, own("n2", 1, cluster="another")])
def test_a_strange_key_is_refused_without_force(foreign: int) -> None:
    """Nothing on the disk is touched; with force it is preempted like a lower term."""
    disk = Disk(registered={"x": foreign}, holder="x", kind=5)
    with pytest.raises(Failed, match=r"not of this cluster.*force = true"):
        Life(disk, "n1", 1).take()
    assert disk.registered == {"x": foreign}
    Life(disk, "n1", 1, force=True).take()
    assert not disk.takes_write("x")


# ---- known on paper
def test_a_second_path_that_returns_after_the_preemption_stays_out() -> None:
    """n1's second path was dead when n2 took over, and is back: nothing registers it, for no path shows n1 holding."""
    disk = Disk()
    first = Life(disk, "n1", 1)
    disk.cut = {"n1.1"}
    first.take()
    Life(disk, "n2", 2).take()
    disk.cut = set()
    assert first.status() == "critical"
    assert not first.taking().still_ours()
    assert not first.writes


def test_who_freezes_between_acquire_and_register_withdraws() -> None:
    """n1 acquired term 1 and stands still right before its command; n2 takes over under term 2; n1's command is
    carried out when it goes on: it finds the higher term, and is gone again."""
    disk = Disk()
    first, second = Life(disk, "n1", 1), Life(disk, "n2", 2)
    struck: list[str] = []

    def freeze(nexus: str, action: In | Out) -> None:
        if action is Out.REGISTER_AND_IGNORE and nexus == "n1.0" and not struck:
            struck.append(nexus)
            second.take()

    disk.hook = freeze
    with pytest.raises(Failed, match=r"superseded: .*node n2, term 2"):
        first.take()
    assert not first.writes and second.status() == "up"


def test_a_frozen_one_that_was_killed_right_after_its_late_register_is_preempted_again() -> None:
    """As above, but n1 never gets to withdraw: n2 sees the old key, and its heal puts that right."""
    disk = Disk()
    first, second = Life(disk, "n1", 1), Life(disk, "n2", 2)
    second.take()
    disk.path("n1.0").register(first.terms.own, persist=True)
    assert (first.writes, second.status()) == (True, "down")
    assert second.taking().still_ours()
    second.take()
    assert (first.writes, second.status()) == (False, "up")


def test_who_is_frozen_since_term_1_stays_shut_out_after_an_orderly_stop() -> None:
    """n3 took it under term 1; n1 under term 2, and stops in order, which leaves the disk reserved."""
    disk = Disk()
    third, first = Life(disk, "n3", 1), Life(disk, "n1", 2)
    third.take()
    first.take()
    assert not third.writes  # and stop does nothing
    with pytest.raises(Failed, match="superseded"):
        third.take()
    assert not third.writes


# ---- killed anywhere
def steps(act: Callable[[Disk], None]) -> int:
    """How many commands it sends."""
    disk, sent = Disk(), [0]

    def count(nexus: str, action: In | Out) -> None:
        sent[0] += 1

    disk.hook = count
    act(disk)
    return sent[0]


def first_two(disk: Disk) -> None:
    Life(disk, "n1", 1).take()
    Life(disk, "n2", 2).take()


def strike(number: int, *, carried_out: bool) -> Callable[[str, In | Out], Reply | None]:
    """The process is killed at its n-th command: before that was sent, or once it is carried out (at the next)."""
    sent = [0]

    def hook(nexus: str, action: In | Out) -> None:
        sent[0] += 1
        if sent[0] == number + int(carried_out):
            raise Killed

    return hook


def loss(life: Life, number: int) -> Callable[[str, In | Out], Reply | None]:
    """It loses its lock at the n-th command that it sends."""
    sent = [0]

    def hook(nexus: str, action: In | Out) -> None:
        sent[0] += 1
        if sent[0] == number:
            life.held = False

    return hook


def test_killed_between_any_two_commands_the_next_term_takes_it() -> None:
    """n1 holds it; n2 is killed after each of the commands of its start; n3 takes it under the next term: then nobody
    but n3 writes. Until then never both n1 and n2 with a reservation that keeps n1 out."""
    total, begin = steps(first_two), steps(lambda disk: Life(disk, "n1", 1).take())
    assert total - begin > 10
    for number in range(1, total - begin + 1):
        disk = Disk()
        first, second, third = Life(disk, "n1", 1), Life(disk, "n2", 2), Life(disk, "n3", 3)
        first.take()
        disk.hook = strike(number, carried_out=False)
        with pytest.raises(Killed):
            second.take()
        disk.hook = lambda nexus, action: None
        assert disk.reserved and not third.writes
        third.take()
        assert (first.writes, second.writes, third.writes) == (False, False, True), number
        assert third.status() == "up"


def test_the_lock_lost_between_any_two_commands() -> None:
    """From then on no command of n2 changes anything: whoever takes it next finds just what was done before."""
    total = steps(first_two)
    for number in range(1, total):
        disk = Disk()
        first, second, third = Life(disk, "n1", 1), Life(disk, "n2", 2), Life(disk, "n3", 3)
        first.take()
        disk.hook = loss(second, number)
        log = len(disk.log)
        try:
            second.take()
        except Failed as failed:
            assert "the lock has run out" in str(failed)
        changed = len(disk.log) - log
        assert changed <= number
        disk.hook = lambda nexus, action: None
        third.take()
        assert (first.writes, second.writes, third.writes) == (False, False, True)


class Storm:
    """Three nodes with two paths each take the disk under ever higher terms; what struck them is drawn."""

    def __init__(self, draw: st.DataObject) -> None:
        self.disk, self.term, self.lives = Disk(), 0, dict[str, Life]()
        self.draw = draw

    def step(self) -> None:
        node = self.draw.draw(st.sampled_from(NODES))
        match self.draw.draw(st.sampled_from(["take", "killed", "late", "cut", "back", "heal", "busy"])):
            case "take":
                self._takes(node)
            case "killed":
                self.disk.hook = strike(self.draw.draw(st.integers(1, 30)), carried_out=self.draw.draw(st.booleans()))
                with contextlib.suppress(Killed):
                    self._takes(node, judged=False)
                self.disk.hook = lambda nexus, action: None
            case "late":
                self._late(node)
            case "cut":
                self.disk.cut.add(f"{node}.{self.draw.draw(st.integers(0, 1))}")
            case "back":
                self.disk.cut.discard(f"{node}.{self.draw.draw(st.integers(0, 1))}")
            case "heal":
                self._heals(node)
            case "busy":
                left = [self.draw.draw(st.integers(1, 9))]

                def busy(nexus: str, action: In | Out) -> Reply | None:
                    left[0] -= 1
                    return Reply(BUSY) if left[0] >= 0 else None

                self.disk.hook = busy
                self._takes(node)
                self.disk.hook = lambda nexus, action: None

    def _takes(self, node: str, *, judged: bool = True) -> None:
        self.term += 1
        life = self.lives[node] = Life(self.disk, node, self.term)
        try:
            life.take()
        except Failed as failed:
            assert "no path answers" in str(failed) and all(name in self.disk.cut for name in paths(node))
        else:
            if judged:
                self._only(life)

    def _late(self, node: str) -> None:
        """A command of an older term of this node is carried out only now, on any of its paths."""
        term = self.draw.draw(st.integers(1, max(1, self.term - 1)))
        if term >= self.term:
            return
        late = Life(self.disk, node, term)
        with contextlib.suppress(Failed):
            late.take()
        newest = max(self.lives.values(), key=lambda life: life.terms.key.term, default=None)
        if newest is not None and newest.status() == "up":
            self._only(newest)

    def _heals(self, node: str) -> None:
        life = self.lives.get(node)
        if life is None or all(name in self.disk.cut for name in paths(node)):
            return
        if not life.taking().still_ours():
            return
        newer = any(life.terms.sorted(self.disk.registered.values())[1])
        try:
            life.take()
        except Failed as failed:  # another is taking it under a higher term, and has not come to its end
            assert newer and "superseded" in str(failed)
        else:
            self._only(life)

    def _only(self, life: Life) -> None:
        """Who holds it writes, and nobody else."""
        others = [name for node in NODES if node != life.node for name in paths(node)]
        assert not any(self.disk.takes_write(name) for name in others), self.disk.log
        assert set(self.disk.registered.values()) == {life.terms.own}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_happens_only_the_last_taker_writes(data: st.DataObject) -> None:
    """After each start that succeeded, and each heal."""
    storm = Storm(data)
    for _ in range(data.draw(st.integers(2, 12))):
        storm.step()


# ---- disks that are difficult
def test_a_disk_without_abort_is_reset() -> None:
    """PREEMPT, then a reset of the logical unit; without that only who accepts a plain preempt starts."""
    disk = Disk(aborts=False)
    Life(disk, "n1", 1).take()
    Life(disk, "n2", 2).take()
    assert "n2.0: reset" in disk.log
    disk.resets = False
    with pytest.raises(Failed, match="accept_plain_preempt = true"):
        Life(disk, "n3", 3).take()
    disk = Disk(aborts=False, resets=False)
    Life(disk, "n1", 1).take()
    brave = Life(disk, "n2", 2, plain=True)
    brave.take()
    assert "may still be carried out" in str(brave.lines)


def test_a_disk_that_cannot_persist() -> None:
    """Registered without APTPL where the disk says that it has none, and where it only finds out when asked."""
    for honest in (True, False):
        disk = Disk(persists=False)
        if not honest:
            disk.hook = lambda nexus, action: (
                Reply(0, data=bytes([0, 8, 1, 0x80, 0xEA, 1, 0, 0])) if action is In.REPORT_CAPABILITIES else None
            )
        life = Life(disk, "n1", 1)
        life.take()
        assert life.writes and ("outlive" in str(life.lines)) is not honest


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Reply(BUSY), "busy"),
        (Reply(CHECK_CONDITION, sense=bytes([0x72, 2, 4, 1])), "not ready, becoming ready"),
        (Reply(CHECK_CONDITION, sense=bytes([0x72, 6, 0x2A, 5])), "unit attention, registrations preempted"),
        (illegal(0x20), "illegal request, command not supported"),
        (Reply(0x18), "reservation conflict"),
    ],
)
def test_a_disk_that_goes_on_refusing(answer: Reply, words: str) -> None:
    """The failure says in words what the disk said, and to which command."""
    disk = Disk()
    disk.hook = lambda nexus, action: answer if action is Out.REGISTER_AND_IGNORE else None
    with pytest.raises(Failed, match=f"n1.0: REGISTER AND IGNORE: {words}; the disk is wwid"):
        Life(disk, "n1", 1).take()


def test_no_path_answers() -> None:
    """All connections are lost."""
    disk = Disk(cut=set(paths("n1")))
    with pytest.raises(Failed, match="wwid: no path answers"):
        Life(disk, "n1", 1).take()


# ---- giving back
@pytest.mark.parametrize("kind", KINDS)
def test_give_back_leaves_nothing_of_ours_and_all_of_others(kind: Kind) -> None:
    """With release_on_stop the disk is free; what another node has taken meanwhile is not touched."""
    disk = Disk()
    first = Life(disk, "n1", 1, kind)
    first.take()
    first.taking().give_back()
    assert not disk.registered and not disk.reserved
    first.take()
    second = Life(disk, "n2", 2, kind)
    second.take()
    first.taking().give_back()
    assert disk.registered == dict.fromkeys(paths("n2"), own("n2", 2)) and disk.reserved


def test_give_back_twice_to_a_disk_that_is_choosy() -> None:
    """The Linux target answers RELEASE of who is not registered with "not ready": nothing is sent there, or it is no
    matter; what is left in the end is."""
    disk = Disk()
    first = Life(disk, "n1", 1)
    not_ready = Reply(CHECK_CONDITION, sense=bytes([0x72, 2, 8, 0]))

    def choosy(nexus: str, action: In | Out) -> Reply | None:
        return not_ready if action is Out.RELEASE and nexus not in disk.registered else None

    disk.hook = choosy
    first.take()
    disk.path("n1.1").unregister(first.terms.own)
    for _ in range(2):
        first.taking().give_back()
        assert not disk.registered
    first.take()
    disk.hook = lambda nexus, action: not_ready if action is Out.REGISTER else None
    with pytest.raises(Failed, match="a registration of this node is left"):
        first.taking().give_back()


# ---- judged
def test_what_status_says() -> None:
    """Each picture that the disk may show, for who took it under this term, and who did not."""
    terms = Terms(key("c", "n1", 5), KINDS[0], known=NODES)
    mine, ways = terms.own, ["a", "b"]
    held = (mine, 5)

    def said(found: list[int], reservation: tuple[int, int] | None, alive: list[str] = ways, known: int = 2) -> str:
        from btw_scsi_pr.cdb import Reservation

        taken = {"paths": ways[:known]} if known >= 0 else None
        answer = judge(terms, Keys(1, tuple(found)), reservation and Reservation(*reservation), alive, taken)
        return str(answer.status)

    old, new, strange = own("n2", 4), own("n2", 6), 0x77
    assert said([mine, mine], held) == "up"
    assert said([mine, mine], held, ["a"]) == "up"  # a dead path that is registered
    assert said([mine], held) == "down"  # a path that is not registered
    assert said([mine], held, known=1) == "down"  # a path that came back
    assert said([mine], held, ["a"], known=1) == "up"
    assert said([mine, mine, old], held) == "down"
    assert said([mine, mine, strange], held) == "degraded"
    assert said([new, new], (new, 5)) == "critical"
    assert said([mine, mine, new], held) == "critical"
    assert said([strange], (strange, 5)) == "critical"
    assert said([mine, mine], None) == "down"
    assert said([], None) == "down"
    assert said([mine, mine], (mine, 6)) == "down"
    for found, reservation in (([old, old], (old, 5)), ([], None), ([new], (new, 5)), ([mine, mine], None)):
        assert said(found, reservation, known=-1) == "down"  # not taken under this term
    assert said([mine, mine], held, known=-1) == "up"  # adopted, with the memory lost
