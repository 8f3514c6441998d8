"""Resources for the tests of processes, the loader that a zygote gets them from, and a manager to drive it.

Each resource names what its methods do: the functions below, by name. All of it lives in the directory `dir`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from btw_core import pulse as pulses
from btw_core.clock import boot_id, boottime
from btw_core.command import alive, proc_stat
from btw_core.containment import Cgroups, find_cgroup_root
from btw_core.executor import RealExecutor
from btw_core.operation import Inventory, Stock
from btw_core.peer import Patience
from btw_core.ports import Logged, Look, Looked, Operation, OperationEnded, Report
from btw_core.resource import CannotTell, Context, Failed, FailedEverywhere, Former, Process, Resource
from btw_core.timing import Timing
from btw_core.types import PackageSpec, ResourceSpec, Status, Verb
from btw_core.wire import Loaded

R = TypeVar("R", bound=Report)
#: Seconds for anything that has to happen sooner or later.
SOON = 30.0
SLEEP = "sleep 3600"


class Probe(Resource, frozen=True, kw_only=True, tag="probe"):
    dir: str
    on_start: str = "up"
    on_stop: str = "down"
    on_status: str = "look"
    on_watch: str = ""
    on_fence: str = "fences"
    on_prepare: str = "nothing"

    def prepare(self, ctx: Context) -> None:
        getattr(Does, self.on_prepare)(Path(self.dir), ctx)

    def status(self, ctx: Context) -> Status:
        return getattr(Does, self.on_status)(Path(self.dir), ctx)  # type: ignore[no-any-return]

    def start(self, ctx: Context) -> None:
        getattr(Does, self.on_start)(Path(self.dir), ctx)

    def stop(self, ctx: Context) -> None:
        getattr(Does, self.on_stop)(Path(self.dir), ctx)

    def fence(self, ctx: Context, former: Former) -> None:
        ctx.state["former"] = former.node
        getattr(Does, self.on_fence)(Path(self.dir), ctx)

    def watch(self, ctx: Context) -> list[int]:
        return getattr(Does, self.on_watch)(Path(self.dir), ctx) if self.on_watch else []


class Does:
    """What methods of Probe do."""

    @staticmethod
    def up(directory: Path, ctx: Context) -> None:
        (directory / "up").touch()
        ctx.state["count"] = ctx.state.get("count", 0) + 1

    @staticmethod
    def down(directory: Path, ctx: Context) -> None:
        (directory / "up").unlink(missing_ok=True)

    @staticmethod
    def marks(directory: Path, ctx: Context) -> None:
        """Which process this is: for the verbs that it has been so far."""
        write_pid(directory / f"pid-{ctx.verb or 'ready'}", os.getpid())

    @staticmethod
    def fences(directory: Path, ctx: Context) -> None:
        (directory / "fenced").write_text(f"{ctx.state['former']} under term {ctx.term}")

    @staticmethod
    def loses_the_lock(directory: Path, ctx: Context) -> None:
        """Between its two effects, if there is a file with the pulse's path."""
        for effect in ("one", "two"):
            ctx.recheck()
            with (directory / "effects").open("a") as file:
                file.write(f"{effect} ")
            if (directory / "lost").exists():
                pulse = pulses.Pulse.open(Path((directory / "lost").read_text()), boot_id())
                pulse.write(pulses.ManagerHalf(locks={}))
                pulse.close()

    @staticmethod
    def look(directory: Path, ctx: Context) -> Status:
        return Status.UP if (directory / "up").exists() else Status.DOWN

    @staticmethod
    def nothing(directory: Path, ctx: Context) -> None: ...

    @staticmethod
    def still_up(directory: Path, ctx: Context) -> Status:
        return Status.UP

    @staticmethod
    def unsure(directory: Path, ctx: Context) -> Status:
        raise CannotTell("it does not say")

    @staticmethod
    def unsure_at_first(directory: Path, ctx: Context) -> Status:
        asked = directory / "asked"
        asked.open("a").write("x")
        if asked.stat().st_size < 3:
            raise CannotTell("not yet")
        return Status.DOWN

    @staticmethod
    def fails(directory: Path, ctx: Context) -> None:
        ctx.state["half"] = True
        raise Failed("the disk is on fire; put it out")

    @staticmethod
    def fails_everywhere(directory: Path, ctx: Context) -> None:
        raise FailedEverywhere("the licence has run out; buy another")

    @staticmethod
    def defect(directory: Path, ctx: Context) -> Status:
        raise KeyError("colour")

    @staticmethod
    def system_exit(directory: Path, ctx: Context) -> Status:
        sys.exit("enough")

    @staticmethod
    def vanishes(directory: Path, ctx: Context) -> Status:
        os._exit(3)

    @staticmethod
    def segfault(directory: Path, ctx: Context) -> Status:
        ctypes.string_at(0)
        return Status.UP

    @staticmethod
    def segfault_once(directory: Path, ctx: Context) -> Status:
        with contextlib.suppress(FileExistsError):
            (directory / "crashed").touch(exist_ok=False)
            ctypes.string_at(0)
        return Status.UP

    @staticmethod
    def opens(directory: Path, ctx: Context) -> Status:
        """Hangs until somebody opens the FIFO for writing."""
        (directory / "fifo").open().close()
        return Status.UP

    @staticmethod
    def hangs(directory: Path, ctx: Context) -> None:
        """With a child, and a grandchild that has detached; all of them ignore TERM."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        Does.daemon(directory, ctx)
        spawn_named(directory / "child", SLEEP)
        (directory / "hangs").touch()
        while True:
            time.sleep(3600)

    @staticmethod
    def hangs_in_fuse(directory: Path, ctx: Context) -> None:
        (directory / "mount" / "anything").open()

    @staticmethod
    def daemon(directory: Path, ctx: Context) -> None:
        """Double fork and setsid, without exec, and without any descriptor."""
        if (child := os.fork()) == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.closerange(0, 1024)
                write_pid(directory / "daemon", os.getpid())
                while True:
                    time.sleep(3600)
            os._exit(0)
        os.waitpid(child, 0)
        wait_until((directory / "daemon").exists)

    @staticmethod
    def spawns(directory: Path, ctx: Context) -> None:
        write_pid(directory / "service", ctx.spawn(SLEEP.split()).pid)

    @staticmethod
    def orphans_and_exits(directory: Path, ctx: Context) -> None:
        spawn_named(directory / "child", SLEEP)
        os._exit(3)

    @staticmethod
    def shouts(directory: Path, ctx: Context) -> None:
        """100 MB from a command, and many lines from Python."""
        ctx.run("yes 'a line that nobody wants to read a second time' | head -c 100000000")
        for number in range(100_000):
            print("said in Python", number)

    @staticmethod
    def closes(directory: Path, ctx: Context) -> None:
        """All descriptors, the channel to the manager among them."""
        os.closerange(0, 1024)

    @staticmethod
    def keeps_too_much(directory: Path, ctx: Context) -> None:
        ctx.state["big"] = "x" * 100_000

    @staticmethod
    def keeps_objects(directory: Path, ctx: Context) -> None:
        ctx.state["object"] = object()

    @staticmethod
    def shows(directory: Path, ctx: Context) -> None:
        """What the process has inherited."""
        descriptors = {}
        for each in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                descriptors[each.name] = str(each.readlink())
        ignored = [int(n) for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN]
        seen = {
            "descriptors": descriptors,
            "ignored": ignored,
            "session": os.getsid(0) == os.getpid(),
            "cwd": str(Path.cwd()),
            "child": json.loads(ctx.run([sys.executable, "-c", SHOW_ENVIRONMENT]).output),
        }
        (directory / "shown").write_text(json.dumps(seen))

    @staticmethod
    def watch_fifo(directory: Path, ctx: Context) -> list[int]:
        return [os.open(directory / "fifo", os.O_RDONLY | os.O_NONBLOCK)]

    @staticmethod
    def watch_nothing(directory: Path, ctx: Context) -> list[int]:
        return [999]

    @staticmethod
    def holds_the_lock(directory: Path, ctx: Context) -> Status:
        """PyDLL does not release the interpreter's lock while it calls."""
        ctypes.PyDLL(None).sleep(3600)
        return Status.UP


