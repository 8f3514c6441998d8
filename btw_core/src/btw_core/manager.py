"""The loop's mind: every package of this `btw run` on this node, the session they share, and readings of the store.

One object, one thread, no I/O of its own. A driver (node.py, or the simulation) calls `begin` once, `handle` for each
report, `tick` when `next_deadline` has come, until `finished`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import lease
from .controller import Controller
from .desk import Desk
from .lease import ClusterRecord, DamagedRecord, PackageRecord, SessionRecord, View, decode, encode
from .placer import Daemon, Placer
from .ports import (
    EnableAsked,
    ExecutorLost,
    HaltAsked,
    Logged,
    Looked,
    OperationEnded,
    Ports,
    Report,
    StoreAnswered,
    StoreChanged,
)
from .session import Session
from .store import Record
from .summary import summary
from .timing import Timing
from .types import Incarnation, PackageSpec, Reason, State

#: Packages for which a process is kept ready, of some MB each.
READY = 4


class Manager:
    """`creates`: an empty store may be taken as a new cluster of this name. `failure` says why it gave up."""

    def __init__(
        self,
        me: Incarnation,
        packages: Sequence[PackageSpec],
        ports: Ports,
        *,
        cluster: str = "btw",
        creates: bool,
        daemon: Daemon | None = None,
    ) -> None:
        self.me = me
        self.cluster = cluster
        self.creates = creates
        self.finished = False
        self.failure = ""
        self.desk = Desk(ports)
        timings = [spec.timing for spec in packages] or [Timing()]
        shortest = min(timings, key=lambda t: t.renewal_deadline)
        pace = min(timing.pace for timing in timings)
        self.timing = _session_timing(shortest, pace, max(timing.lease for timing in timings))
        self.placer = daemon and Placer(self.desk, me, daemon, self.timing)
        told = self.placer.told if self.placer else None
        self.controllers = {spec.name: Controller(self.desk, spec, me, told) for spec in packages}
        for controller in [*self.controllers.values()][:READY]:
            controller.work.prompt = True
        self._locks = {each.spec.lock: each for each in self.controllers.values()}
        if self.placer:
            self.placer.controllers = self.controllers
        self.session = Session(
            self.desk,
            me,
            self.timing,
            committed=self._renewed,
            rewritten=self._rewritten,
            refused=self._give_up,
        )
        self.store_trouble = ""
        self._registered = False
        self._seen_cluster = False
        self._write_trouble = ""
        self.damaged: dict[str, str] = {}  # packages whose records cannot be read, and why and what then
        self._ending = False
        self._halting = False  # everything is to end
        self._when_rested: HaltAsked | None = None  # to be passed on once nothing is held here any more

    # ---- the driver's side
    def begin(self) -> None:
        """Read the node's memory, then the store. Raises ValueError: the memory is damaged."""
        for controller in self.controllers.values():
            controller.begin()
        self._read()

    def next_deadline(self) -> float | None:
        return self.desk.next_deadline()

    def tick(self) -> None:
        self.desk.fire()
        self._settle()
        self.desk.ports.keeper.tell()

    def handle(self, report: Report) -> None:
        """Everything that comes in, in its order."""
        match report:
            case StoreAnswered():
                self.desk.answered(report)
            case StoreChanged():
                self._noticed(report)
            case OperationEnded():
                self.desk.ended(report)
            case Looked():
                self.controllers[report.package].looked(report)
            case Logged():
                self.desk.journal.write("output", package=report.package, cause=report.text, resource=report.resource)
                for controller in self._addressed(report.package) if report.package else ():
                    controller.work.heard(report.resource, report.text)
            case ExecutorLost():
                self.desk.journal.write("executor_lost", cause=f"{report.what}: {report.cause}; starting another")
                for controller in self.controllers.values():
                    controller.work.unready()  # perhaps it was the zygote
                    controller.observer_lost()
            case HaltAsked():
                self._halt(report)
            case EnableAsked():
                for controller in self._addressed(report.package):
                    controller.enable(report.cause)
        self._settle()
        self.desk.ports.keeper.tell()

    def summary(self) -> dict[str, Any]:
        """What `status` shows of this manager."""
        sent = self.session.sent
        return {
            "cluster": self.cluster,
            "node": self.me.node,
            "pid": self.me.pid,
            "cgroup": self.me.cgroup,
            "renewed_seconds_ago": None if sent is None else round(self.desk.now() - sent, 2),
            "store_trouble": self.store_trouble or self.session.trouble,
            "packages": [summary(controller) for controller in self.controllers.values()],
        }

    # ---- inside
    def _addressed(self, package: str) -> list[Controller]:
        if package:
            return [self.controllers[package]] if package in self.controllers else []
        return list(self.controllers.values())

    def _halt(self, asked: HaltAsked) -> None:
        """A daemon hands over what it has first, in order, while it can; asked once more it does not wait."""
        if self.placer and not asked.package and not self._halting and not self.failure:
            self._halting = True
            if not self.store_trouble and self.session.sent is not None:
                patience = 2 * max((each.spec.timing.stop_timeout for each in self.controllers.values()), default=0.0)
                self.desk.at(self.desk.now() + patience + self.timing.lease, ("halt",), lambda: self._halt(asked))
                self._when_rested = asked
                self.placer.leave()
                return
        self._halting = True
        for controller in self._addressed(asked.package):
            controller.halt(asked)

    def _settle(self) -> None:
        if self._ending or (self.placer and not self._halting):
            return
        if self._when_rested is not None and self.placer and self.placer.rests:
            asked, self._when_rested = self._when_rested, None
            for controller in self.controllers.values():
                controller.halt(asked)
        for controller in self.controllers.values():
            if not controller.left:
                return
        self._ending = True
        self.session.end(self._finish)

    def _finish(self) -> None:
        self.finished = True

    def _rewritten(self) -> None:
        for controller in self.controllers.values():
            controller.claim.touch()

    def _renewed(self, sent: float) -> None:
        if not self._registered:
            self._registered = True
            self._read()  # the first reading that counts need not wait for the pace
        for controller in self.controllers.values():
            controller.renewed(sent)

    def _give_up(self, cause: str) -> None:
        """This manager must not go on: everything ends here, in order."""
        self.failure = cause
        self._halting = True
        self.desk.journal.write("gave_up", cause=cause)
        for controller in self.controllers.values():
            if controller.situation.state is not State.HALTED:
                controller.halt(HaltAsked(reason=Reason.FAILURE, cause=cause))

    # ---- readings of the store
    def _read(self) -> None:
        self.desk.at(self.desk.now() + self.timing.pace, ("read",), self._read)
        self._list()

    def _list(self) -> None:
        self.desk.ask("", self._read_answered, deadline=self.timing.renewal_deadline)

    def _read_answered(self, answer: StoreAnswered) -> None:
        if answer.records is None:
            self._trouble(answer.unavailable)
            self.desk.at(self.desk.now() + self.timing.retry, ("again",), self._list)
            return
        try:
            view, damaged = reading(answer, self.desk.now())
        except DamagedRecord as damage:
            self._trouble(str(damage))
            return
        cluster = next((record for record in answer.records if record.key == lease.CLUSTER_KEY), None)
        if cluster is None:
            self._no_cluster(view)
            return
        if not self._seen_cluster and self._another(cluster):
            return
        self._seen_cluster = True
        self._trouble("")
        recheck = 0.0 if self.creates else self.timing.pace + 2 * self.timing.renewal_deadline
        self.session.seen(view, recheck)
        if self.session.sent is not None:
            if self.placer:
                self.placer.seen(answer.records, view)
            for lock, controller in self._locks.items():
                if lock in damaged:
                    continue  # what it says cannot be told, only that it is there
                if lock not in view.packages and self._is_new(controller.spec):
                    self._write_first(controller.spec)
                else:
                    controller.seen(view, recheck)
        self._say_damaged(damaged)
        claims = [each.claim for each in self.controllers.values() if each.claim.wanted or each.claim.tracked]
        waiting = [claim.ripe_at for claim in claims if claim.ripe_at is not None and claim.ripe_at > view.sent]
        if waiting:  # a lease that ends between two paces is not waited for until the next
            self.desk.at(min(waiting), ("ripe",), self._list)

    def _trouble(self, trouble: str) -> None:
        if bool(trouble) != bool(self.store_trouble):
            cause = f"cannot read the lock store: {trouble}; trying again" if trouble else "the lock store answers"
            self.desk.journal.write("store_trouble" if trouble else "store_back", cause=cause)
        self.store_trouble = trouble

    def _say_damaged(self, damaged: dict[str, str]) -> None:
        remedy = "repair the store, or `btw unlock` it when it is down everywhere"
        found = {name: f"{text}; {remedy}" for name, text in damaged.items()}
        for name in found.keys() - self.damaged.keys():
            self.desk.journal.write("record_damaged", package=name, cause=found[name])
        self.damaged = found

    def _noticed(self, report: StoreChanged) -> None:
        if self.placer:
            self.placer.noticed(report.records)
        for record in report.records:
            name = record.key.removeprefix(lease.PACKAGES)
            try:
                if record.key.startswith(lease.SESSIONS):
                    session = decode(SessionRecord, record.key, record.value)
                    for controller in self.controllers.values():
                        controller.claim.heard(record.key, session)
                elif name != record.key and name in self._locks:
                    claim = self._locks[name].claim
                    claim.noticed(record.revision, decode(PackageRecord, record.key, record.value))
            except DamagedRecord as damage:
                if name in self._locks:  # of a session the next reading says so
                    self.desk.journal.write("record_damaged", package=name, cause=str(damage))

    # ---- a new cluster
    def _no_cluster(self, view: View) -> None:
        if not self.creates:
            if view.packages or view.sessions or self._seen_cluster:
                self._trouble(
                    "the cluster record is gone: part of the store was lost; nobody takes over without it: restore the"
                    " store, or wait for the longest lease (`btw check`), then `btw init`"
                )
            elif not self.failure:
                self._give_up(
                    "there is no cluster in this store. If other nodes run already: is lock = in btw.toml the same as"
                    " theirs? If this is the first one: btw init"
                )
            return
        self._trouble("")
        record = ClusterRecord(id=self.me.nonce, name=self.cluster, by=self.me)
        self.desk.ask(lease.CLUSTER_KEY, self._created, value=encode(record), deadline=self.timing.renewal_deadline)

    def _another(self, record: Record) -> bool:
        """It is another cluster's store, or the name was changed, by which plugins tell their own from what is foreign
        (the key of a SCSI reservation)."""
        try:
            name = decode(ClusterRecord, record.key, record.value).name
        except DamagedRecord as damage:
            self._trouble(str(damage))
            return True
        if name != self.cluster and not self.failure:
            text = f'the lock store is that of the cluster "{name}", and btw.toml says cluster = "{self.cluster}"'
            self._give_up(f"{text}: write that name there, or another lock =")
        return name != self.cluster

    def _created(self, answer: StoreAnswered) -> None:
        if answer.revision is not None:
            self.desk.journal.write("cluster_created", cause="the store had no cluster record: written")
        self._wrote(answer)

    def _wrote(self, answer: StoreAnswered) -> None:
        """A first record of some kind: go on at once, or say once why not; the next reading tries again."""
        if answer.unavailable and answer.unavailable != self._write_trouble:
            cause = f"cannot write to the lock store: {answer.unavailable}; trying again"
            self.desk.journal.write("store_trouble", cause=cause)
        self._write_trouble = answer.unavailable
        if answer.revision is not None:
            self._read()

    def _is_new(self, spec: PackageSpec) -> bool:
        """A package without a record is new, or its record was lost. Where one computer has the store for itself, the
        memory of its nodes tells which; elsewhere a whole lease has to pass (`lease.judge`)."""
        alone = self.creates or bool(spec.instance)  # the lock of an instance is this node's alone
        return alone and not self.desk.ports.disk.known(spec.name, here=bool(spec.instance))

    def _write_first(self, spec: PackageSpec) -> None:
        record = lease.first(spec.timing.lease, "no node of this computer has ever run it")
        self.desk.ask(
            lease.PACKAGES + spec.lock, self._wrote, value=encode(record), deadline=self.timing.renewal_deadline
        )


def _session_timing(timing: Timing, pace: float, longest: float) -> Timing:
    """Renewals as often and as impatient as the most demanding package needs; L of the most patient."""
    return Timing(
        pace=pace,
        timeout=pace + 3 * timing.renewal_deadline,
        stop_timeout=max(longest - pace - 3 * timing.renewal_deadline, timing.stop_timeout),
    )


def reading(answer: StoreAnswered, now: float) -> tuple[View, dict[str, str]]:
    """What was read, and which packages' records are damaged. Raises DamagedRecord for a session: whose lease it
    carries cannot be told."""
    assert answer.records is not None
    packages, sessions, damaged = {}, {}, {}
    for record in answer.records:
        if record.key.startswith(lease.PACKAGES):
            name = record.key.removeprefix(lease.PACKAGES)
            try:
                packages[name] = (record.revision, decode(PackageRecord, record.key, record.value))
            except DamagedRecord as damage:
                damaged[name] = str(damage)
        elif record.key.startswith(lease.SESSIONS):
            sessions[record.key] = (record.revision, decode(SessionRecord, record.key, record.value))
    return View(sent=answer.sent, received=now, packages=packages, sessions=sessions), damaged
