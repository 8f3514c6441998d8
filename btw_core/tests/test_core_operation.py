"""What an operation does, called in this very process where nothing has to be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zygote_stock
from zygote_stock import SOON, wait_until

from btw_core.clock import boot_id, boottime
from btw_core.command import alive, proc_stat
from btw_core.containment import Containment, containment, find_cgroup_root, machine_id
from btw_core.operation import perform
from btw_core.ports import Operation
from btw_core.pulse import ManagerHalf, Pulse
from btw_core.types import Incarnation, Verb
from btw_core.wire import Result


class Nobody:
    """A containment with no process in it, and with what the tests put there."""

    prompt = False

    def __init__(self, **members: list[int]) -> None:
        self.found = {f"n/p/{operation}": pids for operation, pids in members.items()}
        self.killed: list[str] = []
        self.removed: list[str] = []
        self.stubborn = False

    def place(self, package: str, operation: str) -> str:
        return f"n/{package}/{operation}"

    def create(self, place: str) -> None: ...

    def enter(self, place: str) -> None: ...

    def members(self, package: str) -> dict[str, list[int]]:
        return dict(self.found) if package == "p" else {}

    own = members

    def find(self, operation: str) -> list[str]:
        return []

    def kill(self, place: str) -> None:
        self.killed.append(place)
        if not self.stubborn:
            self.found[place] = []

    def empty(self, place: str) -> bool:
        return not self.found.get(place)

    def remove(self, place: str) -> None:
        self.removed.append(place)
        del self.found[place]


LINES: list[str] = []


def do(verb: Verb, directory: Path, here: Containment | None = None, /, **fields: Any) -> Result:
    how = {key: fields.pop(key) for key in ("on_start", "on_stop", "on_status", "on_fence") if key in fields}
    arguments = {"dir": str(directory), "node": "n", "packages": {"p": {"r": how}}}
    inventory = zygote_stock.load([msgspec.json.encode(arguments).decode()])
    resource = "r" if verb in (Verb.START, Verb.STOP, Verb.HEAL) else ""
    pulse = str(fields.pop("pulse", ""))
    fields = {"id": "me", "package": "p", "resource": resource, "deadline": boottime() + SOON, **fields}
    LINES.clear()
    return perform(Operation(verb=verb, **fields), inventory, here or Nobody(), {"n/p/me"}, LINES.append, pulse)


def test_stop_is_believed_only_with_status(tmp_path: Path) -> None:
    """A stop that returns while status says up has failed."""
    assert do(Verb.STOP, tmp_path).error == ""
    assert do(Verb.STOP, tmp_path, on_status="still_up").error == "stop returned, but status says up"


def test_stop_asks_again_who_cannot_tell(tmp_path: Path) -> None:
    """A status that cannot tell is asked until it can, or until the deadline; it never counts as down."""
    assert do(Verb.STOP, tmp_path, on_status="unsure_at_first").error == ""
    assert (tmp_path / "asked").stat().st_size == 3
    error = do(Verb.STOP, tmp_path, on_status="unsure", deadline=boottime() + 0.5).error
    assert error == "stop returned, but status cannot tell whether it is down: it does not say"


def test_stop_with_a_defect(tmp_path: Path) -> None:
    """A defect in stop, or in the status after it, is a failure with its place; so is a missing heal."""
    assert do(Verb.STOP, tmp_path, on_stop="defect").error.startswith("defect in plugin probe: KeyError: 'colour' (")
    assert do(Verb.STOP, tmp_path, on_status="defect").error.startswith("defect in plugin probe: KeyError: 'colour' (")
    assert do(Verb.HEAL, tmp_path).error.startswith("defect in plugin probe: AttributeError: ")


def test_state_is_kept_of_a_failure_too(tmp_path: Path) -> None:
    """What a start has remembered before it failed comes back with the failure; unchanged state is None."""
    result = do(Verb.START, tmp_path, on_start="fails", state={"old": 1})
    assert result.error == "the disk is on fire; put it out"
    assert result.state == {"old": 1, "half": True}
    assert do(Verb.START, tmp_path, on_start="nothing", state={"old": 1}).state is None


def test_a_start_that_fails_for_every_node(tmp_path: Path) -> None:
    """Told apart from any other failure, of which another node may know nothing."""
    result = do(Verb.START, tmp_path, on_start="fails_everywhere")
    assert (result.error, result.everywhere) == ("the licence has run out; buy another", True)
    assert not do(Verb.START, tmp_path, on_start="fails").everywhere


def test_unknown_resource(tmp_path: Path) -> None:
    """A resource that the configuration has lost since is a failure that says so."""
    error = do(Verb.START, tmp_path, resource="gone").error
    assert error == "resource gone of package p is not loaded; it was there when the manager started"


def test_a_start_asks_for_the_live_lease(tmp_path: Path) -> None:
    """`recheck` looks at the manager's pulse: the lock goes in the middle of a start, which ends before its effect."""
    pulse = Pulse.keep(tmp_path / "p.pulse", boot_id())
    pulse.write(ManagerHalf(locks={"p": (2, boottime() + SOON)}))
    assert do(Verb.START, tmp_path, pulse=pulse.path, term=2, on_start="loses_the_lock").error == ""
    assert (tmp_path / "effects").read_text() == "one two "
    (tmp_path / "effects").unlink()
    (tmp_path / "lost").write_text(str(pulse.path))
    error = do(Verb.START, tmp_path, pulse=pulse.path, term=2, on_start="loses_the_lock").error
    assert error.startswith("the lock has run out, or term 2 is over")
    assert (tmp_path / "effects").read_text() == "one "
    assert do(Verb.STOP, tmp_path, pulse=pulse.path, term=2).error == ""
    pulse.close()


