"""One `btw run` on this computer: binds the ports to the system and drives `Manager` with asyncio.

Everything comes in through one inbox in the loop's thread; one timer stands for the manager's next deadline. The loop
never waits for anything but this: stores have their threads, resources their processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn, TextIO

from . import __version__, applied
from .answers import Answers, now
from .clock import BootClock
from .control import Answer, Control
from .disk import Busy, FileDisk
from .executor import RealExecutor
from .exits import BUSY, CONFIGURATION, DEFECT, DONE, FAILED, LEFT
from .identity import incarnation
from .journal import FileJournal
from .kept import Kept, Lag, promise
from .manager import Manager
from .placer import Daemon
from .plugins import open_store
from .ports import HaltAsked, Ports, Report
from .pulse import PULSE
from .records import SLOT
from .resource import ConfigError, Problem
from .settings import Setup
from .steady import steady
from .store import Store
from .store_late import LateStore
from .store_port import ThreadedStorePort
from .summary import summary
from .timing import SHORTEST_STALL
from .types import PackageSpec, State

#: Seconds that the timer runs at most: CLOCK_BOOTTIME goes on during suspend, the loop's clock does not.
NAP = 1.0
#: Seconds within which a further signal only asks what is going on.
IMPATIENT = 2.0
#: Seconds that opening the store may take before the run begins without it.
OPENING = 10.0
#: Seconds between two beats of the pulse.
BEAT = 0.25
#: A manager that is to be replaced goes in none of these: what it is at would have to be begun again.
_BUSY_STATES = (State.STARTING, State.HALTING, State.FAILING)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Node:
    """Of `names`; without any a daemon, of all packages that are for this node.

    `goal(manager)` is asked after every step: an exit code ends the run at once, leaving everything as it is.

    `arguments` are DIR NODE LOCK PLUGINS COPY as they were given ("" = not), for the zygote, which reads the
    configuration by itself. `screen` shows the journal. `keeper` is the command of another keeper, see `Kept`; () for a
    goal. `unheeded`: what of the configuration does not count yet.
    """

    def __init__(
        self,
        setup: Setup,
        names: Sequence[str],
        arguments: Sequence[str],
        *,
        screen: TextIO | None = None,
        goal: Callable[[Manager], int | None] | None = None,
        keeper: Sequence[str] = (),
        unheeded: str = "",
    ) -> None:
        self.node = setup.config.node
        self.daemon = not names
        self.names = list(dict.fromkeys(names)) or applied.names(setup)
        slot = SLOT if self.daemon else self.names[0]
        self._answers = Answers(self)
        self.manager: Manager | None = None
        self._setup, self._goal, self._keeper, self._unheeded = setup, goal, keeper, unheeded
        self._disk = FileDisk(setup.places.state / self.node)
        self._journal = FileJournal(setup.places.state / self.node / "journal.jsonl", self.node, screen=screen)
        self._control = Control(setup.places.run / self.node / f"{slot}.sock", self._answers.answer)
        state = setup.places.state / self.node
        self._me = incarnation(self.node, slot, state, promise(keeper))
        pulse = setup.places.run / self.node / f"{slot}.pulse"
        self._kept = Kept(
            pulse,
            self._me,
            self.names,
            keeper,
            say=lambda event, cause: self._journal.write(event, cause=cause),
            elsewhere=self._disk.elsewhere,
        )
        self._lag = Lag(
            float(setup.config.scheduling_slack) / 2, lambda cause: self._journal.write("starved", cause=cause)
        )
        self._executor = RealExecutor(
            home=self._me.home,
            cgroup=self._me.cgroup,
            deliver=self.deliver,
            arguments=[*arguments, *([] if self.daemon else self.names)],
            environment=os.environ | {PULSE: str(pulse)},
        )
        opener = partial(open_store, setup.lock, setup.config.plugins)
        self._store = LateStore(setup.lock, self._store_opened, opener)
        self._port = ThreadedStorePort(self._store, BootClock(), self._deliver_from_thread)
        self._inbox: deque[Report] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._asked_at = float("-inf")  # when a signal asked for the halt
        self._scheduled = False
        self._leaving = False  # to be replaced
        self._problems: list[str] = []  # of the configuration, as it was loaded
        self._loaded: Daemon | None = None  # of a daemon: what it knows of the cluster's packages
        self._beats: asyncio.TimerHandle | None = None

    async def run(self) -> int:
        """Until every package is halted here, the goal is reached, or it is to be replaced. Returns the exit code."""
        code = await self._run()
        if self._beats is not None:
            self._beats.cancel()
        self._kept.end(code)
        return code

    async def _run(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._loop.set_exception_handler(self._failed)
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._signalled, number)
        self._loop.add_signal_handler(signal.SIGUSR1, self.leave)
        if self._keeper:
            steady(self._setup.config.priority)  # what is not permitted its keeper has said
        preparing = asyncio.create_task(self._prepare())
        try:
            await asyncio.wait((preparing, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                return self._ended.result()
            return await self._manage(preparing.result())
        except ConfigError as error:
            return self._refuse(str(error), CONFIGURATION)
        except Busy as error:
            return self._refuse(str(error), BUSY)
        except ValueError as error:  # the memory is damaged
            return self._refuse(str(error), CONFIGURATION)
        except OSError as error:
            return self._refuse(str(error), FAILED)
        finally:
            preparing.cancel()
            await asyncio.wait((preparing,))
            await self._close()

    # ---- beginning and end
    async def _prepare(self) -> list[PackageSpec]:
        """Everything that may be refused."""
        self._setup.places.ensure(packages=False)
        self._lock()
        self._kept.open(self.names)
        self._beat(self._loop.time())
        opening = self._store.begin_opening(self._loop)
        loaded = await self._executor.start()
        try:
            trouble = await asyncio.wait_for(opening, OPENING)
        except TimeoutError:
            trouble = f"no answer within {OPENING:g} s"
        packages = {package.name: package for package in loaded.packages}
        if self.daemon:
            self.names = [name for name in self.names if name in packages]
        elif any(name not in packages for name in self.names):
            raise ConfigError(loaded.problems or [Problem(text=f"not found: {', '.join(self.names)}")])
        digests = {name: each for name, each in loaded.digests.items() if name in self.names}
        self._loaded = Daemon(loaded.rules, digests, now, self._setup.config.forming) if self.daemon else None
        for problem in loaded.problems:
            self._problems.append(str(problem))
            self._journal.write("problem", cause=str(problem))
        if self._unheeded:
            self._journal.write("problem", cause=self._unheeded)
        if trouble:
            self._journal.write("store_trouble", cause=f"cannot open the lock store: {trouble}; trying again")
        return [packages[name] for name in self.names]

    def _lock(self) -> None:
        """Raises Busy, OSError. A daemon leaves to a `btw run` what that has, and out whose memory is damaged: it is
        not to cost the others."""
        if self.daemon:
            self._disk.lock(SLOT)
        for name in list(self.names):
            try:
                self._disk.lock(name)
                if self.daemon:
                    self._disk.load(name)
            except (Busy, ValueError) as error:
                if not self.daemon:
                    raise
                self.names.remove(name)
                self._problems.append(f"{name} is left out: {error}")
                self._journal.write("problem", package=name, cause=f"left out: {error}")

    async def _manage(self, packages: list[PackageSpec]) -> int:
        ports = Ports(
            clock=BootClock(),
            store=self._port,
            executor=self._executor,
            disk=self._disk,
            journal=self._journal,
            keeper=self._kept,
        )
        cluster, creates = self._setup.config.cluster, self._store.creates_itself
        manager = Manager(self._me, packages, ports, cluster=cluster, creates=creates, daemon=self._loaded)
        self._journal.listeners += [self._executor.event, self._answers.tell]
        manager.begin()
        self.manager = manager
        await self._control.start()
        self._port.start_watch("")
        names = ", ".join(self.names) or "no packages"
        began = f"managing {names}; lock {self._store.description}; btw {__version__}"
        self._journal.write("began", cause=began, pid=self._me.pid)
        self._kept.began(min((each.timing.stall for each in packages), default=SHORTEST_STALL))
        self.schedule()
        code = await self._ended
        for text in self._unwritten():
            self._journal.write("forgotten", cause=f"{text}; ask once more, for this daemon ends")
        why = f"{names}: left as they are, to another manager" if code == LEFT else f"{names}: halted here"
        self._journal.write("ended", cause=manager.failure or ("" if self._goal else why))
        return code

    async def _close(self) -> None:
        """Nothing of this run is left afterwards but what it started."""
        if self._timer is not None:
            self._timer.cancel()
        self._port.stop()
        await self._control.close()
        await self._executor.close()
        self._disk.close()
        self._journal.close()
        threading.Thread(target=self._store.close, daemon=True).start()  # an engine may hang even here

    def _refuse(self, message: str, code: int) -> int:
        print(f"btw: {message}", file=sys.stderr)
        return code

    def _store_opened(self, store: Store) -> None:
        if self.manager is not None:
            self.manager.creates = store.creates_itself

    # ---- the inbox
    def _deliver_from_thread(self, report: Report) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is interested any more
            self._loop.call_soon_threadsafe(self.deliver, report)

    def deliver(self, report: Report) -> None:
        self._inbox.append(report)
        self.schedule()

    def schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        """Hand over what has come and what is due; then set the timer anew."""
        self._scheduled = False
        manager = self.manager
        if manager is None or self._ended.done():
            return
        try:
            while self._inbox:
                manager.handle(self._inbox.popleft())
                manager.tick()  # 150 packages that start fill the inbox for seconds; renewals do not wait for that
            manager.tick()
            code = self._goal(manager) if self._goal else None
            due = manager.next_deadline()
        except Exception as error:  # noqa: BLE001 - a defect must not leave a manager that renews but does not think
            self._die(error)
        self._answers.left(manager)
        if code is None and manager.finished:
            code = FAILED if manager.failure else DONE
        if code is None and self._leaving and self._calm(manager):
            code = LEFT
        if code is not None:
            self._ended.set_result(code)
            return
        if self._timer is not None:
            self._timer.cancel()
        wait = NAP if due is None else min(NAP, max(0.0, due - BootClock().now()))
        at = self._loop.time() + wait
        self._timer = self._loop.call_at(at, self._due, at)

    def _due(self, at: float) -> None:
        self._lag.saw(self._loop.time() - at)
        self.schedule()

    def _beat(self, at: float) -> None:
        """For the keeper: this loop runs."""
        now = self._loop.time()
        self._lag.saw(now - at)
        controllers = self.manager.controllers if self.manager else {}
        self._kept.beat("; ".join(f"{name} {each.situation.state}" for name, each in controllers.items())[:500])
        self._beats = self._loop.call_at(now + BEAT, self._beat, now + BEAT)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What a callback of the loop did not catch. A task's failure costs one answer, anything else may be a report
        that never arrives."""
        error = context.get("exception")
        if error is None or {"task", "future", "transport"} & context.keys():
            loop.default_exception_handler(context)
        else:
            self._die(error)

    def _die(self, error: BaseException) -> NoReturn:
        """Packages stay as they are; the next manager of this node adopts them. The zygote kills what is running."""
        text = "".join(traceback.format_exception(error))
        self._journal.write("defect", cause=text.strip().rpartition("\n")[2], traceback=text)
        print(f"{text}btw: this is a defect of btw: please report it. Packages stay as they are.", file=sys.stderr)
        sys.stderr.flush()
        os._exit(DEFECT)

    # ---- what people ask
    def leave(self) -> None:
        """The keeper wants to put another manager in our place, and has seen to it that there can be one."""
        self._leaving = bool(self._keeper)
        self.schedule()

    def _calm(self, manager: Manager) -> bool:
        return not self._executor.busy and not any(
            each.situation.state in _BUSY_STATES for each in manager.controllers.values()
        )

    def _signalled(self, number: signal.Signals) -> None:
        now = BootClock().now()
        again, hasty = self._asked_at > float("-inf"), now - self._asked_at < IMPATIENT
        self._asked_at = now
        name = signal.Signals(number).name
        if self.manager is None:
            if not self._ended.done():
                self._refuse(f"{name} before it had begun", FAILED)
                self._ended.set_result(FAILED)
            return
        if again:
            for line in self.waiting_for():
                print(line, file=sys.stderr, flush=True)
        if not hasty:
            self.deliver(HaltAsked(cause=name))

    def waiting_for(self) -> list[str]:
        """Why the run has not ended yet, a line for each package."""
        assert self.manager is not None
        lines = []
        for controller in self.manager.controllers.values():
            said = summary(controller)
            if not controller.left:
                doing = said["working_on"] or said["lock"]
                lines.append(f"waiting for {said['package']}: {said['state']}, {doing}; {said['cause']}")
        return lines or ["waiting for the lock store to hear that this node ends"]

    def ping(self) -> Answer:
        """Who answers."""
        return {"pid": self._me.pid, "keeper": self._kept.pid, "packages": self.names}

    def found_wrong(self) -> list[str]:
        """What costs a package its place here, and what then."""
        damaged = self.manager.damaged if self.manager is not None else {}
        wrong = [f"{name} is not managed: {text}" for name, text in damaged.items()]
        wrong += [f"{text}; done as soon as it does, unless this daemon ends before" for text in self._unwritten()]
        return self._problems + wrong

    def _unwritten(self) -> Iterator[str]:
        """What was asked for, of packages and nodes, and is in this process only."""
        placer = self.manager.placer if self.manager is not None else None
        for name, trouble in (placer.unwritten if placer else {}).items():
            yield f"{name} was to be changed, and the lock store has not taken that: {trouble}"

    def status(self, manager: Manager) -> Answer:
        """What `status` shows of this manager."""
        said = manager.summary() | {"lock": self._store.description, "journal_trouble": self._journal.trouble}
        said |= {"keeper": self._kept.pid, "keeper_trouble": self._kept.trouble, "daemon": self.daemon}
        said |= {"problems": self.found_wrong()}
        said |= {"late": round(self._lag.worst, 3), "lag": self._lag.trouble}
        for package in said["packages"]:
            package["stop_timeout"] = manager.controllers[package["package"]].spec.timing.stop_timeout
        return said
