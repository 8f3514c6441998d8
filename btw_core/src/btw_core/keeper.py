"""The keeper's process, `python -P -m btw_core.keeper`: looks after one manager, the watchdog, and the hard deadline H.

It imports the standard library only, has no thread, and waits for no disk. `keeper_rules.decide` says what to do when;
here it is done.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import NoReturn

from .clock import boot_id, boottime
from .cutoff import Home, Trigger, cut_off
from .errands import Errands
from .exits import BUSY, CONFIGURATION, DONE, FAILED, LEFT
from .keeper_options import options
from .keeper_rules import Decision, Seen, decide
from .life import Life
from .pulse import KEEPER, Held, KeeperHalf, ManagerHalf, Pulse, start_of
from .service import Service
from .steady import steady
from .trial import Trial
from .watchdog import Refused, Watchdog

#: Seconds between two looks, at most.
TICK = 0.25
#: Seconds until another manager is started: at once, then ever later; from the front again after one that was ready.
DELAYS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
#: Seconds between two starts at least.
SPACE = 1.0
#: Seconds until: a device that another keeper had must be free, processes that were killed gone, errands done.
PATIENCE = 2.0
#: Seconds between two attempts to reboot, and between two touches of the pulse's file.
AGAIN, TOUCH = 1.0, 60.0
#: Seconds between two looks that show that this process was stopped, or the computer suspended.
STOOD_STILL = 1.0
#: Exit codes of a manager after which no other one is started while nothing may be up.
_REFUSALS = (FAILED, BUSY, CONFIGURATION)
#: The slot of a daemon.
DAEMON = "@daemon"
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Keeper:
    """See docs/design.md "Processes". `arguments` are this process's own, for its successor."""

    def __init__(self, given: argparse.Namespace, arguments: list[str], pulse: Pulse) -> None:
        """Raises Refused, OSError: what it needs cannot be had."""
        self._given, self._arguments, self._pulse = given, arguments, pulse
        self._began = self._next = self._used = boottime()  # _next: when another manager is started
        self._half = pulse.manager() or ManagerHalf()  # the last that could be read
        self._missing = False
        self._life: Life | None = None
        self._over: int | None = None  # the exit code: no other manager is started
        self._failures = 0
        self._asked = 0  # the signal that asked for the halt
        self._trial: Trial | None = None  # of the code and configuration to upgrade to
        self._upgrading = False  # it is good
        self._cutting = False
        self._cut: set[tuple[str, float]] = set()  # package and H of what has no process left
        self._fenced: set[tuple[str, float]] = set()  # package and H of what was said
        self._pulled = float("-inf")
        self._looked = self._began  # the last time
        self._resumed = float("-inf")  # when this process went on after it had stood still
        self._trigger: Trigger | None = None
        self._watchdog: Watchdog | None = None
        self._service = Service(os.environ)
        self._errands = Errands(given.journal, given.node, self._release)
        self._take_over()
        self._signals: list[int] = []
        self._wake, self._waker = socket.socketpair()
        self._listen()

    def _take_over(self) -> None:
        if self._given.self_fence in ("reboot", "watchdog"):
            try:
                self._trigger = Trigger(self._given.sysrq, self._given.kmsg)
            except OSError as error:
                text = f'self_fence = "{self._given.self_fence}" needs {self._given.sysrq}: {error.strerror}'
                raise Refused(f'{text}; run it as root, not in a container, or set self_fence = "stop"') from error
        if self._given.inherit and self._given.inherit[1] >= 0:
            self._watchdog = Watchdog.inherited(self._given.inherit[1])
        trouble = steady(self._given.priority)
        if trouble and self._given.priority:
            self._errands.say("keeper_not_steady", trouble)
        if start_of(self._half.pid) == self._half.start != 0:
            with contextlib.suppress(ProcessLookupError):  # it ended this very moment
                self._life = Life(self._half.pid)
                self._errands.say("keeper_attached", f"it looks after the manager that runs, pid {self._life.pid}")
                said, meant = self._half.fence, self._given.self_fence
                if said != meant:  # btw.toml was changed: others must not trust what nobody does
                    self._kill(self._life, f"it promises self_fence = {said}, its keeper {meant}")

    def _listen(self) -> None:
        for end in (self._wake, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (*_ASKING, signal.SIGUSR1):
            signal.signal(number, lambda number, _frame: self._signals.append(number))
        for number in (signal.SIGCHLD, signal.SIGTSTP):  # to be woken; and Ctrl-Z must not stop who has to look
            signal.signal(number, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    # ---- its life
    def run(self) -> int:
        """Until nothing is to be kept. Returns the exit code. Raises Refused, OSError: the watchdog cannot be had."""
        while (code := self._tick()) is None:
            self._nap()
        self._service.notify("STOPPING=1")
        if self._watchdog:
            self._watchdog.close(disarm=not self._up())
        self._errands.settle(PATIENCE)
        if not self._pulse.gone():
            self._pulse.path.unlink()
        self._pulse.close()
        return code

    def _nap(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._life:
            poll.register(self._life.pidfd, select.POLLIN)
        window = self._window()
        now = boottime()
        until = min((hard - now for _, hard in self._up() if hard > now), default=TICK)  # H is not looked at late
        poll.poll(1000 * min(TICK, window / 4 if window else TICK, until))
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)

    def _release(self) -> None:
        """In a child that may hang."""
        self._pulse.close()
        if self._watchdog:
            os.close(self._watchdog.descriptor)

    # ---- one look
    def _tick(self) -> int | None:
        """An exit code ends it."""
        self._look()
        if self._life and self._life.over():
            self._ended(self._life)
        decision = decide(self._seen())
        if not self._feed(decision.feed):
            return None
        if decision.fence:
            self._fence(decision.fence)
        self._beat()
        self._errands.tend()
        self._hear()
        self._judge_upgrade()
        if self._life:
            self._tend(self._life, decision)
        elif self._over is not None:
            return self._over if self._down() else None
        elif self._asked and self._down():
            self._over = DONE
        elif self._upgrading:
            self._renew()
        elif boottime() >= self._next:
            self._start()
        self._service.alive()
        return None

    def _up(self) -> list[tuple[str, float]]:
        """What may be up, with its H."""
        return [(name, hard) for name, (_, hard) in self._half.leases.items()]

    def _down(self) -> bool:
        """No process of what may be up is left."""
        return all(each in self._cut for each in self._up())

    def _look(self) -> None:
        """What the manager said last, if it can be read: also in a file that has lost its name meanwhile."""
        self._missing = self._pulse.gone()
        self._half = self._pulse.manager() or self._half
        gone = self._down() and not (self._life and self._up())
        if self._missing and gone:
            with contextlib.suppress(Held, OSError):  # tried again with the next look
                self._pulse = self._pulse.renewed()
                self._missing, self._half = False, self._half._replace(leases={})
                self._errands.say("pulse_renewed", f"{self._pulse.path} was gone; nothing is up here")

    def _seen(self) -> Seen:
        now, half, life = boottime(), self._half, self._life
        beat = now if life is None else half.beat if life.wrote(half) else None
        if now - self._looked > STOOD_STILL:  # so did the manager, perhaps: it has its time from now on
            self._resumed = now
        self._looked = now
        started = now if life is None else max(life.started, self._resumed)
        return Seen(now, started, beat, half.stall, half.leases, self._missing, self._window())

    def _window(self) -> float:
        return float(self._watchdog.window if self._watchdog else self._given.window)

    def _beat(self) -> None:
        pid, now = os.getpid(), boottime()
        half = KeeperHalf(pid=pid, start=start_of(pid), beat=now, window=self._window(), served=self._service.served)
        self._pulse.write(half)
        if now - self._used > TOUCH:
            self._used = now
            with contextlib.suppress(OSError):  # a disk that is read-only now: nobody removes anything there either
                self._pulse.used()

    def _feed(self, feed: bool) -> bool:
        """Feed the watchdog, or open it first: that feeds it too. False: not yet. Raises Refused, OSError."""
        if not self._given.window or not feed:
            return True
        if self._watchdog:
            self._watchdog.feed()
            return True
        try:
            self._watchdog = Watchdog.open(self._given.watchdog, self._given.window)
        except BlockingIOError as error:
            if boottime() - self._began > PATIENCE:
                raise Refused(
                    f"watchdog {error.filename}: {error.strerror}, and it can have one only: another `btw run` of this "
                    "node (one can keep several packages), systemd with RuntimeWatchdogSec=, or watchdogd"
                ) from error
        return self._watchdog is not None

    # ---- the manager
    def _start(self) -> None:
        try:
            mine = [sys.executable, "-P", "-m", "btw_core.keeper", *self._arguments]
            environment = self._service.environment | {KEEPER: json.dumps(mine)}
            self._life = Life.begin(self._given.command, environment)
        except OSError as error:
            self._again(f"cannot be started: {error.strerror}", boottime() + SPACE)

    def _tend(self, life: Life, decision: Decision) -> None:
        half = self._half
        life.saw(half)
        cause = decision.kill or ("the pulse is gone while something may be up" if self._missing and self._up() else "")
        if cause:
            self._kill(life, cause)
        elif life.wrote(half) and (life.ready or not self._up()):
            if self._asked and self._asked not in life.told:
                life.send(self._asked)
            if self._upgrading and life.ready and signal.SIGUSR1 not in life.told:
                life.send(signal.SIGUSR1)
        if life.ready and not self._trial and not self._upgrading:
            self._service.ready(half.said)

    def _kill(self, life: Life, cause: str) -> None:
        if not life.killed:
            self._errands.say("manager_killed", f"pid {life.pid}: {cause}")
        life.killed = cause
        life.send(signal.SIGKILL)

    def _ended(self, life: Life) -> None:
        code, how = life.reap(self._half)
        self._life = None
        if code == LEFT:
            self._renew()
        elif code == DONE or (code in _REFUSALS and not self._up()):
            self._over = code
        else:
            self._failures = 0 if life.ready else self._failures
            self._again(how, life.started + SPACE)

    def _again(self, cause: str, earliest: float) -> None:
        now, delay = boottime(), DELAYS[min(self._failures, len(DELAYS) - 1)]
        self._failures += 1
        self._next = max(now + delay, earliest)
        when = f"in {self._next - now:.0f} s" if self._next > now else "at once"
        self._errands.say("manager_lost", f"{cause}; another one is started {when}, and goes on with what is up")

    def _hear(self) -> None:
        """Signals: what asks for a halt is remembered, for every manager to come."""
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGUSR1:
                self._check_upgrade()
                continue
            self._asked = number
            self._service.notify("STOPPING=1")
            if self._life:
                self._life.told.discard(number)  # once more, for whoever is impatient
            else:
                self._next = boottime()

    # ---- an upgrade in place
    def _check_upgrade(self) -> None:
        if self._trial or self._upgrading:
            return
        self._service.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self._trial = Trial(self._given.command)
        except OSError as error:
            self._refuse_upgrade(f"{sys.executable}: {error.strerror}")

    def _judge_upgrade(self) -> None:
        if self._trial is None or (found := self._trial.outcome()) is None:
            return
        self._trial = None
        if found:
            self._refuse_upgrade(found)
        else:
            self._upgrading = True
            self._errands.say("upgrade", "the manager makes room for a new one; packages stay as they are")

    def _refuse_upgrade(self, cause: str) -> None:
        self._upgrading = False
        self._errands.say("upgrade_refused", f"{cause}: the old one goes on")
        self._service.forget()

    def _renew(self) -> None:
        """Become the new keeper: same process, same lock on the pulse, same watchdog. Returns only if it cannot."""
        self._errands.settle(PATIENCE)
        self._beat()
        held = (self._pulse.descriptor, self._watchdog.descriptor if self._watchdog else -1)
        inherit = ["--inherit", f"{held[0]},{held[1]}"]
        signal.pthread_sigmask(signal.SIG_BLOCK, (*_ASKING, signal.SIGUSR1))  # the new one hears them
        for descriptor in filter(lambda each: each >= 0, held):
            os.set_inheritable(descriptor, True)
        try:
            os.execv(sys.executable, [sys.executable, "-P", "-m", "btw_core.keeper", *inherit, *self._arguments])
        except OSError as error:
            for descriptor in filter(lambda each: each >= 0, held):
                os.set_inheritable(descriptor, False)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            self._refuse_upgrade(f"{sys.executable}: {error.strerror}")

    # ---- the end of a lease
    def _fence(self, cause: str) -> None:
        """What is up at H has to be gone. Nothing here waits for anything."""
        now, home = boottime(), Home(self._half.home, self._half.cgroup)
        late = {(name, hard) for name, hard in self._up() if self._missing or hard <= now}
        if self._trigger and now - self._pulled >= AGAIN:
            self._pulled = now
            try:
                self._trigger.pull(f"btw: keeper of node {self._given.node}: {cause}; this node is rebooted")
            except OSError as error:
                self._errands.say("self_fence", f"{self._given.sysrq}: {error.strerror}: this node cannot be rebooted")
        if not late <= self._fenced:
            self._fenced |= late
            means = "this node is rebooted" if self._trigger else "its processes are killed"
            self._errands.say("self_fence", f"{cause}; {means}")
        todo = late - self._cut
        if not todo or self._cutting:
            return
        self._cutting = True

        def cut(code: int) -> None:
            self._cutting = False
            if code == 0:
                self._cut |= todo

        names = {name for name, _ in todo}
        if not self._errands.fork(lambda: min(1, len(cut_off(home, names, PATIENCE))), cut):
            cut_off(home, names, 0.0)  # without a child: one round, and no waiting


def main(arguments: list[str]) -> int:
    given = options(arguments)
    slot = given.pulse.stem
    try:
        if given.inherit is None:
            pulse = Pulse.keep(given.pulse, boot_id())
        else:
            arguments = arguments[2:]
            os.set_inheritable(given.inherit[0], False)
            pulse = Pulse(given.pulse, given.inherit[0], boot_id())
        return Keeper(given, arguments, pulse).run()
    except Held as held:
        if slot == DAEMON:
            text = f"the daemon of node {given.node} runs already, {held}: see `btw status`; `btw apply` takes changed"
            return _refuse(f"{text} package files over; systemctl stop btw, or TERM to that pid, ends it", BUSY)
        text = f"package {slot} is already managed on node {given.node} by {held}"
        return _refuse(f"{text}: see `btw status {slot}`, end it with `btw stop {slot} --node {given.node}`", BUSY)
    except Refused as refused:
        return _refuse(str(refused), CONFIGURATION)
    except OSError as error:
        where = error.filename or given.pulse
        return _refuse(f"keeper of {slot} on node {given.node}: {where}: {error.strerror}", FAILED)


def _refuse(text: str, code: int) -> int:
    print(f"btw: {text}", file=sys.stderr)
    return code


def leave() -> NoReturn:
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    leave()