def test_sweep_kills_all_but_itself(tmp_path: Path) -> None:
    """Left-over processes are killed and named, their places removed, and the sweep's own place is spared."""
    here = Nobody(me=[1], a=[os.getpid()], b=[])
    result = do(Verb.SWEEP, tmp_path, here)
    assert (result.error, result.survivors) == ("", ())
    assert here.killed == ["n/p/a"]
    assert sorted(here.removed) == ["n/p/a", "n/p/b"]
    assert list(here.found) == ["n/p/me"]
    assert len(LINES) == 1
    assert LINES[0].startswith(f"left behind by operation a: pid {os.getpid()} (")


def test_sweep_names_survivors(tmp_path: Path) -> None:
    """What does not die by the deadline is named, and the sweep has failed."""
    here = Nobody(a=[os.getpid()])
    here.stubborn = True
    result = do(Verb.SWEEP, tmp_path, here, deadline=boottime() + 0.3)
    assert result.error == "1 left-over processes survive SIGKILL"
    assert [text.partition(" (")[0] for text in result.survivors] == [f"pid {os.getpid()}"]


def test_survey_only_looks(tmp_path: Path) -> None:
    """A survey names what lives, but for itself, and touches nothing."""
    here = Nobody(me=[1], a=[os.getpid()])
    result = do(Verb.SURVEY, tmp_path, here)
    assert [text.partition(" (")[0] for text in result.survivors] == [f"pid {os.getpid()}"]
    assert (result.error, here.killed, here.removed) == ("", [], [])


# ---- fence by a resource ----------------------------------------------------------------------------------------
def test_a_resource_fences_a_former_holder(tmp_path: Path) -> None:
    """It is told whom, under the lock; what it raises is the reason why nothing starts."""
    target = incarnation(machine="another", node="n9")
    assert do(Verb.FENCE, tmp_path, resource="r", target=target).error == ""
    assert (tmp_path / "fenced").read_text() == "n9 under term 0"
    failed = do(Verb.FENCE, tmp_path, resource="r", target=target, on_fence="fails")
    assert failed.error.startswith("the disk is on fire")
    (tmp_path / "fenced").unlink()
    late = do(Verb.FENCE, tmp_path, resource="r", target=target, not_after=boottime())
    assert late.error.startswith("the lock has run out") and not (tmp_path / "fenced").exists()


