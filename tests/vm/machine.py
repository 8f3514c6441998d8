"""One machine: a User Mode Linux kernel, which is one process of the host and its children."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vm.control import Control, LabError, Life, Spawned, clock
from vm.wires import DIE_WITH_US, Wires, tap

#: Where this package is found, in machines too.
TESTS = Path(__file__).parent.parent
#: When the kernel ends, so do all of its threads and children: it is the first process of a pid namespace.
TOGETHER = ["unshare", "--pid", "--fork", "--kill-child=KILL"]
#: Bytes of a file in one request.
CHUNK = 256 << 10


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Machine:
    """`config` is what guest/services.py sets up; `directory` has its disk and its console's log."""

    name: str
    directory: Path
    wires: Wires
    config: dict[str, Any]
    memory: int
    preload: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _control: Control | None = field(default=None, init=False)
    _known: str = field(default="", init=False)

    # ---- power
    def start(self, init: str = "") -> None:
        """Power on; returns at once. `init`: "agent" or "systemd" instead of the lab's choice."""
        if self._process is not None:
            raise LabError(f"{self.name} is on")
        disk = self.directory / "disk"
        if not disk.exists():
            disk.touch()
            os.truncate(disk, 512 << 20)
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", disk], check=True, capture_output=True, timeout=60)
        shutil.rmtree(self.directory / self.name, ignore_errors=True)  # a former life's: its pid is ours again
        config = self.config | ({"init": init} if init else {})
        ours, line = socket.socketpair()
        plugs = [
            f"vec{index}:transport=tap,ifname={tap(self.name, wire)},depth=64,gro=1"
            for index, wire in enumerate(self.wires.names)
        ]
        with open(self.directory / "console.log", "ab") as console, line:
            self._process = subprocess.Popen(
                [
                    *(*DIE_WITH_US, *self.wires.inside, *TOGETHER, "env", f"LD_PRELOAD={self.preload}"),
                    *("linux.uml", f"umid={self.name}", f"uml_dir={self.directory}/", f"mem={self.memory}M", "quiet"),
                    *("rootfstype=hostfs", "rootflags=/", "ro", f"ubd0={disk}", *plugs),
                    *("con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:0"),
                    *(f"PYTHONPATH={TESTS}", f"init={sys.executable}", "--", "-S", "-m", "vm.guest.init"),
                    json.dumps(config).encode().hex(),
                ],
                stdin=line.fileno(),  # the only descriptors that outlive a reboot are these three (uml.c)
                stdout=console,
                stderr=console,
                env=os.environ | {"TMPDIR": str(self.directory)},
                start_new_session=True,
            )
        self._control = Control(self.name, ours)
        self._known = ""

    def boot(self, init: str = "", timeout: float = 90) -> None:
        """Power on, and wait until the machine is ready."""
        self.start(init)
        self.wait_for_reboot(timeout)

    def wait_for_reboot(self, timeout: float = 90) -> str:
        """Waits until the machine is ready in a life that neither `boot` nor this has told of before; its boot id."""
        control = self.control

        def over() -> bool:
            life = self._fresh()
            return not control.is_open or (life is not None and (life.ready is not None or life.failed != ""))

        try:
            control.until(over, "ready after a boot", timeout)
            life = self._fresh()
            if life is None or life.ready is None:
                raise LabError(f"{self.name} did not boot: {life.failed if life else 'its process ended'}")
        except LabError as error:
            raise LabError(f"{error}\nThe end of its console:\n{self.console()[-3000:]}") from None
        self._known = life.boot
        return life.boot

    def _fresh(self) -> Life | None:
        lives = self.control.lives
        return lives[-1] if lives and lives[-1].boot != self._known else None

    def power_off(self) -> None:
        """Pulls the power cord. What the machine has not flushed is lost; its disk stays for the next boot."""
        if self._process is None:
            return
        try:
            os.kill(self.pid, signal.SIGKILL)
        except LabError:  # it has ended, or has not begun: then it does not
            self._process.kill()
        self._process.wait(30)  # for the last process of the namespace
        self._process = None
        self.control.close()

    def freeze(self) -> None:
        """The whole machine stands still (SIGSTOP), like a paused one whose clocks go on."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """After this its monotonic and boot-time clocks have jumped forward by the time it stood still."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        """The host's process that the machine's kernel is."""
        if self._process is not None and self._process.poll() is None:
            outside = self._process.pid  # unshare(1), which waits for it
            if children := Path(f"/proc/{outside}/task/{outside}/children").read_text().split():
                return int(children[0])
        raise LabError(f"{self.name} is off")

    # ---- cables
    def cut(self, wire: str = "lan") -> None:
        """Pulls one cable: "lan", or "path1" or "path2" of the disk."""
        self.wires.cut(self.name, wire)

    def join(self, wire: str = "lan") -> None:
        self.wires.join(self.name, wire)

    # ---- commands and files
    @property
    def control(self) -> Control:
        if self._control is None:
            raise LabError(f"{self.name} was never booted")
        return self._control

    def run(
        self, *argv: str, input: str = "", env: dict[str, str] | None = None, timeout: float = 30, check: bool = True
    ) -> Result:
        """Runs a command to its end, with the project's environment first in PATH. Past `timeout` seconds it is killed
        with its process group and this raises LabError, as it does when `check` and the exit code is not 0."""
        words = {"argv": list(argv), "env": env or {}, "input": input, "timeout": timeout}
        answer = self.control.ask("run", timeout + 30, **words)
        result = Result(answer["code"], answer["out"], answer["err"])
        problem = f"took more than {timeout:g} s" if answer["late"] else f"exit {result.code}" if result.code else ""
        if answer["late"] or (check and problem):
            raise LabError(f"{self.name}: {' '.join(argv)}: {problem}\n{result.out}{result.err}")
        return result

    def python(self, program: str, *arguments: str, timeout: float = 30) -> str:
        """What a Python program prints."""
        return self.run(sys.executable, "-c", program, *arguments, timeout=timeout).out

    def spawn(self, *argv: str, env: dict[str, str] | None = None) -> Spawned:
        """Starts a command in the background."""
        return self.control.spawn(list(argv), env or {})

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file, with its directories, flushed to the machine's disk."""
        data = text.encode()
        for start in range(0, len(data) or 1, CHUNK):
            part = base64.b64encode(data[start : start + CHUNK]).decode()
            self.control.ask("write", 60, path=path, data=part, mode=mode, start=start == 0)

    def read(self, path: str) -> str:
        """A text file. LabError when there is none."""
        return base64.b64decode(self.control.ask("read", 60, path=path)["data"]).decode(errors="replace")

    # ---- what is known of it
    def boot_id(self) -> str:
        """Of its present life, as the machine said when it began; asks nothing."""
        return self.control.life.boot

    def clock(self) -> tuple[float, float]:
        """What to add to the machine's CLOCK_BOOTTIME for the host's, and how wrong that may be: both in seconds."""
        readings = []
        for _ in range(5):
            before = clock()
            there: float = self.control.ask("clock", 30)["clock"]
            after = clock()
            readings.append(((before + after) / 2 - there, (after - before) / 2))
        return min(readings, key=lambda reading: reading[1])

    def console(self) -> str:
        """What its kernels printed, in all its lives."""
        return (self.directory / "console.log").read_text(errors="replace")

    def save(self, directory: Path) -> None:
        """Its console's log and, when it answers, its logs and state files."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "console.log").write_text(self.console())
        pack = "tar -C / -cz --ignore-failed-read var/log/lab var/log/btw var/lib/btw etc/btw 2>/dev/null | base64"
        try:
            words = {"argv": ["sh", "-c", pack], "env": {}, "input": "", "timeout": 10}
            answer = self.control.ask("run", 15, **words)  # a frozen machine should not hold up the end
            (directory / "files.tar.gz").write_bytes(base64.b64decode(answer["out"]))
        except LabError as error:
            (directory / "files.txt").write_text(f"none: {error}\n")
