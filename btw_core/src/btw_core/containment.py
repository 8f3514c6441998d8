"""Which processes belong to an operation, and ending all of them.

Every operation has a *place*, a text that ends in /PACKAGE/OPERATION. With cgroup v2 it is a directory (Documentation/
admin-guide/cgroup-v2.rst: cgroup.procs, cgroup.events, cgroup.kill); without, it is what the processes' environment
says. Processes of btw itself live below packages whose names begin with a dot.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from .command import proc_stat
from .mounts import mounts
from .resource import Process

#: Packages that are none: the zygote's and the observers' own places.
ZYGOTE, OBSERVER = ".zygote", ".observer"
#: Bytes that a name may have in the environment of a zygote.
_ROOM = 255
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_libc = ctypes.CDLL(None, use_errno=True)
_libc.getenv.restype = ctypes.c_void_p


def machine_id() -> str:
    """This computer, for `Incarnation.machine`: /etc/machine-id (machine-id(5)), else the host name; with the PID
    namespace where that is not the computer's own, since a process of another one can be neither seen nor killed."""
    machine = ""
    for file in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError):
            machine = machine or Path(file).read_text().strip()
    namespace = str(Path("/proc/self/ns/pid").readlink())
    place = "" if namespace == _INITIAL_PID_NAMESPACE else f"/{namespace}"
    return (machine or f"host {socket.gethostname()}") + place


def kill_process(process: Process, number: signal.Signals = signal.SIGKILL) -> None:
    """A signal to exactly this process; nothing when it is gone. Raises PermissionError. Does not wait."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(process.pid)
        try:
            # the descriptor is bound to whoever has the pid now; the start time says whether that is the one meant
            stat = proc_stat(process.pid)
            if stat is not None and stat.start_time == process.start_time:
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


class Containment(Protocol):
    """Where the processes of one node's operations are. No method waits for a process to end."""

    #: Its answers wait for no lock of any process: what /proc says of one in D state may.
    prompt: bool

    def place(self, package: str, operation: str) -> str: ...

    def create(self, place: str) -> None:
        """Before the fork. Raises OSError."""
        ...

    def enter(self, place: str) -> None:
        """In the child: it and all it will start belong there. Raises OSError."""
        ...

    def members(self, package: str) -> dict[str, list[int]]:
        """Every place of the package on this computer, also of former managers, with its live processes."""
        ...

    def own(self, package: str) -> dict[str, list[int]]:
        """Those of them that managers in our own cgroup have made."""
        ...

    def find(self, operation: str) -> list[str]:
        """Places of this operation, of whatever package."""
        ...

    def kill(self, place: str) -> None:
        """SIGKILL to all in the place."""
        ...

    def empty(self, place: str) -> bool:
        """No live process is there (a zombie is none, one in D state is)."""
        ...

    def remove(self, place: str) -> None:
        """Forget an empty place; nothing where it is gone or not empty."""
        ...


def home_of(node: str, state: Path) -> str:
    """What tells this node's processes from those of a node of the same name with another state directory (another
    cluster, a demo): the name and a short hash of the directory's real path."""
    return f"{node}.{hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:8]}"


def containment(home: str, cgroup: str) -> Containment:
    """The one for operations of an Incarnation with this `home` and `cgroup`."""
    return Cgroups(Path(cgroup)) if cgroup else Cookies(home)


def operation_of(place: str) -> str:
    return place.rpartition("/")[2]


def sequence_of(operation: str) -> str:
    """What the operations of one start or stop of a package have in common."""
    return operation.rpartition(".")[0]


def settle_in(here: Containment) -> None:
    """Enter a place of one's own, named after the manager so that a fence finds it; remove those of dead managers."""
    place = here.place(ZYGOTE, f"{os.getppid()}-{os.getpid()}")
    here.create(place)
    here.enter(place)
    for package in (ZYGOTE, OBSERVER):
        for former, pids in here.members(package).items():
            manager = operation_of(former).partition("-")[0]
            ours = package == OBSERVER and manager == str(os.getppid())  # a predecessor's, who died without killing it
            if ours or not Path("/proc", manager).exists():
                if package == OBSERVER and pids:
                    here.kill(former)  # nothing but commands of `status`
                here.remove(former)