# ---- fence ------------------------------------------------------------------------------------------------------
def incarnation(**fields: Any) -> Incarnation:
    given = {"node": "other", "machine": machine_id(), "boot": boot_id(), "nonce": "x", "slot": "p", **fields}
    return Incarnation(**given)


def test_fence_of_another_machine(tmp_path: Path) -> None:
    """Another machine cannot be fenced from here."""
    error = do(Verb.FENCE, tmp_path, target=incarnation(machine="elsewhere")).error
    assert error == "node other lives on another machine (elsewhere): nothing here can fence it"


def test_fence_of_another_boot(tmp_path: Path) -> None:
    """A computer that was rebooted since has nothing left of it; nobody is killed, whatever has its pid now."""
    assert do(Verb.FENCE, tmp_path, target=incarnation(boot="earlier", pid=os.getpid())).error == ""


def test_fence_spares_its_own_manager(tmp_path: Path) -> None:
    """A fence against an ancestor of its own is refused."""
    stat = proc_stat(os.getppid())
    assert stat is not None
    target = incarnation(pid=os.getppid(), pid_start=stat.start_time)
    assert do(Verb.FENCE, tmp_path, target=target).error.endswith("is the manager that asks for this")


def test_fence_without_target(tmp_path: Path) -> None:
    """A fence without a target has failed."""
    assert do(Verb.FENCE, tmp_path).error == "fence without a target"


@pytest.fixture(params=["cgroups", "cookies"])
def cgroup(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """(node, cgroup directory or "")."""
    node = f"fenced-{os.getpid()}-{request.param}"
    if request.param == "cookies":
        yield node, ""
        return
    root = find_cgroup_root(node)
    if root is None:
        pytest.skip("no cgroup v2 to write to")
    yield node, root
    here = containment(node, root)
    here.kill(root)
    wait_until(lambda: here.empty(root))
    here.remove(root)


DRIVER = """
import asyncio, os, sys
from pathlib import Path
import zygote_stock
from btw_core.types import Verb

async def main():
    packages = {"p": {"r": {"on_start": "spawns"}, "h": {"on_start": "hangs"}}}
    directory = Path(sys.argv[1])
    m = zygote_stock.Manager(
        directory, packages, cgroups=bool(sys.argv[3]), patience=zygote_stock.Patience(), node=sys.argv[2]
    )
    await m.executor.start()
    assert (await m.do(Verb.START)).ok
    m.begin(Verb.START, "h")
    zygote_stock.write_pid(directory / "zygote", m.executor.zygote_pid)
    await m.until((directory / "hangs").exists)
    print(os.getpid(), flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def test_fence_of_a_living_manager(tmp_path: Path, cgroup: tuple[str, str]) -> None:
    """On the same computer the old manager, its zygote, and every process of the package are killed and seen gone."""
    node, root = cgroup
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", DRIVER, str(tmp_path), node, root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as driver:
        try:
            assert driver.stdout is not None
            pid = int(driver.stdout.readline())
            stat = proc_stat(pid)
            assert stat is not None
            target = incarnation(node=node, home=node, pid=pid, pid_start=stat.start_time, cgroup=root)
            result = do(Verb.FENCE, tmp_path, target=target)
            assert result.error == "", (result, LINES)
            for name in ("zygote", "service", "child", "daemon"):
                assert not alive(zygote_stock.read_pid(tmp_path / name)), name
            driver.wait(SOON)
            assert do(Verb.FENCE, tmp_path, target=target).error == ""  # may be repeated
        finally:
            driver.kill()
            driver.wait(SOON)
            zygote_stock.clean_up(tmp_path, "")