SHOW_ENVIRONMENT = 'import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith("BTW_")}))'


def write_pid(file: Path, pid: int) -> None:
    """So that whoever sees the file sees all of it."""
    stat = proc_stat(pid)
    assert stat is not None
    partial = file.with_suffix(".new")
    partial.write_text(f"{pid} {stat.start_time}")
    partial.rename(file)


def read_pid(file: Path) -> Process:
    pid, start_time = map(int, file.read_text().split())
    return Process(pid=pid, start_time=start_time)


def spawn_named(file: Path, command: str) -> None:
    write_pid(file, subprocess.Popen(command.split()).pid)


def wait_until(condition: Callable[[], object], seconds: float = SOON) -> None:
    end = boottime() + seconds
    while not condition():
        assert boottime() < end, f"not within {seconds} s: {condition}"
        time.sleep(0.005)


# ---- the loader -------------------------------------------------------------------------------------------------
def load(arguments: Sequence[str]) -> Inventory:
    """`arguments[0]`: JSON {"dir": ..., "packages": {name: {resource: {field: value}}}}."""
    wanted = json.loads(arguments[0])
    packages = {}
    for name, resources in wanted["packages"].items():
        probes = {each: Probe(name=each, **{"dir": wanted["dir"], **how}) for each, how in resources.items()}
        specs = tuple(ResourceSpec(name=each, type="probe") for each in probes)
        packages[name] = Stock(PackageSpec(name=name, timing=Timing(), resources=specs), probes)
    file = Path(wanted["dir"], "events")
    listeners: dict[str, Any] = {"broken": _broken, "writer": functools.partial(_write, file)}
    return Inventory(cluster="test", node=wanted["node"], packages=packages, listeners=listeners)


