"""The faults, and for each what keeps the two promises, or that nothing does. Pure; `safety` makes the table of it.

One fault at a time strikes the node that runs the package, while all else works and another node may take it; where
the rules of docs/design.md need more than that (a second fault, what a person does), the cell says so. Seconds count
from the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from .timing import Timing

#: What `self_fence` may be, in the order of what it gives.
SELF_FENCE = ("none", "stop", "reboot", "watchdog")
#: Seconds a keeper may be silent before its manager renews no more.
KEEPER_SILENT = 2.0


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """One cell. Kept: after at most `seconds` nothing of the package is left here that another node could meet (never
    two), or somebody may start it again (always one; None: it was never away). Not kept: the text begins with
    "Nothing", and there are no seconds."""

    kept: bool
    text: str
    seconds: float | None = None


Cells = tuple[Promise, Promise]


class Case(NamedTuple):
    """What the cells depend on. `local`: one computer has the store for itself. `fenced_on_disk`: the package's shared
    disks refuse a node once another has taken them; `disk_pays`: and nothing else of it is shared, so that others do
    not wait for that node's word."""

    timing: Timing
    local: bool
    self_fence: str
    fenced_on_disk: bool
    disk_pays: bool = False

    @property
    def trusted(self) -> bool:
        """Others start the package after L without this node's word."""
        return not self.local and (self.self_fence != "none" or self.disk_pays)

    @property
    def device(self) -> bool:
        return self.self_fence == "watchdog"

    @property
    def hard(self) -> float:
        """H."""
        return self.timing.hard_at(0.0)

    @property
    def spare(self) -> float:
        """T - P - 2r: so long renewals may be missing before the lock is lost."""
        t = self.timing
        return t.timeout - t.pace - 2 * t.renewal_deadline

    @property
    def anew(self) -> float:
        """Until a stand-by may start what was not released: it has the lock, and the debt is settled by one more write
        (trusted), after an operation there has seen the processes gone (one computer) or has fenced the disk, or after
        this node's report, which it makes and the other sees at their next readings."""
        t = self.timing
        settle = t.renewal_deadline
        if self.local or (self.self_fence == "none" and self.disk_pays):
            settle += t.stop_timeout
        elif not self.trusted:
            settle += 2 * (t.pace + t.renewal_deadline)
        return t.worst_failover() + settle

    @property
    def handed_over(self) -> float:
        """From the first status that says down, half a pace after it was asked for, until another node may start what
        was stopped and released."""
        t = self.timing
        return 2.5 * t.pace + t.stop_timeout + 3 * t.renewal_deadline

    @property
    def cut_off(self) -> str:
        """What happens at H to what is still up. What lives in the kernel has no process that could be killed."""
        kills = "kills its processes (an address or a mount stays until the next manager)"
        what = "reboots the node" if self.self_fence in ("reboot", "watchdog") else kills
        return f"at H ({in_seconds(self.hard)}) the keeper {what}"

    @property
    def word(self) -> str:
        """What others wait for when this node is not trusted."""
        return "until this node has reported it down, runs btw after a reboot, or a person says `btw unlock`"


def in_seconds(seconds: float) -> str:
    """ "61.7 s"."""
    return f"{round(seconds, 1):g} s"


def kept(text: str, seconds: float | None = None) -> Promise:
    return Promise(kept=True, text=text, seconds=seconds)


def nothing(text: str) -> Promise:
    return Promise(kept=False, text=f"Nothing{text}")


def _two_possible(c: Case, text: str) -> Promise:
    disk = " Its disks refuse this node once another has taken them; addresses and programs do not."
    if c.disk_pays:
        disk = " Its disks refuse this node before another starts it; programs that go on here meet nobody else there."
    return nothing(f"{text}{disk * c.fenced_on_disk}")


def _runs_on(c: Case, how: str, room: float) -> Promise:
    if room <= 0:
        return kept("The lock runs out before that can help: stopped, then started anew.", c.anew)
    return kept(f"Runs on if {how} within {in_seconds(room)}; else stopped, and started anew.", c.anew)


_NO_WORD = "Others take the lock, but start nothing"
_SAID = ": others take the lock, but start nothing"


# ---- processes ----------------------------------------------------------------------------------------------------
def _manager_killed(c: Case) -> Cells:
    two = kept(f"The keeper starts another manager, which goes on with it or stops it; {c.cut_off}.", c.hard)
    return two, _runs_on(c, "the next manager renews", c.spare)


def _manager_frozen(c: Case) -> Cells:
    two = kept(f"The keeper kills it after {in_seconds(c.timing.stall)} and starts another; {c.cut_off}.", c.hard)
    return two, _runs_on(c, "the next manager renews", c.spare - c.timing.stall)