# ---- cgroup v2 --------------------------------------------------------------------------------------------------
def find_cgroup_root(home: str) -> str | None:
    """Make and return the directory for `Cgroups`, MOUNT/OWN_CGROUP/btw/HOME; None where it cannot be used."""
    own = own_cgroup()
    if own is None:
        return None
    root = own / "btw" / home
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".probe-{os.getpid()}"
        probe.mkdir(exist_ok=True)
        # moving a process needs write access to both ends and to the common ancestor (cgroup-v2.rst "Delegation")
        usable = all(os.access(each / "cgroup.procs", os.W_OK) for each in (own, probe))
        probe.rmdir()
    except OSError:  # read-only mount, not delegated to this user, limit reached: cookies serve instead
        return None
    return str(root) if usable else None


def own_cgroup() -> Path | None:
    """The directory of this process's cgroup; None where there is none of version 2, or it is mounted nowhere."""
    paths = [line[3:] for line in _cgroup(os.getpid()).split("\n") if line.startswith("0::")]
    return _directory(paths[0]) if paths else None


def _directory(path: str) -> Path | None:
    """Where the cgroup that /proc/PID/cgroup calls `path` is mounted; None: nowhere."""
    for mount in mounts():
        if mount.kind == "cgroup2":
            with contextlib.suppress(ValueError):  # only a part of the hierarchy is mounted there, and another one
                return Path(mount.point) / Path(path).relative_to(mount.root)
    return None


def prune(root: str) -> None:
    """Remove the empty directories of a home whose manager has ended; what lives, or is another manager's, stays."""
    for directory, _, _ in os.walk(root, topdown=False):
        with contextlib.suppress(OSError):  # EBUSY: in use
            Path(directory).rmdir()


class Cgroups:
    """One directory ROOT/PACKAGE/OPERATION for each operation."""

    prompt = True

    def __init__(self, root: Path) -> None:
        self.root = root

    def place(self, package: str, operation: str) -> str:
        return str(self.root / package / operation)

    def create(self, place: str) -> None:
        try:
            Path(place).mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # another manager of this home ended, and pruned what was empty, at this very moment
            Path(place).mkdir(parents=True, exist_ok=True)

    def enter(self, place: str) -> None:
        try:
            Path(place, "cgroup.procs").write_text("0")  # 0: the writer
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            self.create(place)  # pruned as above, before anybody was in it
            Path(place, "cgroup.procs").write_text("0")

    def members(self, package: str) -> dict[str, list[int]]:
        """A former manager may have lived in another cgroup (another login session): its operations are found by what
        /proc/PID/cgroup says. That needs no lock of the process, so it does not hang on one in D state."""
        found = self.own(package)
        mine = re.compile(rf"^0::(.*/btw/{re.escape(self.root.name)}/{re.escape(package)}/[^/\n]+).*", re.MULTILINE)
        for pid in _processes():
            seen = mine.search(_cgroup(pid))
            if seen is None or seen[0].endswith(" (deleted)"):  # a zombie: only they are left of a removed cgroup
                continue
            place = _directory(seen[1])
            if place is not None:
                found.setdefault(str(place), _pids(place))
        return found

    def own(self, package: str) -> dict[str, list[int]]:
        return {str(each): _pids(each) for each in _directories(self.root / package)}

    def find(self, operation: str) -> list[str]:
        found = (each for package in _directories(self.root) for each in _directories(package))
        return [str(each) for each in found if each.name == operation]

    def kill(self, place: str) -> None:
        try:
            Path(place, "cgroup.kill").write_text("1")
        except FileNotFoundError:  # Linux before 5.14; or the place is gone, then it has no processes either
            for pid in _pids(Path(place)):
                if (stat := proc_stat(pid)) is not None:
                    kill_process(Process(pid=pid, start_time=stat.start_time))
        except OSError:
            if Path(place).exists():  # else ENODEV: removed between open and write
                raise

    def empty(self, place: str) -> bool:
        try:
            return "populated 0" in Path(place, "cgroup.events").read_text().splitlines()
        except OSError:
            return not Path(place).exists()

    def remove(self, place: str) -> None:
        prune(place)


def _directories(directory: Path) -> list[Path]:
    try:
        return [each for each in directory.iterdir() if each.is_dir()]
    except FileNotFoundError:
        return []


