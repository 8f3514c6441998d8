"""A laboratory of booted machines (User Mode Linux) on a private network.

    with Lab(machines=3, etcd=3, disk=True, paths=2, watchdog=5) as lab:
        lab["n1"].run("btw", "check")

By hand, as root, in tests/: `python -m vm.lab up 3 --etcd 3 --disk`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vm import referee
from vm.control import LabError, clock
from vm.machine import Machine
from vm.wires import HOST, Wires

__all__ = ["Lab", "LabError", "Machine", "clock"]
STORAGE = "storage"
REPAIRS = Path(__file__).with_name("uml.c")
#: Where logs of every laboratory are kept, when it is set.
LOGS = "BTW_VM_LOGS"


class Lab:
    """Machines n1, n2... and, for a disk, `storage`, all with the host's files and this Python environment.

    `etcd`: members, on the first machines. `disk`: shared, /dev/lab/path1 (and path2) in each machine. `watchdog`:
    seconds of a softdog, /dev/watchdog1; 0 for none. `init`: "agent", or "systemd" for a real one.
    """

    def __init__(
        self,
        machines: int = 3,
        *,
        etcd: int = 0,
        disk: bool = False,
        paths: int = 1,
        watchdog: int = 0,
        init: str = "agent",
        memory: int = 256,
    ) -> None:
        self.names = [f"n{number}" for number in range(1, machines + 1)]
        self.etcd = self.names[:etcd]
        self.wires_wanted = ["lan", "lab", *(f"path{number}" for number in range(1, paths + 1) if disk)]
        self.disk = disk
        self.watchdog = watchdog
        self.init = init
        self.memory = memory
        self.machines: dict[str, Machine] = {}
        self._ending = contextlib.ExitStack()

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.machines.values())

    def __enter__(self) -> Lab:
        """Boots everything; returns when all machines are ready and etcd is healthy."""
        with contextlib.ExitStack() as ending:
            try:
                self._build(ending)
                for machine in self:
                    machine.start()
                for machine in self:
                    machine.wait_for_reboot()
                self.wait_for_etcd()
            except BaseException:
                self._save()
                raise
            self._ending = ending.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        with self._ending:
            self._save()

    @property
    def endpoints(self) -> list[str]:
        """URLs of the etcd members."""
        return [f"http://{self.address(name)}:2379" for name in self.etcd]

    def address(self, name: str, wire: str = "lan") -> str:
        """The IPv4 address of a machine on a wire."""
        number = 100 if name == STORAGE else int(name.removeprefix("n"))
        return self.wires.address(wire, number)

    def reporter(self, name: str) -> list[str]:
        """The command that, in a machine, tells the referee that `name` is active there for as long as it runs."""
        return [sys.executable, "-S", referee.__file__, "report", name, self.wires.address("lab", HOST)]

    def wait_for_etcd(self, timeout: float = 60) -> None:
        """Until each member says that the cluster is healthy (a leader, and a write that went through)."""
        end = clock() + timeout
        for name in self.etcd:
            while '"true"' not in (said := self._health(name)):
                if clock() > end:
                    raise LabError(f"etcd of {name} is not healthy after {timeout:g} s: {said}")
                time.sleep(0.1)

    def _health(self, name: str) -> str:
        with self.wires.socket(socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            try:
                connection.connect((self.address(name), 2379))
                connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                return b"".join(iter(lambda: connection.recv(4096), b"")).decode()
            except OSError as error:
                return str(error)

    def _build(self, ending: contextlib.ExitStack) -> None:
        all_names = [*self.names, *([STORAGE] if self.disk else [])]
        place = roomy(len(all_names) * (self.memory + 64) << 20)
        self.directory = Path(tempfile.mkdtemp(prefix="btw-lab-", dir=place))
        ending.callback(shutil.rmtree, self.directory, ignore_errors=True)
        library = self.directory / "uml.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-nostdlib", "-o", library, REPAIRS], check=True, timeout=60)
        self.wires = Wires(self.wires_wanted)
        ending.callback(self.wires.close)
        listening = self.wires.socket(socket.SOCK_DGRAM)
        listening.bind((self.wires.address("lab", HOST), referee.PORT))
        self.referee = referee.Referee(listening)
        ending.callback(self.referee.close)
        for name in all_names:
            self.wires.add(name)
            directory = self.directory / name
            directory.mkdir()
            self.machines[name] = Machine(name, directory, self.wires, self._config(name), self.memory, library)
            ending.callback(self.machines[name].power_off)

    def _config(self, name: str) -> dict[str, Any]:
        paths = [self.address(STORAGE, wire) for wire in self.wires_wanted if wire.startswith("path")]
        number = int(self.address(name).rpartition(".")[2])
        return {
            "name": name,
            "machine_id": hashlib.md5(f"{self.directory}{name}".encode()).hexdigest(),
            "init": self.init,
            "path": [str(Path(sys.executable).parent)],
            "hosts": [["127.0.0.1", "localhost"], *([self.address(each), each] for each in self.names)],
            "wires": [
                [wire, f"{self.address(name, wire)}/24", f"02:00:00:00:{index:02x}:{number:02x}"]
                for index, wire in enumerate(self.wires_wanted)
            ],
            "watchdog": self.watchdog if name != STORAGE else 0,
            "storage": paths if name == STORAGE else [],
            "portals": paths if name != STORAGE else [],
            "etcd": {each: self.address(each) for each in self.etcd} if name in self.etcd else {},
        }

    def _save(self) -> None:
        if directory := os.environ.get(LOGS):
            for machine in self:
                machine.save(Path(directory, self.directory.name, machine.name))


def roomy(size: int) -> Path:
    """Memory of machines is a file that is run from: on a tmpfs that allows this and has the room, or else on disk."""
    memory = Path("/dev/shm")
    with contextlib.suppress(OSError):
        found = os.statvfs(memory)
        if found.f_bavail * found.f_frsize > size and not found.f_flag & os.ST_NOEXEC:
            return memory
    return Path(tempfile.gettempdir())


def main() -> None:
    parser = argparse.ArgumentParser(description="Boot a laboratory; Ctrl-C ends it.")
    up = parser.add_subparsers(required=True).add_parser("up", help="boot machines and talk to them")
    up.add_argument("machines", type=int)
    up.add_argument("--etcd", type=int, default=0, metavar="MEMBERS")
    up.add_argument("--disk", action="store_true")
    up.add_argument("--paths", type=int, default=1, choices=(1, 2))
    up.add_argument("--watchdog", type=int, default=0, metavar="SECONDS")
    up.add_argument("--init", default="agent", choices=("agent", "systemd"))
    began = clock()
    with Lab(**vars(parser.parse_args())) as lab:
        print(f"{', '.join(lab.machines)} ready in {clock() - began:.1f} s; logs: {lab.directory}")
        print("MACHINE COMMAND...   |   MACHINE freeze, resume, power_off, boot, cut, join")
        for line in sys.stdin:
            try:
                obey(lab, line.split())
            except (LabError, KeyError) as error:
                print(error)


def obey(lab: Lab, words: list[str]) -> None:
    """One line of what a person types."""
    if len(words) == 2 and words[1] in ("freeze", "resume", "power_off", "boot", "cut", "join"):
        getattr(lab[words[0]], words[1])()
    elif len(words) > 1:
        result = lab[words[0]].run("sh", "-c", " ".join(words[1:]), check=False)
        print(result.out + result.err + (f"exit {result.code}" if result.code else ""))


if __name__ == "__main__":
    main()