def _keeper_gone(c: Case) -> Cells:
    unfed = f"; a watchdog that nobody feeds resets the node after {in_seconds(c.timing.watchdog)}" * c.device
    text = f"The manager renews no more until a keeper looks again, and stops it when the lock is lost{unfed}."
    room = c.spare - KEEPER_SILENT
    return kept(text, c.hard), _runs_on(c, "another keeper looks", min(room, c.timing.watchdog) if c.device else room)


def _both_gone(c: Case, until: str) -> Cells:
    if c.device:
        two = kept("Nobody feeds the watchdog: it resets the node.", c.timing.watchdog)
        if c.local:
            return two, nothing(", until this computer has booted and btw runs.")
        return two, kept("Another node starts it.", c.anew)
    if c.local:
        text = "Runs on unwatched, until a stand-by on this computer starts it anew, or btw is started again."
        return kept("Whoever takes the lock here first ends what is left of it.", c.anew), kept(text, c.anew)
    if not c.trusted:
        one = nothing(f" watches over what stays up here, {until}{_SAID}.")
        return kept(f"{_NO_WORD} {c.word}."), one
    text = f", {until}: it stays up here, and another node starts it after L ({in_seconds(c.timing.lease)})."
    return _two_possible(c, text), kept("Another node starts it.", c.anew)


def _both_killed(c: Case) -> Cells:
    return _both_gone(c, "until btw is started again (systemd does so)")


def _both_frozen(c: Case) -> Cells:
    return _both_gone(c, "until they run again")


def _helper_killed(c: Case) -> Cells:
    two = kept("Another is started; an operation under way ends with the zygote, and none is believed unseen.")
    return two, kept("Runs on. A start under way has failed: stopped, and started again.", c.handed_over)


def _operation_killed(c: Case) -> Cells:
    two = kept("A stop that was killed is repeated, three times; what is not verified down is not released.")
    return two, kept("A start that was killed has failed: stopped, and started again.", c.handed_over)


# ---- nodes --------------------------------------------------------------------------------------------------------
def _crash(c: Case) -> Cells:
    gone = kept("All of it is gone.", 0.0)
    if c.local:
        return gone, nothing(": this lock serves one computer. It runs again when that has booted and btw is started.")
    if not c.trusted:
        return gone, nothing(f"{_SAID} until btw runs here after a reboot, or a person says `btw unlock`.")
    return gone, kept("Another node starts it.", c.anew)


def _node_frozen(c: Case) -> Cells:
    if c.local:
        return kept("Whoever could take it stands still as well."), nothing(", until the computer goes on.")
    if not c.trusted:
        return kept(f"{_NO_WORD} {c.word}."), nothing(f"{_SAID} until this node goes on and reports it down.")
    one = kept("Another node starts it.", c.anew)
    if c.device:
        text = "The watchdog resets the node. One that stands still with it (softdog) does not: then as if paused."
        return kept(text, c.timing.watchdog), one
    does = "reboots it" if c.self_fence == "reboot" else "kills what is up"
    text = f" at the instant it goes on: what was up acts until the keeper looks at its clock and {does}."
    return _two_possible(c, text), one


def _paused(c: Case) -> Cells:
    if c.local:
        return kept("Whoever could take it stands still as well."), nothing(", until the machine goes on.")
    if not c.trusted:
        return kept(f"{_NO_WORD} {c.word}."), nothing(f"{_SAID} until this node goes on and reports it down.")
    return _two_possible(c, f": its clocks and its watchdog stand still. {_until_read(c)}"), kept(
        "Another node starts it.", c.anew
    )


def _reverted(c: Case) -> Cells:
    if c.local:
        return kept("Lock, memory and programs are set back together."), kept("Runs on as it did then.")
    two = _two_possible(c, f": it acts on a lock of the past. {_until_read(c)}")
    return two, kept("Runs where the store says; else started anew.", c.anew)


def _until_read(c: Case) -> str:
    read, stopped = c.timing.pace + c.timing.renewal_deadline, c.timing.stop_timeout
    return f"It goes on until it has read the store ({in_seconds(read)}) and stopped (S, {in_seconds(stopped)})."


# ---- the store ----------------------------------------------------------------------------------------------------
def _cut(c: Case) -> Cells:
    if c.local:
        return kept("Cannot be: the store is a file on this computer."), kept("Runs on.")
    two = kept(f"Stopped when T ({in_seconds(c.timing.timeout)}) is over; {c.cut_off}; taken only after L.", c.hard)
    outage = f"An outage of up to {in_seconds(c.spare)} changes nothing."
    if not c.trusted:
        return two, nothing(f"{_SAID} until this node reaches the store and reports it down. {outage}")
    return two, kept(f"Another node starts it. {outage}", c.anew)


