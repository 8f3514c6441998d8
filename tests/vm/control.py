"""The host's end of one machine's serial line: questions, answers, and what the machine says by itself."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: Bytes that may be on their way to a machine: with more than 4 KB unread the serial line of UML gets stuck.
WINDOW = 2048


class LabError(Exception):
    """The laboratory could not do what it was told."""


class MachineGone(LabError):
    """The machine ended, or began a new life, before it answered."""


def clock() -> float:
    """The host's CLOCK_BOOTTIME in seconds: what every time in the laboratory is given in."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Life:
    """A machine from one boot to the next. Times by the host's clock; `failed` says why it is not ready."""

    boot: str
    began: float
    ready: float | None = None
    failed: str = ""


@dataclass
class Spawned:
    """A command running in a machine. `lines` has what it printed, each with the host's time of its arrival."""

    name: str
    control: Control
    number: int
    boot: str
    pid: int = 0
    code: int | None = None
    text: str = ""
    lines: list[tuple[float, str]] = field(default_factory=list)

    def wait(self, timeout: float = 60) -> int:
        """Its exit code, negative for a signal. MachineGone when its machine ended before."""
        self.control.until(lambda: self.code is not None or not self.control.lives_on(self.boot), self.name, timeout)
        if self.code is None:
            raise MachineGone(f"{self.name}: the machine ended while it ran")
        return self.code

    def until(self, pattern: str, timeout: float = 60) -> float:
        """When the first line with this regular expression arrived."""
        def found() -> float | None:
            return next((at for at, line in self.lines if re.search(pattern, line)), None)

        def over() -> bool:
            return found() is not None or self.code is not None or not self.control.lives_on(self.boot)

        self.control.until(over, f"{self.name} printing {pattern!r}", timeout)
        at = found()
        if at is None:
            raise LabError(f"{self.name} ended (exit code {self.code}) without printing {pattern!r}:\n{self.text}")
        return at

    def signal(self, number: int) -> None:
        self.control.ask("signal", 10, pid=self.pid, number=number)


class Control:
    """Threads: one reads the line for as long as it is open; all methods may be called from any."""

    def __init__(self, machine: str, line: socket.socket) -> None:
        self.machine = machine
        self.lives: list[Life] = []
        self._line = line
        self._news = threading.Condition()
        self._answers: dict[int, dict[str, Any] | None] = {}
        self._spawned: dict[int, Spawned] = {}
        self._numbers = 0
        self._sending = threading.Lock()
        self._sent = self._received = 0
        self._open = True
        line.settimeout(10)
        self._reader = threading.Thread(target=self._read, daemon=True, name=f"{machine} line")
        self._reader.start()

    # ---- what is known
    @property
    def life(self) -> Life:
        """The present one. LabError before the first."""
        if not self.lives:
            raise LabError(f"{self.machine} has not booted")
        return self.lives[-1]

    @property
    def is_open(self) -> bool:
        """False after the machine's process ended."""
        return self._open

    def lives_on(self, boot: str) -> bool:
        return self._open and self.life.boot == boot

    def until(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        """Waits for news that make it true. LabError after `timeout` seconds."""
        with self._news:
            if not self._news.wait_for(condition, timeout):
                raise LabError(f"{self.machine}: not within {timeout:g} s: {what}")

    # ---- what is asked
    def ask(self, do: str, limit: float, **words: Any) -> dict[str, Any]:
        """The answer. LabError when there is none within `limit` seconds, or when it is an error."""
        with self._news:
            self._numbers += 1
            number = self._numbers
            boot = self.life.boot
            self._answers[number] = None
        try:
            self._send(boot=boot, id=number, do=do, **words)
            self.until(lambda: self._answers[number] is not None or not self.lives_on(boot), do, limit)
            answer = self._answers[number]
        finally:
            del self._answers[number]
        if answer is None:
            raise MachineGone(f"{self.machine} ended before it answered: {do} {words}")
        if "error" in answer:
            raise LabError(f"{self.machine}: {do}: {answer['error']}")
        return answer

    def spawn(self, argv: list[str], env: dict[str, str]) -> Spawned:
        with self._news:
            number = self._numbers + 1  # the one that ask() will take
            spawned = Spawned(f"{self.machine}: {' '.join(argv)}", self, number, self.life.boot)
            self._spawned[number] = spawned
            spawned.pid = self.ask("spawn", 30, argv=argv, env=env)["pid"]
        return spawned

    def close(self) -> None:
        """After the machine's end: whoever waits for it is told."""
        with contextlib.suppress(OSError):  # the other end may be closed already
            self._line.shutdown(socket.SHUT_RDWR)
        self._reader.join(10)
        self._line.close()

    def _send(self, boot: str, **message: Any) -> None:
        data = b"\n" + json.dumps({"boot": boot, **message}).encode() + b"\n"
        with self._sending:
            while data:
                self.until(lambda: not self.lives_on(boot) or self._on_the_way() < WINDOW, "to listen", 30)
                part, data = data[: WINDOW // 2], data[WINDOW // 2 :]
                try:
                    self._line.sendall(part)
                except OSError as error:
                    raise MachineGone(f"{self.machine} does not listen: {error}") from error
                self._sent += len(part)

    def _on_the_way(self) -> int:
        return self._sent - self._received

    # ---- what is heard
    def _read(self) -> None:
        rest = b""
        while True:
            try:
                data = self._line.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            with self._news:
                for line in lines:
                    with contextlib.suppress(ValueError):  # what a machine that died had begun to say
                        self._hear(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._open = False
            self._news.notify_all()

    def _hear(self, message: dict[str, Any]) -> None:
        now = clock()
        number = message.get("id")
        spawned = self._spawned.get(number) if number is not None else None
        if "boot" in message:
            self.lives.append(Life(message["boot"], now))
            self._sent = self._received = 0
        elif "received" in message:
            self._received = message["received"]
        elif "ready" in message:
            self.life.ready = now
        elif "failed" in message:
            self.life.failed = message["failed"]
        elif spawned is not None and "printed" in message:
            spawned.text += message["printed"]
            done = "".join(line + "\n" for _, line in spawned.lines)
            *fresh, _ = spawned.text[len(done) :].split("\n")
            spawned.lines += [(now, line) for line in fresh]
        elif spawned is not None and "ended" in message:
            spawned.code = message["ended"]
        elif number in self._answers:
            self._answers[number] = message
