"""The zygote: loads plugins and packages once, forks operations and observers, and knows when they are gone.

    python -m btw_core.zygote CHANNEL HOME CGROUP LOADER [ARGUMENT...]

CHANNEL is the descriptor of its end of the SOCK_SEQPACKET pair, CGROUP the directory of `containment` ("" = none),
LOADER is `module:function`; the function gets the arguments and returns an Inventory. BTW_PULSE in the environment: the
manager's pulse, for its operations. Single-threaded: a process with threads must not fork and go on in Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from . import wire
from .clock import boottime
from .command import child_setup, ending
from .containment import OBSERVER, ZYGOTE, Containment, containment, sequence_of, settle_in
from .exits import DEFECT
from .loading import load
from .observer import Observer
from .operation import Inventory, members, perform, prepare
from .ports import Operation
from .pulse import PULSE
from .resource import Problem
from .steady import ordinary
from .types import Verb

#: Seconds that everything running may take to vanish once the manager is gone.
LAST_WAIT = 2.0
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class _Child:
    """An operation, or an observer (`observer` > 0), until nothing of it is left. `pid` 0: its process is reaped.
    `order`: it is kept ready, and waits there to be told which operation it is."""

    def __init__(
        self, id: str, place: str, pid: int, observer: int = 0, order: socket.socket | None = None
    ) -> None:
        self.id, self.place, self.pid, self.observer, self.order = id, place, pid, observer, order
        self.cause = ""
        self.operation: Operation | None = None
        self.ordered = False  # to be killed
        self.check, self.pause = 0.0, 0.002  # when to look again whether its place is empty


class Zygote:
    """`run` serves the channel until its end."""

    def __init__(self, channel: socket.socket, inventory: Inventory, here: Containment, pulse: str) -> None:
        self._channel, self._inventory, self._here, self._pulse = channel, inventory, here, pulse
        self._manager = os.getppid()
        self._children: list[_Child] = []
        self._ready: dict[str, _Child] = {}  # of each package, what waits for its next operation
        self._alone: dict[str, str] = {}  # of each package, the stop before whose end nobody was found in other cgroups
        self._outbox: deque[wire.Packet] = deque()
        self._wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler is needed for the wake-up descriptor
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)

    def run(self) -> None:
        """Blocks until the manager is gone and everything that ran is killed."""
        self._tell(
            wire.Loaded(
                packages=tuple(stock.spec for stock in self._inventory.packages.values()),
                problems=self._inventory.problems,
                rules=dict(self._inventory.rules),
                digests={name: dict(each) for name, each in self._inventory.digests.items()},
            )
        )
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        try:
            while True:
                poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._outbox else 0))
                poll.poll(self._pause() * 1000)
                self._settle()
                with contextlib.suppress(BlockingIOError):
                    while True:
                        self._obey(*wire.receive(self._channel, wire.TO_ZYGOTE))
                self._flush()
        except (wire.Closed, ConnectionError):
            self._end()

    def _pause(self) -> float:
        """Seconds to wait at most."""
        dying = [child.check for child in self._children if child.pid == 0]
        return max(0.0, min([boottime() + 3600, *dying]) - boottime()) + 0.001

    def _obey(self, order: wire.ToZygote, descriptors: Sequence[int]) -> None:
        match order:
            case wire.Operate(operation=operation):
                self._operate(operation)
            case wire.Prepare(package=package, id=id):
                self._discard(package)
                if id:
                    self._prepare(package, id)
            case wire.Kill(id=id):
                for child in self._children:
                    if child.id == id and not (child.observer or child.order):
                        child.ordered = True
                        self._kill(child)
            case wire.Reap(id=id):
                self._reap_former(id)
            case wire.Observe(number=number):
                self._observe(number, descriptors[0])
            case wire.EndObserver(number=number):
                for child in self._children:
                    if child.observer == number:
                        self._kill(child)
            case wire.Ping():
                self._tell(wire.Pong())

    # ---- forking
    def _operate(self, operation: Operation) -> None:
        if operation.last and self._here.prompt:
            self._look_elsewhere(operation)
        ready = self._ready.pop(operation.package, None)
        if ready is not None and ready.id == operation.id:
            order, ready.order, ready.operation = ready.order, None, operation
            assert order is not None
            with contextlib.suppress(OSError), order:  # it has just ended: to be seen like the end of any operation
                wire.send(order, wire.Operate(operation=operation), 1.0)
            return
        if ready is not None:
            self._end_ready(ready)
        if operation.verb is Verb.SWEEP and self._clean(operation):
            self._tell(wire.Result(id=operation.id))
            self._tell(wire.Exited(id=operation.id))
            return
        if any(child.id == operation.id for child in self._children):
            self._tell(wire.Exited(id=operation.id, cause="what was kept ready for it has just ended"))
            return
        place = self._here.place(operation.package, operation.id)
        try:
            pid = self._fork(place, lambda: self._carry_out(operation, place), self._channel.fileno())
        except OSError as error:
            self._here.remove(place)
            self._tell(wire.Exited(id=operation.id, cause=f"cannot begin: {error}"))
        else:
            self._children.append(_Child(operation.id, place, pid))
            self._children[-1].operation = operation

    def _carry_out(self, operation: Operation, place: str) -> int:
        """In the child. Returns its exit code."""
        title(f"btw-{operation.verb}")

        def log(text: str) -> None:
            line = wire.Line(package=operation.package, resource=operation.resource, text=wire.bounded(text))
            wire.send(self._channel, line, 1.0)

        spared = {place, *(child.place for child in self._children if child.order)}
        try:
            result = perform(operation, self._inventory, self._here, spared, log, self._pulse)
        except OSError as error:  # /proc or the cgroup file system refuses: nothing is known, so it failed
            result = wire.Result(id=operation.id, error=f"{operation.verb}: {error}")
        return 0 if wire.send(self._channel, result, 60.0) else 74

    # ---- kept ready: neither the fork nor entering a cgroup, which waits for the whole kernel, is in the way then
    def _prepare(self, package: str, id: str) -> None:
        """Where that fails, the operation is forked when it is ordered."""
        place = self._here.place(package, id)
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def job() -> int:
            title("btw-ready")
            prepare(package, self._inventory, self._here, self._pulse)
            select.select([there], [], [])
            try:
                order, _ = wire.receive(there, wire.TO_ZYGOTE)
            except wire.Closed:
                return 0
            assert isinstance(order, wire.Operate)
            return self._carry_out(order.operation, place)

        with there:
            try:
                pid = self._fork(place, job, self._channel.fileno(), there.fileno())
            except OSError:
                here.close()
                self._here.remove(place)
            else:
                self._ready[package] = _Child(id, place, pid, order=here)
                self._children.append(self._ready[package])

    def _discard(self, package: str) -> None:
        ready = self._ready.pop(package, None)
        if ready is not None:
            self._end_ready(ready)

    def _end_ready(self, ready: _Child) -> None:
        """It has done nothing, and is not spoken of."""
        ready.ordered = True
        self._kill(ready)

    def _look_elsewhere(self, operation: Operation) -> None:
        """Before the last stop, while clients are still served: whom former managers in other cgroups have left, which
        means reading of every process of this computer. Where nobody is there nobody comes: only they have children
        there."""
        with contextlib.suppress(OSError):
            own, found = self._here.own(operation.package), self._here.members(operation.package)
            if not any(pids for place, pids in found.items() if place not in own):
                self._alone[operation.package] = sequence_of(operation.id)

    def _clean(self, operation: Operation) -> bool:
        """A sweep that finds nobody, as nearly all do, needs no process of its own, whose fork takes longer than it."""
        if not self._here.prompt:
            return False
        alone = sequence_of(operation.id) == self._alone.get(operation.package)
        try:
            found = members(self._here.own if alone else self._here.members, operation)
        except OSError:
            return False
        for child in self._children:
            if child.order:
                found.pop(child.place, None)  # it has done nothing, and is ending
        if any(found.values()):
            return False
        for place in found:
            self._here.remove(place)
        return True

    def _observe(self, number: int, descriptor: int) -> None:
        place = self._here.place(OBSERVER, f"{self._manager}-{number}")

        def job() -> int:
            title("btw-observer")
            Observer(socket.socket(fileno=descriptor), self._inventory).run()
            return 0

        try:
            pid = self._fork(place, job, descriptor)
        except OSError as error:
            self._tell(wire.ObserverEnded(number=number, cause=f"cannot begin: {error}"))
        else:
            self._children.append(_Child(f"observer {number}", place, pid, number))
        os.close(descriptor)

    def _fork(self, place: str, job: Callable[[], int], *keep: int) -> int:
        """Returns in the parent only. Raises OSError."""
        self._here.create(place)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = DEFECT
            try:
                self._become(parent, place, keep)
                code = job()
            except BaseException:  # noqa: BLE001 - the child must not get back into the parent's loop
                traceback.print_exc()
            finally:
                os._exit(code)
        return pid

    def _become(self, parent: int, place: str, keep: Sequence[int]) -> None:
        """In the child: a session and a place of its own, nothing inherited that is not needed."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        child_setup(parent)()
        for name in [name for name in os.environ if name.startswith("BTW_") and not _cookie(name)]:
            del os.environ[name]
        self._here.enter(place)
        for descriptor in [int(each.name) for each in Path("/proc/self/fd").iterdir()]:
            if descriptor > 2 and descriptor not in keep:
                with contextlib.suppress(OSError):  # the one that the listing itself used
                    os.close(descriptor)

    # ---- ending
    def _kill(self, child: _Child) -> None:
        """Its place, and its process even if that has not yet got there. May be repeated."""
        if child.pid:
            with contextlib.suppress(PermissionError):  # it has become another user's; then it is seen not to end
                os.kill(child.pid, signal.SIGKILL)  # ours and not reaped: the pid is still its own
        self._strike(child.place)

    def _strike(self, place: str) -> None:
        with contextlib.suppress(OSError):  # tried again for as long as the place is not empty
            self._here.kill(place)

    def _reap_former(self, id: str) -> None:
        """What `find` does not find is gone already: any place without processes stands for it."""
        for place in self._here.find(id) or [self._here.place(ZYGOTE, id)]:
            child = _Child(id, place, 0)
            child.ordered, child.cause = True, "killed by SIGKILL"
            self._children.append(child)

    def _settle(self) -> None:
        """Reap, and report what is gone for good."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake, 4096):
                pass
        for pid, cause in _reaped():
            for child in self._children:
                if child.pid == pid:
                    self._lost(child, cause)
        now = boottime()
        for child in [child for child in self._children if child.pid == 0 and child.check <= now]:
            unkilled = not child.cause and not child.ordered
            if unkilled or self._here.empty(child.place):
                self._here.remove(child.place)
                self._children.remove(child)
                if child.order:
                    child.order.close()
                elif not child.observer and all(other.id != child.id for other in self._children):
                    well, done = not (child.cause or child.ordered), child.operation
                    swept = well and done is not None and done.last and self._clean(done)
                    self._tell(wire.Exited(id=child.id, cause=child.cause, killed=child.ordered, swept=swept))
            else:
                self._strike(child.place)
                child.check, child.pause = now + child.pause, min(0.2, 2 * child.pause)

    def _lost(self, child: _Child, cause: str) -> None:
        child.pid, child.cause = 0, cause
        self._ready = {package: ready for package, ready in self._ready.items() if ready is not child}
        if cause or child.ordered:  # what it has started must not go on without it
            self._strike(child.place)
        if child.observer:
            child.cause = cause or "exit code 0"
            self._tell(wire.ObserverEnded(number=child.observer, cause=child.cause))

    def _end(self) -> None:
        """The manager is gone: so must be everything that runs. Services of ended operations stay."""
        end = boottime() + LAST_WAIT
        while self._children and boottime() < end:
            for child in self._children:
                child.ordered = True
                self._kill(child)
            select.select([self._wake], [], [], 0.02)
            self._settle()

    # ---- sending
    def _tell(self, message: wire.Message) -> None:
        self._outbox.append(wire.pack(message))
        self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):  # later; or the end is seen when reading
            while self._outbox:
                self._outbox[0].send(self._channel)
                self._outbox.popleft()


def _cookie(name: str) -> bool:
    return name in ("BTW_HOME", "BTW_PACKAGE", "BTW_OPERATION")


def _reaped() -> list[tuple[int, str]]:
    """Every child that has ended, with its cause of death, "" for exit code 0."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while (seen := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(seen[1])
            found.append((seen[0], ending(code) if code else ""))
    return found


def title(text: str) -> None:
    """The name that ps shows."""
    Path("/proc/self/comm").write_text(text[:15])


def main() -> NoReturn:
    channel, home, cgroup, loader, *arguments = sys.argv[1:]
    title("btw-zygote")
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what operations leave behind is reaped here
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the manager decides when this ends
    ordinary()  # what a service manager gives btw is not for what runs in packages
    here = containment(home, cgroup)
    settle_in(here)
    inventory = load(loader, arguments, home)
    if threading.active_count() > 1:
        names = ", ".join(sorted({type(thread).__module__ for thread in threading.enumerate()}))
        text = f"a plugin has started threads when it was imported ({names}): operations may hang"
        problem = Problem(text=text, remedy="start threads in methods only", severity="warning")
        inventory = msgspec.structs.replace(inventory, problems=(*inventory.problems, problem))
    os.chdir("/")  # hold no file system that a stop may have to unmount
    gc.collect()
    gc.freeze()  # so that collections in the children do not copy every page
    Zygote(socket.socket(fileno=int(channel)), inventory, here, os.environ.get(PULSE, "")).run()
    os._exit(0)


if __name__ == "__main__":
    main()
