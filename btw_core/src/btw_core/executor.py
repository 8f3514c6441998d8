"""The manager's end of zygote, operations and observer: `ports.Executor` on asyncio. Nothing here blocks the loop.

What ends or hangs is replaced, at once the first time and then ever more slowly. A killed process is only believed to
be gone when the zygote has seen its place empty; what ran when a zygote died is ended by its successor.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import wire
from .command import ending
from .containment import cookie_environment, prune
from .peer import QUEUE, Patience, Peer, Restarts
from .ports import ExecutorLost, Logged, Look, Looked, Operation, OperationEnded, Report, ResourceHealth


class _Running:
    """An operation that has not been reported ended."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.result: wire.Result | None = None
        self.orphan = ""  # how its zygote ended
        self.waiting: Operation | None = None  # not yet sent


class RealExecutor:
    """See `ports.Executor`. `deliver` is called by the loop, never from within a method here.

    `cgroup` is what `containment.find_cgroup_root` said, or ""; `loader` and `arguments` are the zygote's.
    """

    def __init__(
        self,
        *,
        home: str,
        cgroup: str,
        deliver: Callable[[Report], None],
        loader: str = "btw_core.loading:configured",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._deliver, self._patience = deliver, patience or Patience()
        self._command = [sys.executable, "-P", "-m", "btw_core.zygote"]
        self._cgroup = cgroup
        self._rest = [home, cgroup, loader, *arguments]
        room = {} if cgroup else cookie_environment(home)
        self._environment = {**(os.environ if environment is None else environment), **room}
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._hung = ""  # why the zygote had to be killed
        self._zygote: Peer | None = None
        self._observer: Peer | None = None
        self._number = 0  # of the observer
        self._loaded: asyncio.Future[wire.Loaded] | None = None
        self._ready = False
        self._closing = False
        self._running: dict[str, _Running] = {}
        self._looks: dict[int, Look] = {}
        self._names: dict[str, list[str]] = {}  # resources of each package
        self._watched: dict[str, wire.Watch] = {}
        self._said: dict[tuple[str, str], str] = {}  # the last line of each status
        self._restarts = {what: Restarts(self._patience) for what in ("zygote", "observer")}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._loading_since = 0.0

    @property
    def zygote_pid(self) -> int:
        """0 while there is none."""
        return self._process.pid if self._process else 0

    @property
    def busy(self) -> bool:
        """An operation runs, or its end is not yet certain."""
        return bool(self._running)

    async def start(self) -> wire.Loaded:
        """Start everything; returns what the zygote has loaded. Raises TimeoutError, and OSError with the reason when
        it ends instead."""
        self._loop = asyncio.get_running_loop()
        self._loaded = self._loop.create_future()
        self._spawn()
        try:
            loaded = await asyncio.wait_for(asyncio.shield(self._loaded), self._patience.load)
        except BaseException:  # cancelled as well: no zygote stays behind; raised again
            await self.close()
            raise
        self._tick()
        return loaded

    async def close(self) -> None:
        """End the operations that run, the observer and the zygote. Blocks for at most `Patience.close` + 1 s."""
        self._closing = True
        for timer in self._timers.values():
            timer.cancel()
        for peer in (self._observer, self._zygote):
            if peer:
                peer.close()
        process = self._process
        if process is not None:
            await self._until_dead(process, self._patience.close)
            if process.poll() is None:
                process.kill()
                await self._until_dead(process, 1.0)
        self._drop_pidfd()
        if self._cgroup:
            prune(self._cgroup)

    async def _until_dead(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        end = self._loop.time() + seconds
        while process.poll() is None and self._loop.time() < end:
            await asyncio.sleep(0.01)

    # ---- ports.Executor
    def operate(self, operation: Operation) -> None:
        running = self._running[operation.id] = _Running(operation.id)
        if self._ready and self._zygote:
            self._zygote.send(wire.Operate(operation=operation))
        else:
            running.waiting = operation

    def kill(self, operation: str) -> None:
        running = self._running.get(operation)
        if running is None:  # it has ended, and that is on its way to the manager; its services are not to be touched
            return
        if running.waiting is not None:
            running.waiting = None
            self._loop.call_soon(self._ended, operation, "killed before it began")
        elif not running.orphan:  # those are killed anyway
            self._to_zygote(wire.Kill(id=operation))

    def prepare(self, package: str, operation: str) -> None:
        self._to_zygote(wire.Prepare(package=package, id=operation))

    def look(self, look: Look) -> None:
        """Waits while there is no observer."""
        self._looks[look.id] = look
        if self._observer:
            self._observer.send(wire.Ask(look=look))

    def watch(self, package: str, term: int, state: dict[str, dict[str, Any]]) -> None:
        watch = self._watched[package] = wire.Watch(package=package, term=term, state=state)
        if self._observer:
            self._observer.send(watch)

    def unwatch(self, package: str) -> None:
        self._watched.pop(package, None)
        if self._observer:
            self._observer.send(wire.Unwatch(package=package))

    def event(self, event: dict[str, Any]) -> None:
        """For the btw_event hooks; lost while there is no observer or it does not read."""
        if self._observer and self._observer.backlog < QUEUE // 2:
            self._observer.send(wire.Happened(event=event))

    # ---- zygote
    def _spawn(self) -> None:
        peer = Peer(self._heard_zygote, self._zygote_hangs)
        self._loading_since = self._loop.time()
        self._restarts["zygote"].began(self._loading_since)
        try:
            self._process = subprocess.Popen(
                [*self._command, str(peer.there), *self._rest],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what plugins print must not get into the answers of `btw ... --json`
                env=self._environment,
                pass_fds=[peer.there],
                start_new_session=True,  # Ctrl-C at the terminal is for the manager alone
            )
        except OSError as error:
            peer.close()
            self._process = None
            self._zygote_lost(f"cannot be started: {error.strerror}")
            return
        finally:
            peer.given()
        self._zygote = peer
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._zygote_died)

    def _heard_zygote(self, message: wire.ToManager) -> None:
        match message:
            case wire.Loaded():
                self._begin(message)
            case wire.Line(package=package, resource=resource, text=text):
                self._deliver(Logged(package=package, resource=resource, text=text))
            case wire.Result(id=id):
                if id in self._running:
                    self._running[id].result = message
            case wire.Exited():
                self._exited(message)
            case wire.ObserverEnded(number=number, cause=cause):
                if number == self._number and self._observer:
                    self._observer_lost(cause)

    def _begin(self, loaded: wire.Loaded) -> None:
        """The zygote is ready: first it ends what its predecessor left, then it does what has waited."""
        self._ready = True
        self._names = {package.name: [each.name for each in package.resources] for package in loaded.packages}
        if self._loaded and not self._loaded.done():
            self._loaded.set_result(loaded)
        else:
            for problem in loaded.problems:
                self._deliver(Logged(package="", resource="", text=f"zygote, started again: {problem}"))
        for running in list(self._running.values()):
            if running.orphan:
                self._to_zygote(wire.Reap(id=running.id))
            elif running.waiting:
                operation, running.waiting = running.waiting, None
                self._to_zygote(wire.Operate(operation=operation))
        self._observe()

    def _exited(self, exited: wire.Exited) -> None:
        running = self._running.get(exited.id)
        if running is None:
            return
        if running.orphan:
            self._ended(exited.id, f"killed, as {running.orphan}", answered=False)
        elif exited.killed:
            self._ended(exited.id, "killed, as it was told to end")
        elif exited.cause.startswith("cannot begin"):
            self._ended(exited.id, exited.cause)
        elif running.result is None or exited.cause:
            self._ended(exited.id, f"ended without a result: {exited.cause or 'exit code 0'}", answered=False)
        else:
            self._ended(exited.id, running.result.error, swept=exited.swept)

    def _ended(self, id: str, error: str, *, answered: bool = True, swept: bool = False) -> None:
        running = self._running.pop(id, None)
        if running is None:
            return
        result = running.result or wire.Result(id=id)
        self._deliver(
            OperationEnded(
                id=id,
                ok=not error,
                answered=answered,
                error=error,
                state=result.state,
                survivors=result.survivors,
                everywhere=result.everywhere,
                swept=swept,
            )
        )

    def _zygote_hangs(self, peer: Peer, cause: str) -> None:
        """It cannot be talked to. If it still runs it is killed; `_zygote_died` does the rest."""
        if peer is self._zygote and self._process:
            self._hung = cause
            if self._process.poll() is None:
                self._process.kill()

    def _zygote_died(self) -> None:
        process, peer = self._process, self._zygote
        if process is None or peer is None or process.poll() is None:
            return
        self._drop_pidfd()
        while peer.read():
            pass
        peer.close()
        self._zygote_lost("; ".join(filter(None, (self._hung, ending(process.returncode)))))

    def _zygote_lost(self, cause: str) -> None:
        self._zygote, self._process, self._ready, self._hung = None, None, False, ""
        if self._observer:
            self._observer.close()
            self._observer = None
        if self._closing:
            return
        if self._loaded and not self._loaded.done():
            self._loaded.set_exception(OSError(f"the zygote ended: {cause}; what it printed says why"))
            return
        for running in self._running.values():
            if running.waiting is None:
                running.orphan = running.orphan or f"the zygote ended: {cause}"
        delay = self._restarts["zygote"].delay(self._loop.time())
        self._timers["zygote"] = self._loop.call_later(delay, self._spawn)
        self._deliver(ExecutorLost(what="zygote", cause=cause))
        self._give_up_looks("the observer has ended with the zygote")

    def _to_zygote(self, message: wire.Message) -> None:
        """Not sent while there is none: `_begin` says it all anew."""
        if self._ready and self._zygote:
            self._zygote.send(message)

    def _drop_pidfd(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    # ---- observer
    def _observe(self) -> None:
        if not self._ready or self._zygote is None:
            return  # `_begin` comes back to it
        self._number += 1
        self._restarts["observer"].began(self._loop.time())
        self._observer = Peer(self._heard_observer, self._observer_hangs)
        self._zygote.send(wire.Observe(number=self._number), self._observer.there)
        for watch in self._watched.values():
            self._observer.send(watch)
        for look in self._looks.values():
            self._observer.send(wire.Ask(look=look))

    def _heard_observer(self, message: wire.ToManager) -> None:
        match message:
            case wire.Answer(looked=looked):
                self._looks.pop(looked.id, None)
                self._deliver(looked)
            case wire.Line(package=package, resource=resource, text=text):
                if self._said.get((package, resource)) != text:  # what status says is news only when it changes
                    self._said[package, resource] = text
                    self._deliver(Logged(package=package, resource=resource, text=text))
            case wire.Stuck(cause=cause):
                if self._observer:
                    self._observer_hangs(self._observer, cause)

    def _observer_hangs(self, peer: Peer, cause: str) -> None:
        """It is killed, and not waited for: with a thread in D state it would never be gone. It changes nothing."""
        if peer is not self._observer:
            return
        if not cause:  # it has ended: the zygote will say how
            self._timers["observer"] = self._loop.call_later(
                1.0, lambda: self._observer_hangs(peer, "has closed its channel")
            )
            return
        self._to_zygote(wire.EndObserver(number=self._number))
        self._observer_lost(cause)

    def _observer_lost(self, cause: str) -> None:
        if self._observer:
            self._observer.close()
        self._observer = None
        if self._closing:
            return
        if "observer" in self._timers:
            self._timers["observer"].cancel()
        delay = self._restarts["observer"].delay(self._loop.time())
        self._timers["observer"] = self._loop.call_later(delay, self._observe)
        self._deliver(ExecutorLost(what="observer", cause=cause))
        self._give_up_looks(f"the observer was lost: {cause}")

    def _give_up_looks(self, why: str) -> None:
        looks, self._looks = self._looks, {}
        for look in looks.values():
            names = look.resources or self._names.get(look.package, ())
            results = tuple(ResourceHealth(resource=name, status=None, detail=why) for name in names)
            self._deliver(Looked(id=look.id, package=look.package, results=results))

    # ---- time
    def _tick(self) -> None:
        self._timers["tick"] = self._loop.call_later(self._patience.ping / 2, self._tick)
        if self._observer and self._looks:
            self._observer.tend(self._patience)
        if self._zygote and self._ready and self._running:
            self._zygote.tend(self._patience)
        if self._zygote and not self._ready and self._loop.time() - self._loading_since > self._patience.load:
            self._zygote.close()
            self._zygote_hangs(self._zygote, f"has not loaded within {self._patience.load:g} s")