def _store_lost(c: Case) -> Cells:
    two = kept(f"Stopped when T ({in_seconds(c.timing.timeout)}) is over; {c.cut_off}.", c.hard)
    outage = f"An outage of up to {in_seconds(c.spare)} changes nothing."
    return two, nothing(f", until the store answers: stopped everywhere. {outage}")


def _data_lost(c: Case) -> Cells:
    two = "The holder writes its record again; who misses it, or has seen a later term, waits the longest L."
    if c.local:
        two += " A lock file that is deleted or replaced while in use counts as a lost store."
    return kept(two), kept("Runs on.")


def _data_forgotten(_: Case) -> Cells:
    text = " if that node was off since, or its memory is lost: it takes a free record at its word."
    two = nothing(f"{text} Stop all packages before you set a store back.")
    return two, kept("Runs on.")


# ---- the rest -----------------------------------------------------------------------------------------------------
def _stop_hangs(c: Case) -> Cells:
    one = nothing(", until a person acts: it is stuck. `btw status` says what hangs, and what can be done.")
    if c.local:
        return kept("Stuck: the lock is kept; who takes it ends what is left first, or does not start."), one
    if not c.trusted:
        return kept("Stuck: the lock is kept. If that is lost too, others wait for this node's word."), one
    if c.self_fence in ("none", "stop"):
        text = (
            " if the lock is lost as well: what is no process (an address, a mount) or survives SIGKILL (D) stays up."
            " Until then the lock is kept."
        )
        return _two_possible(c, text), one
    other = ", or the watchdog does" * c.device
    return kept(f"Stuck: the lock is kept. If that is lost too, at H the keeper reboots the node{other}."), one


def _lies(c: Case) -> Cells:
    two = ": its processes are killed, but an address or a mount stays up unseen, and another node starts it."
    help = " Only a disk that is fenced would refuse this node; the kit for plugins finds the lie."
    return _two_possible(c, two + help * (not c.fenced_on_disk)), kept("Runs on; what moves is started elsewhere.")


def _path_lost(c: Case) -> Cells:
    two = kept("The lock is kept until everything is verified down.")
    late = in_seconds(c.timing.timeout + c.handed_over)
    return two, nothing(f" if a stop hangs on it: see there. Else stopped, and started elsewhere within {late}.")


def _fails(c: Case) -> Cells:
    two = kept("All is stopped and verified down before the lock is released.")
    unhealthy = f"Up, but not healthy: after T ({in_seconds(c.timing.timeout)})."
    return two, kept(f"Stopped, and started elsewhere, or here again. {unhealthy}", c.handed_over)


def _stepped(c: Case) -> Cells:
    share = f"{100 * c.timing.clock_error:.3g} %"
    two = kept(f"No rule looks at a clock that can be set. Two clocks may run {share} apart, and no more.")
    return two, kept("Runs on.")


def _no_watchdog(c: Case) -> Cells:
    if not c.device:
        return kept("None is used; the rows above say what that costs."), kept("Runs on.")
    two = "`btw run` refuses a device that is missing or not to be relied on. One that lies: as self_fence = reboot."
    return kept(two), kept("Not started here; other nodes run it.")


class Fault(NamedTuple):
    """One line of the table, before it is known for whom. `simulated`: names of the disasters of
    testing/sim/disasters.py that are this fault."""

    name: str
    cells: Callable[[Case], Cells]
    simulated: tuple[str, ...] = ()


FAULTS = (
    Fault("manager killed", _manager_killed, ("crash", "crash_at_call", "family")),
    Fault("manager frozen", _manager_frozen, ("freeze", "freeze_in_a_call")),
    Fault("keeper killed or frozen", _keeper_gone, ("keeper_killed", "keeper_frozen")),
    Fault("keeper and manager killed", _both_killed, ("both_killed",)),
    Fault("keeper and manager frozen", _both_frozen, ("both_frozen",)),
    Fault("zygote or observer killed", _helper_killed, ("zygote",)),
    Fault("operation killed", _operation_killed),
    Fault("node crash, power off", _crash, ("reboot",)),
    Fault("node frozen, then resumed", _node_frozen),
    Fault("virtual machine paused", _paused),
    Fault("virtual machine set back", _reverted),
    Fault("network cut from the store", _cut, ("cut", "lossy")),
    Fault("store lost", _store_lost, ("cut",)),
    Fault("store data lost or set back", _data_lost, ("deletion", "session_deletion", "restore")),
    Fault("store data set back, unknown to a node", _data_forgotten),
    Fault("stop hangs", _stop_hangs, ("stiffen",)),
    Fault("stop and status lie", _lies),
    Fault("storage path lost", _path_lost),
    Fault("resource fails", _fails, ("vanish", "mood")),
    Fault("clock stepped", _stepped),
    Fault("watchdog absent", _no_watchdog),
)