def _pids(directory: Path) -> list[int]:
    found: list[int] = []
    for each, _, _ in os.walk(directory):
        # ENODEV, ENOENT: removed meanwhile; EOPNOTSUPP: a threaded cgroup, whose processes its parent lists
        with contextlib.suppress(OSError):
            found += map(int, Path(each, "cgroup.procs").read_text().split())
    return found


def _processes() -> Iterator[int]:
    return (int(each.name) for each in os.scandir("/proc") if each.name.isdigit())


def _cgroup(pid: int) -> str:
    """/proc/PID/cgroup, "" when it has just ended. Asked of every process before each release: no time for Path."""
    try:
        descriptor = os.open(f"/proc/{pid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        # one read returns all of it up to that size, far more than paths of all hierarchies take
        return os.read(descriptor, 1 << 16).decode(errors="surrogateescape")
    except OSError:
        return ""
    finally:
        os.close(descriptor)


# ---- environment ------------------------------------------------------------------------------------------------
def cookie_environment(home: str) -> dict[str, str]:
    """What a zygote must be started with, so that `Cookies.enter` finds room to write in."""
    return {"BTW_HOME": home, "BTW_PACKAGE": " " * _ROOM, "BTW_OPERATION": " " * _ROOM}


class Cookies:
    """BTW_HOME, BTW_PACKAGE and BTW_OPERATION in the environment that /proc shows. Places are HOME/PACKAGE/OPERATION.

    Less than cgroups: whoever clears its environment gets away, and so does a process of another user."""

    prompt = False

    def __init__(self, home: str) -> None:
        self.home = home

    def place(self, package: str, operation: str) -> str:
        return f"{self.home}/{package}/{operation}"

    def create(self, place: str) -> None:
        pass

    def enter(self, place: str) -> None:
        """/proc/PID/environ is the memory that exec filled: a forked child has to write into that very memory, and
        what it forks without exec carries the cookie as well."""
        package, operation = place.split("/")[-2:]
        for name, value in (("BTW_PACKAGE", package), ("BTW_OPERATION", operation)):
            address, data = _room(name), value.encode()
            if len(data) > _ROOM:
                raise OSError(f"{name}={value!r} has {len(data)} bytes, at most {_ROOM} fit")
            ctypes.memmove(address, data.ljust(_ROOM, b"\0"), _ROOM)
            os.environ[name] = value

    def members(self, package: str) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for process, cookie in _cookies(self.home):
            if cookie[0] == package:
                found.setdefault(self.place(*cookie), []).append(process.pid)
        return found

    own = members

    def find(self, operation: str) -> list[str]:
        return list({self.place(*cookie) for _, cookie in _cookies(self.home) if cookie[1] == operation})

    def kill(self, place: str) -> None:
        for process, cookie in _cookies(self.home):
            if self.place(*cookie) == place:
                kill_process(process)

    def empty(self, place: str) -> bool:
        return all(self.place(*cookie) != place for _, cookie in _cookies(self.home))

    def remove(self, place: str) -> None:
        pass


_rooms: dict[str, int] = {}


def _room(name: str) -> int:
    """Address of the value in the memory that exec filled. Must be asked for before anything changes the variable."""
    if name not in _rooms:
        address = _libc.getenv(name.encode())
        if address is None or len(ctypes.string_at(address)) < _ROOM:
            raise OSError(f"this process was started without room for {name}: see cookie_environment")
        _rooms[name] = address
    return _rooms[name]


def _cookies(home: str) -> Iterator[tuple[Process, tuple[str, str]]]:
    """Every live process that carries a cookie of the home, with (package, operation)."""
    for pid in _processes():
        try:
            stat = proc_stat(pid)
            if stat is None or stat.state in "ZX":
                continue
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:  # gone; or another user's, which cannot be killed either
            continue
        said = dict(each.split(b"=", 1) for each in environ.split(b"\0") if each.startswith(b"BTW_") and b"=" in each)
        if said.get(b"BTW_HOME") == home.encode() and said.get(b"BTW_OPERATION"):
            package, operation = (os.fsdecode(said.get(name, b"")) for name in (b"BTW_PACKAGE", b"BTW_OPERATION"))
            yield Process(pid=pid, start_time=stat.start_time), (package, operation)