def fail_to_load(arguments: Sequence[str]) -> Inventory:
    raise SystemExit("no licence")


def exit_when_loading(arguments: Sequence[str]) -> Inventory:
    os._exit(3)


def hang_when_loading(arguments: Sequence[str]) -> Inventory:
    time.sleep(3600)
    raise AssertionError


def _broken(event: Mapping[str, Any]) -> None:
    raise ValueError("cannot bear events")


def _write(file: Path, event: Mapping[str, Any]) -> None:
    with file.open("a") as out:
        out.write(json.dumps(event) + "\n")


# ---- the manager ------------------------------------------------------------------------------------------------
class Manager:
    """Collects what the executor reports."""

    def __init__(
        self, directory: Path, packages: Mapping[str, Any], *, cgroups: bool, patience: Patience, node: str = ""
    ) -> None:
        self.node = node or f"test-{os.getpid()}-{next(_numbers)}"
        self.dir = directory
        root = find_cgroup_root(self.node) if cgroups else ""
        assert root is not None, "cgroups were asked for, and cannot be made here"
        self.cgroup = root
        self.reports: list[Report] = []
        self._news = asyncio.Event()
        self._ids = itertools.count(1)
        self.executor = RealExecutor(
            home=self.node,
            cgroup=root,
            deliver=self._deliver,
            loader="zygote_stock:load",
            arguments=[json.dumps({"dir": str(directory), "node": self.node, "packages": packages})],
            environment={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            patience=patience,
        )
        self.loaded = Loaded()

    def _deliver(self, report: Report) -> None:
        self.reports.append(report)
        self._news.set()

    async def until(self, condition: Callable[[], Any], what: str = "") -> Any:
        """The first true value of `condition`, asked again after each report and now and then."""
        end = boottime() + SOON
        while not (value := condition()):
            assert boottime() < end, f"not within {SOON} s: {what or condition}; reports: {self.reports[-20:]}"
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), 0.02)
        return value

    async def report(self, kind: type[R], **fields: Any) -> R:
        """The first report of this kind with these fields."""

        def find() -> R | None:
            for each in self.reports:
                if isinstance(each, kind) and all(getattr(each, key) == value for key, value in fields.items()):
                    return each
            return None

        return await self.until(find, f"{kind.__name__} {fields}")  # type: ignore[no-any-return]

    def begin(self, verb: Verb, resource: str = "r", package: str = "p", **fields: Any) -> str:
        """The id of an operation with a deadline far away."""
        fields = {"id": f"{self.node}.{next(self._ids)}", "deadline": boottime() + SOON, **fields}
        self.executor.operate(Operation(package=package, verb=verb, resource=resource, **fields))
        return str(fields["id"])

    async def ended(self, id: str) -> OperationEnded:
        return await self.report(OperationEnded, id=id)

    async def do(self, verb: Verb, resource: str = "r", package: str = "p", **fields: Any) -> OperationEnded:
        return await self.ended(self.begin(verb, resource, package, **fields))

    async def look(self, number: int, package: str = "p") -> dict[str, tuple[Status | None, str]]:
        self.executor.look(Look(id=number, package=package))
        answer = await self.report(Looked, id=number)
        return {each.resource: (each.status, each.detail) for each in answer.results}

    def lines(self) -> list[str]:
        return [each.text for each in self.reports if isinstance(each, Logged)]

    async def gone(self, *names: str) -> None:
        """Until the processes whose pid is in these files are gone."""
        for name in names:
            process = read_pid(self.dir / name)
            await self.until(lambda process=process: not alive(process), f"{name} is gone")  # type: ignore[misc]

    def running(self, name: str) -> bool:
        return alive(read_pid(self.dir / name))


_numbers = itertools.count()


@contextlib.asynccontextmanager
async def manager(
    directory: Path, packages: Mapping[str, Any], *, cgroups: bool = True, patience: Patience | None = None
) -> AsyncIterator[Manager]:
    """Started; at the end everything of it is killed, services included."""
    made = Manager(directory, packages, cgroups=cgroups, patience=patience or Patience())
    try:
        made.loaded = await made.executor.start()
        yield made
    finally:
        await made.executor.close()
        clean_up(directory, made.cgroup)


def clean_up(directory: Path, cgroup: str) -> None:
    """Kill what the files in `directory` name, and what is left in the cgroup, and remove that."""
    for name in ("daemon", "child", "service"):
        if (directory / name).exists():
            process = read_pid(directory / name)
            if alive(process):
                os.kill(process.pid, signal.SIGKILL)
    if cgroup:
        everything = Cgroups(Path(cgroup))
        everything.kill(cgroup)
        wait_until(lambda: everything.empty(cgroup))
        wait_until(lambda: everything.remove(cgroup) or not Path(cgroup).exists())  # type: ignore[func-returns-value]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test that is a coroutine."""
    asyncio.run(asyncio.wait_for(test(), 100))
