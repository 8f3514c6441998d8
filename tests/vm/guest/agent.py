"""The laboratory's hand in a machine: sets it up at each boot, then does what the host says on a serial line.

One JSON object per line. To the host: `{"boot": ID}` first, `{"ready": SECONDS}` or `{"failed": TEXT}` when set up,
then answers `{"id": N, ...}`. From the host: `{"boot": ID, "id": N, "do": WORD, ...}`; a request made to a former life
of the machine is dropped, for the line outlives a reboot. A serial line works with every network cut.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import tty
from pathlib import Path
from typing import Any

from vm.guest import services

LINE = "/dev/ttyS0"
#: The host sends no more than some bytes (control.py, WINDOW) before it hears that so many more have arrived.
TELL = 512
#: Seconds for a killed command to be gone before the answer says that it would not die.
DYING = 5.0


class Agent:
    """Each request has a thread of its own: a command that hangs holds up nobody."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self.config = config
        self._line = os.open(LINE, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        tty.setraw(self._line)
        self._sending = threading.Lock()
        path = ":".join([*config["path"], os.environ["PATH"]])
        self._environment = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}

    def say(self, **message: Any) -> None:
        """One line to the host."""
        data = b"\n" + json.dumps(message).encode() + b"\n"  # the first newline ends what a former life left unfinished
        with self._sending:
            while data:
                data = data[os.write(self._line, data) :]

    def serve(self) -> None:
        """Never returns."""
        rest = b""
        received = told = 0
        while True:
            data = os.read(self._line, 4096)
            received += len(data)
            if received - told >= TELL:
                told = received
                self.say(received=received)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # half a request to a former life
                    request = json.loads(line)
                    if request.pop("boot") == self.boot:
                        threading.Thread(target=self._answer, kwargs=request, daemon=True).start()

    def _answer(self, id: int, do: str, **words: Any) -> None:
        try:
            self.say(id=id, **getattr(self, f"do_{do}")(id, **words))
        except Exception:  # noqa: BLE001 - whatever went wrong is the answer
            self.say(id=id, error=traceback.format_exc())

    def _start(self, argv: list[str], env: dict[str, str], stderr: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=self._environment | env,
            cwd="/root",
            start_new_session=True,
        )

    def do_run(self, id: int, argv: list[str], env: dict[str, str], input: str, timeout: float) -> dict[str, Any]:
        process = self._start(argv, env, subprocess.PIPE)
        late = False
        try:
            out, err = process.communicate(input.encode(), timeout)
        except subprocess.TimeoutExpired:
            late = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            try:
                out, err = process.communicate(timeout=DYING)
            except subprocess.TimeoutExpired as stuck:
                out, err = stuck.stdout or b"", stuck.stderr or b""
        said = {"out": out.decode(errors="replace"), "err": err.decode(errors="replace")}
        return {"code": process.poll(), "late": late, **said}

    def do_spawn(self, id: int, argv: list[str], env: dict[str, str]) -> dict[str, Any]:
        process = self._start(argv, env, subprocess.STDOUT)
        assert process.stdin is not None
        process.stdin.close()
        threading.Thread(target=self._follow, args=(id, process), daemon=True).start()
        return {"pid": process.pid}

    def _follow(self, id: int, process: subprocess.Popen[bytes]) -> None:
        """Sends what the process prints, then how it ended. A grandchild that keeps the pipe does not delay the end."""

        def read() -> None:
            assert process.stdout is not None
            while chunk := os.read(process.stdout.fileno(), 65536):
                self.say(id=id, printed=chunk.decode(errors="replace"))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        code = process.wait()
        reader.join(1)
        self.say(id=id, ended=code)

    def do_signal(self, id: int, pid: int, number: int) -> dict[str, Any]:
        os.kill(pid, number)
        return {}

    def do_write(self, id: int, path: str, data: str, mode: int, start: bool) -> dict[str, Any]:
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "wb" if start else "ab") as stream:
            stream.write(base64.b64decode(data))
            stream.flush()
            os.fsync(stream.fileno())
        file.chmod(mode)
        return {}

    def do_read(self, id: int, path: str) -> dict[str, Any]:
        return {"data": base64.b64encode(Path(path).read_bytes()).decode()}

    def do_clock(self, id: int) -> dict[str, Any]:
        return {"clock": time.clock_gettime(time.CLOCK_BOOTTIME)}


def main() -> None:
    config = json.loads(Path("/etc/btw-lab.json").read_text())
    agent = Agent(config)
    agent.say(boot=agent.boot)
    try:
        services.set_up(config)
    except Exception:  # noqa: BLE001 - whatever went wrong, the host wants to know it
        agent.say(failed=traceback.format_exc())
        traceback.print_exc(file=sys.stdout)
    else:
        agent.say(ready=time.clock_gettime(time.CLOCK_BOOTTIME))
    agent.serve()


if __name__ == "__main__":
    main()
