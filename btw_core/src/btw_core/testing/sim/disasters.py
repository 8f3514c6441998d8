"""The kinds of faults, one function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...lease import PACKAGES, PackageRecord, decode, encode, unlocked
from ...ports import EnableAsked, ExecutorLost, HaltAsked
from ...types import Status

if TYPE_CHECKING:
    from .adversary import Storm
    from .keeper import SimKeeper
    from .node import Life, Node


def _node(storm: Storm) -> Node:
    return storm.random.choice(list(storm.world.nodes.values()))


def _life(storm: Storm) -> Life | None:
    """A living manager, rather one that holds a lock."""
    lives = [n.life for n in storm.world.nodes.values() if n.life is not None and n.life.alive]
    holders = [life for life in lives if any(c.claim.held for c in life.manager.controllers.values())]
    if holders and storm.random.random() < 0.6:
        return storm.random.choice(holders)
    return storm.random.choice(lives) if lives else None


def crash(storm: Storm) -> None:
    if life := _life(storm):
        storm.fault(f"manager {life.nonce} killed")
        life.die("kill -9")


def crash_at_call(storm: Storm) -> None:
    if life := _life(storm):
        life.dies_at_call = life.port_calls + storm.random.randint(1, 12)
        storm.fault(f"manager {life.nonce} will be killed at its port call {life.dies_at_call}")


def family(storm: Storm) -> None:
    if life := _life(storm):
        storm.fault(f"whole family {life.nonce} killed")
        life.die("killed with its family", family=True)
        if storm.random.random() < 0.3:
            for part in life.node.parts.values():
                part.up = ""


def zygote(storm: Storm) -> None:
    if life := _life(storm):
        storm.fault(f"zygote of {life.nonce} killed")
        life.lose_zygote()


def reboot(storm: Storm) -> None:
    computer = storm.random.choice(storm.world.computers)
    storm.fault(f"{computer.machine} reboots")
    computer.reboot()


def freeze(storm: Storm) -> None:
    life = _life(storm)
    if life is None or life.frozen:
        return
    life.freeze()
    storm.lasting(f"{life.nonce} frozen", storm.window(), life.thaw)


def freeze_in_a_call(storm: Storm) -> None:
    """Frozen just after it has sent a renewal, or has asked for a start on a machine so loaded that it begins late."""
    life = _life(storm)
    if life is None or life.frozen or life.ambush is not None:
        return
    kind = storm.random.choice(["renew", "start"])
    seconds = storm.window()

    def spring() -> None:
        if kind == "start":
            life.node.sluggish = seconds
        life.freeze()
        storm.lasting(f"{life.nonce} frozen while it asks to {kind}", seconds, over)

    def over() -> None:
        life.node.sluggish = 0.0
        life.thaw()

    life.ambush = (kind, spring)


def cut(storm: Storm) -> None:
    lines = [_node(storm).line]
    what = "one node"
    if storm.random.random() < 0.3:
        lines, what = [n.line for n in storm.world.nodes.values()], "all nodes"
    if any(line.troubled for line in lines):
        return
    late = storm.random.choice([0.0, 0.0, 0.3])
    for line in lines:
        line.cut, line.commits_late = True, late

    def over() -> None:
        for line in lines:
            line.cut, line.commits_late = False, 0.0

    storm.lasting(f"store unreachable for {what}, late commits {late}", storm.window(), over)


def lossy(storm: Storm) -> None:
    node, random = _node(storm), storm.random
    line = node.line
    if line.troubled:
        return
    line.loses_request, line.loses_answer = random.choice([0.0, 0.2, 0.6]), random.choice([0.1, 0.3, 0.9])
    line.commits_late = random.choice([0.0, 0.5])
    line.slow = random.choice([0.0, 0.2, 3.0])

    def over() -> None:
        line.loses_request = line.loses_answer = line.commits_late = line.slow = 0.0

    text = f"line of {node.name} loses {line.loses_request} there, {line.loses_answer} back, slow {line.slow}"
    storm.lasting(text, storm.window() * random.choice([1, 5]), over)


def watch(storm: Storm) -> None:
    line = _node(storm).line
    line.watch_silent = storm.random.random() < 0.5
    line.watch_repeats = 0.5

    def over() -> None:
        line.watch_silent, line.watch_repeats = False, 0.0

    storm.lasting("watch silent or repeating", storm.window(), over)


def disk_full(storm: Storm) -> None:
    state = _node(storm).state
    if state.full:
        return
    state.full = state.lost = True

    def over() -> None:
        state.full = False

    storm.lasting("disk full", storm.window(), over)


def memory_lost(storm: Storm) -> None:
    node = _node(storm)
    if storm.world.scheduler.now < storm.forgets_again:
        return  # the store has forgotten just now: what is known must be known somewhere
    storm.fault(f"{node.name} loses its state directory")
    if node.life is not None:
        node.life.die("kill -9")
    node.state.files.clear()
    node.state.durable.clear()
    node.state.lost = True


def observer(storm: Storm) -> None:
    node = _node(storm)
    if node.observer:
        return
    node.observer = storm.random.choice(["slow", "silent"])

    def over() -> None:
        node.observer = ""
        if node.life is not None and node.life.alive:  # the executor has noticed, and started another
            node.life.deliver(ExecutorLost(what="observer", cause="hung"))

    storm.lasting(f"observer of {node.name} {node.observer}", storm.window(), over)


def sluggish(storm: Storm) -> None:
    """Operations begin late."""
    node = _node(storm)
    node.sluggish = storm.random.choice([0.3, 3.0])

    def over() -> None:
        node.sluggish = 0.0

    storm.lasting(f"{node.name} is loaded", storm.window(), over)


def vanish(storm: Storm) -> None:
    """A service dies."""
    for node in storm.world.nodes.values():
        for (package, resource), part in node.parts.items():
            if part.up and part.stiff_until <= storm.world.scheduler.now and storm.random.random() < 0.4:
                storm.fault(f"{package}.{resource} on {node.name} vanishes")
                part.up = ""
                if node.life is not None and node.life.alive:
                    node.life.executor.vanished(package, resource)


def stiffen(storm: Storm) -> None:
    """A service cannot be killed or stopped for a while."""
    for node in storm.world.nodes.values():
        for (package, resource), part in node.parts.items():
            if part.up and storm.random.random() < 0.5:
                seconds = storm.window() * 2
                part.stiff_until = storm.world.scheduler.now + seconds
                storm.fault(f"{package}.{resource} on {node.name} in D state for {seconds:.2f} s")


def mood(storm: Storm) -> None:
    """Up, but not well."""
    node = _node(storm)
    for (package, resource), part in node.parts.items():
        if part.up and part.mood == Status.UP and storm.random.random() < 0.5:
            part.mood = storm.random.choice([Status.DEGRADED, Status.DEGRADED, Status.CRITICAL, ""])

            def over(part=part) -> None:  # type: ignore[no-untyped-def]
                part.mood = Status.UP

            storm.lasting(f"{package}.{resource} on {node.name} says {part.mood or 'nothing'}", storm.window(), over)


def halt(storm: Storm) -> None:
    if life := _life(storm):
        package = storm.random.choice(["", *(spec.name for spec in storm.world.specs)])
        storm.fault(f"a person halts {package or 'all'} on {life.nonce}")
        life.deliver(HaltAsked(package=package, cause="a person"))


def enable(storm: Storm) -> None:
    if life := _life(storm):
        package = storm.random.choice(storm.world.specs).name
        storm.fault(f"a person enables {package} on {life.nonce}")
        life.deliver(EnableAsked(package=package, cause="a person"))


def unlock(storm: Storm, *, hopeless: bool = False) -> None:
    """A person says that it is down everywhere, and it is, and nobody is at it. `hopeless`: only where a debt is owed
    by a node whose memory was lost, after having seen to it that nothing is up there."""
    nodes = storm.world.nodes.values()
    for spec in storm.world.specs:
        found = storm.world.store.records.get(PACKAGES + spec.name)
        if found is None:
            continue
        record = decode(PackageRecord, found.key, found.value)
        lives = [n.life for n in nodes if n.life is not None and n.life.alive]
        if hopeless:
            debtors = [storm.world.lives[d.nonce].node for d in record.unfenced]
            if not any(n.state.lost for n in debtors):
                continue
            holder = storm.world.lives[record.holder.nonce] if record.holder and not record.released else None
            if holder in lives and holder and not holder.manager.controllers[spec.name].claim.held:
                continue  # it has only just got it, as below
            for life in [life for life in lives if life.manager.controllers[spec.name].claim.held]:
                life.die("ended by a person before unlocking")
            for node in debtors:
                for (package, _), part in node.parts.items():
                    if package == spec.name:
                        part.up, part.remnants = "", {}
        elif any(life.manager.controllers[spec.name].claim.held for life in lives):
            continue
        elif record.holder and not record.released and storm.world.lives[record.holder.nonce] in lives:
            continue  # it has only just got it, and no person looks so fast that it would be overlooked
        if all(storm.world.judge.down(n, spec.name) for n in nodes):
            storm.fault(f"a person unlocks {spec.name}")
            storm.world.store.put(found.key, encode(unlocked(record, "a person")), found.revision)


def _may_forget(storm: Storm) -> bool:
    """Absence has no identity: a record that comes and goes again between two readings of a stand-by was never there
    for it. The rules cannot see that; so the next disaster waits until everybody has read since the last."""
    now = storm.world.scheduler.now
    longest = max(spec.timing.lease for spec in storm.world.specs)
    if now < storm.forgets_again:
        return False
    storm.forgets_again = now + 4 * longest
    return True


def _all_know(storm: Storm) -> bool:
    for spec in storm.world.specs:
        found = storm.world.store.records.get(PACKAGES + spec.name)
        term = decode(PackageRecord, found.key, found.value).term if found else 0
        saved = [node.state.files.get(spec.name) for node in storm.world.nodes.values()]
        if any(each is None or each.term < term for each in saved):
            return False
    return True


def deletion(storm: Storm) -> None:
    """The record of one package goes."""
    key = PACKAGES + storm.random.choice(storm.world.specs).name
    if key in storm.world.store.records and _may_forget(storm):
        storm.fault(f"{key} is deleted from the store")
        storm.world.judge.forgotten()
        storm.world.store.remove(key)


def session_deletion(storm: Storm) -> None:
    """A session record goes."""
    keys = [key for key in storm.world.store.records if key.startswith("sessions/")]
    if keys:
        key = storm.random.choice(keys)
        storm.fault(f"{key} is deleted from the store")
        storm.world.store.remove(key)


def restore(storm: Storm) -> None:
    """The store is set back to what it was some seconds ago."""
    snapshot = dict(storm.world.store.records)

    def back() -> None:
        # who never saw the newest term (or forgot it) takes a free record of the past at its word
        if not _all_know(storm) or not _may_forget(storm):
            return
        storm.fault("the store is set back")
        storm.world.judge.forgotten()
        storm.world.store.restore(snapshot)

    storm.world.scheduler.after(storm.window(), back)


def _kept(storm: Storm) -> tuple[Node, SimKeeper]:
    node = _node(storm)
    assert node.keeper is not None  # else the disaster is not among those drawn
    return node, node.keeper


def keeper_killed(storm: Storm) -> None:
    node, keeper = _kept(storm)
    storm.fault(f"keeper of {node.name} killed")
    keeper.killed()


def both_killed(storm: Storm) -> None:
    """Keeper and manager at once; a service manager or a person begins both again."""
    node, keeper = _kept(storm)
    storm.fault(f"keeper and manager of {node.name} killed")
    keeper.killed()
    if node.life is not None:
        node.life.die("killed with its keeper", family=True)


def keeper_frozen(storm: Storm) -> None:
    node, keeper = _kept(storm)
    if keeper.frozen:
        return
    keeper.frozen = True
    storm.lasting(f"keeper of {node.name} frozen", storm.window(), lambda: setattr(keeper, "frozen", False))


def both_frozen(storm: Storm) -> None:
    node, keeper = _kept(storm)
    life = node.life
    if keeper.frozen or life is None or not life.alive or life.frozen:
        return
    keeper.frozen = True
    life.freeze()

    def over() -> None:
        keeper.frozen = False
        life.thaw()

    storm.lasting(f"keeper and manager of {node.name} frozen", storm.window(), over)


KINDS: dict[str, Callable[[Storm], None]] = {
    function.__name__: function
    for function in (
        crash, crash_at_call, family, zygote, reboot, freeze,
        freeze_in_a_call, cut, lossy, watch, disk_full, memory_lost, observer,
        sluggish, vanish, stiffen, mood, halt, enable, unlock, deletion, session_deletion, restore,
        keeper_killed, both_killed, keeper_frozen, both_frozen,
    )
}  # fmt: skip

_NO_KEEPER = frozenset({"crash", "crash_at_call", "family", "freeze", "freeze_in_a_call", "disk_full", "memory_lost"})
_OF_KEEPERS = frozenset({"keeper_killed", "both_killed", "keeper_frozen", "both_frozen"})


def breaking(self_fence: str, *, kept: bool) -> frozenset[str]:
    """The disasters that this self_fence does not cover: then nobody could be trusted to be down after L."""
    if not kept:  # who kills later than `scheduling_slack` after H, as on a loaded node, has no keeper that does it
        return _OF_KEEPERS | (_NO_KEEPER | {"stiffen", "sluggish"} if self_fence == "stop" else frozenset())
    return {"stop": _OF_KEEPERS | {"stiffen"}, "reboot": _OF_KEEPERS}.get(self_fence, frozenset())
