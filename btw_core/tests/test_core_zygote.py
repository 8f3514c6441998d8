"""Zygote and operations with real processes: what is inherited, what ends with whom."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zygote_stock
from fuse_hang import hanging_mount
from zygote_stock import SOON, manager, read_pid, run, wait_until, write_pid

from btw_core.clock import boottime
from btw_core.command import alive
from btw_core.containment import Cgroups, containment, find_cgroup_root
from btw_core.ports import ExecutorLost
from btw_core.types import Verb

CGROUPS = find_cgroup_root(f"test-{os.getpid()}")
if CGROUPS is not None:
    Path(CGROUPS).rmdir()
both = pytest.mark.parametrize(
    "cgroups",
    [pytest.param(True, marks=pytest.mark.skipif(CGROUPS is None, reason="no cgroup v2 to write to")), False],
    ids=["cgroups", "cookies"],
)


def one(**how: str) -> dict[str, Any]:
    return {"p": {"r": how}}


@both
def test_start_and_stop(tmp_path: Path, cgroups: bool) -> None:
    """A start and a stop are done, with the state handed from one to the next."""

    async def test() -> None:
        async with manager(tmp_path, one(), cgroups=cgroups) as m:
            assert [package.name for package in m.loaded.packages] == ["p"]
            ended = await m.do(Verb.START, state={"count": 4})
            assert ended.ok
            assert ended.state == {"count": 5}
            assert (tmp_path / "up").exists()
            assert (await m.do(Verb.STOP)).ok
            assert not (tmp_path / "up").exists()

    run(test)


@both
def test_what_an_operation_inherits(tmp_path: Path, cgroups: bool) -> None:
    """A fresh session in /, standard descriptors and one channel, no signal ignored, the contract's variables."""

    async def test() -> None:
        os.environ["BTW_STRAY"] = "x"
        try:
            async with manager(tmp_path, one(on_start="shows"), cgroups=cgroups) as m:
                id = m.begin(Verb.START, term=7)
                assert (await m.ended(id)).ok
                node = m.node
        finally:
            del os.environ["BTW_STRAY"]
        seen = json.loads((tmp_path / "shown").read_text())
        assert seen["session"]
        assert seen["cwd"] == "/"
        others = {number: what for number, what in seen["descriptors"].items() if int(number) > 2}
        assert [what.partition(":")[0] for what in others.values()] == ["socket"]
        assert set(seen["ignored"]) <= {signal.SIGPIPE, signal.SIGXFSZ}  # Python itself ignores these
        assert seen["child"] == {
            "BTW_CLUSTER": "test",
            "BTW_NODE": node,
            "BTW_OPERATION": id,
            "BTW_PACKAGE": "p",
            "BTW_REASON": "",
            "BTW_RESOURCE": "r",
            "BTW_TERM": "7",
            "BTW_VERB": "start",
            **({} if cgroups else {"BTW_HOME": node}),
        }

    run(test)


@both
def test_killed_operation_takes_its_descendants(tmp_path: Path, cgroups: bool) -> None:
    """An operation that ignores TERM is killed with its child and its detached daemon, and only then has it ended."""

    async def test() -> None:
        async with manager(tmp_path, one(on_start="hangs"), cgroups=cgroups) as m:
            id = m.begin(Verb.START)
            await m.until((tmp_path / "hangs").exists)
            m.executor.kill(id)
            ended = await m.ended(id)
            assert not ended.ok
            assert ended.error == "killed, as it was told to end"
            assert not m.running("child")
            assert not m.running("daemon")

    run(test)


@both
def test_service_outlives_start(tmp_path: Path, cgroups: bool) -> None:
    """What a start has spawned or detached lives on after it, and a sweep ends it and names it."""

    async def test() -> None:
        packages = {"p": {"r": {"on_start": "spawns"}, "d": {"on_start": "daemon"}}}
        async with manager(tmp_path, packages, cgroups=cgroups) as m:
            assert (await m.do(Verb.START)).ok
            assert (await m.do(Verb.START, "d")).ok
            assert m.running("service")
            assert m.running("daemon")
            survey = await m.do(Verb.SURVEY)
            named = sorted(int(text.split()[1]) for text in survey.survivors)
            assert named == sorted(read_pid(tmp_path / what).pid for what in ("service", "daemon"))
            assert m.running("service")
            swept = await m.do(Verb.SWEEP)
            assert swept.ok, swept
            assert not m.running("service")
            assert not m.running("daemon")
            assert sum("left behind" in line for line in m.lines()) == 2, m.lines()

    run(test)


@pytest.mark.skipif(CGROUPS is None, reason="no cgroup v2 to write to")
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_the_sweep_after_the_last_stop_finds_everybody(tmp_path: Path, where: str) -> None:
    """Other cgroups were looked into before it, when the address was still up: whoever was there, and whoever is in our
    own, is found all the same."""

    async def test() -> None:
        async with manager(tmp_path, one(on_start="spawns")) as m:
            stranger = None
            if where == "here":
                assert (await m.do(Verb.START)).ok
            else:
                other = Cgroups(Path(m.cgroup).parent.parent / f"session-{os.getpid()}" / "btw" / m.node)
                place = other.place("p", "former.1")
                other.create(place)
                stranger = subprocess.Popen(
                    ["sleep", "3600"], preexec_fn=lambda: other.enter(place), start_new_session=True
                )
                write_pid(tmp_path / "service", stranger.pid)
            try:
                stopped = await m.ended(m.begin(Verb.STOP, id="s.1", last=True))
                assert stopped.ok and not stopped.swept
                swept = await m.ended(m.begin(Verb.SWEEP, id="s.2"))
                assert swept.ok and not m.running("service")
                assert [line for line in m.lines() if "left behind" in line]
                for last in (True, False):  # nobody is left now, which only the last stop looks for
                    assert (await m.ended(m.begin(Verb.STOP, id=f"t.{last}", last=last))).swept is last
            finally:
                if stranger is not None:
                    stranger.kill()
                    stranger.wait(SOON)
                    wait_until(lambda: other.empty(place))
                    other.remove(str(other.root.parent.parent))

    run(test)


@both
def test_crash_takes_children(tmp_path: Path, cgroups: bool) -> None:
    """An operation that exits on its own account has failed, and its children end before that is said."""

    async def test() -> None:
        async with manager(tmp_path, one(on_start="orphans_and_exits"), cgroups=cgroups) as m:
            ended = await m.do(Verb.START)
            assert not ended.ok
            assert ended.error == "ended without a result: exit code 3"
            assert not m.running("child")

    run(test)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("segfault", "ended without a result: killed by SIGSEGV"),
        ("fails", "the disk is on fire; put it out"),
        ("defect", "defect in plugin probe: KeyError: 'colour' (zygote_stock.py:"),
        ("system_exit", "defect in plugin probe: SystemExit: enough (zygote_stock.py:"),
        ("keeps_too_much", "ctx.state has "),
        ("keeps_objects", "ctx.state holds what JSON cannot keep: "),
        ("closes", "ended without a result: exit code "),
    ],
)
def test_broken_start(tmp_path: Path, how: str, error: str) -> None:
    """Whatever a start does to its process, it has failed with a reason, and the next one works."""

    async def test() -> None:
        packages = {"p": {"bad": {"on_start": how}, "good": {}}}
        async with manager(tmp_path, packages, cgroups=False) as m:
            ended = await m.do(Verb.START, "bad")
            assert not ended.ok
            assert ended.error.startswith(error), ended.error
            assert (await m.do(Verb.START, "good")).ok

    run(test)


def test_flood_is_bounded(tmp_path: Path) -> None:
    """A start that prints 100 MB succeeds, and few lines of it are reported."""

    async def test() -> None:
        async with manager(tmp_path, one(on_start="shouts"), cgroups=False) as m:
            ended = await m.do(Verb.START)
            assert ended.ok, ended
            assert 0 < len(m.lines()) < 400
            assert any("more lines not shown" in line for line in m.lines())

    run(test)


def test_not_after(tmp_path: Path) -> None:
    """A start whose lock has run out by the time that it runs does nothing; a stop is not hindered."""

    async def test() -> None:
        async with manager(tmp_path, one(), cgroups=False) as m:
            late = await m.do(Verb.START, not_after=boottime())
            assert not late.ok
            assert late.error.startswith("the lock has run out")
            assert not (tmp_path / "up").exists()
            assert (await m.do(Verb.STOP, not_after=boottime())).ok
            assert (await m.do(Verb.START, not_after=boottime() + SOON)).ok

    run(test)


@both
def test_zygote_killed(tmp_path: Path, cgroups: bool) -> None:
    """SIGKILL of the zygote ends the running operation with all its processes before that is reported; the service of
    an operation that has ended lives on, and a new zygote serves."""

    async def test() -> None:
        packages = {"p": {"r": {"on_start": "spawns"}, "h": {"on_start": "hangs"}, "good": {}}}
        async with manager(tmp_path, packages, cgroups=cgroups) as m:
            assert (await m.do(Verb.START)).ok
            id = m.begin(Verb.START, "h")
            await m.until((tmp_path / "hangs").exists)
            os.kill(m.executor.zygote_pid, signal.SIGKILL)
            ended = await m.ended(id)
            assert not ended.ok
            assert ended.error == "killed, as the zygote ended: killed by SIGKILL"
            assert not m.running("child")
            assert not m.running("daemon")
            assert m.running("service")
            assert (await m.report(ExecutorLost, what="zygote")).cause == "killed by SIGKILL"
            assert (await m.do(Verb.START, "good")).ok

    run(test)


DRIVER = """
import asyncio, json, sys
from pathlib import Path
import zygote_stock
from btw_core.types import Verb

async def main():
    directory = Path(sys.argv[1])
    packages = {"p": {"r": {"on_start": "spawns"}, "h": {"on_start": "hangs"}}}
    m = zygote_stock.Manager(directory, packages, cgroups=sys.argv[2] == "True", patience=zygote_stock.Patience())
    await m.executor.start()
    assert (await m.do(Verb.START)).ok
    m.begin(Verb.START, "h")
    zygote_stock.write_pid(directory / "zygote", m.executor.zygote_pid)
    await m.until((directory / "hangs").exists)
    print(json.dumps([m.node, m.cgroup]), flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@both
def test_manager_killed(tmp_path: Path, cgroups: bool) -> None:
    """SIGKILL of the manager ends the running operation with all its processes, and the zygote; the service of an
    operation that has ended lives on."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", DRIVER, str(tmp_path), str(cgroups)]
    cgroup = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as driver:
        try:
            assert driver.stdout is not None
            _, cgroup = json.loads(driver.stdout.readline())
            driver.kill()
            driver.wait(SOON)
            wait_until(lambda: not alive(read_pid(tmp_path / "zygote")))
            assert not alive(read_pid(tmp_path / "child"))
            assert not alive(read_pid(tmp_path / "daemon"))
            assert alive(read_pid(tmp_path / "service"))
        finally:
            driver.kill()
            driver.wait(SOON)
            wait_until(lambda: not alive(read_pid(tmp_path / "zygote")))
            zygote_stock.clean_up(tmp_path, cgroup)


@both
def test_sweep_of_some_operations(tmp_path: Path, cgroups: bool) -> None:
    """A sweep of one sequence of operations leaves alone what others have started, also those with a longer number."""

    async def test() -> None:
        packages = {"p": {"r": {"on_start": "daemon"}, "s": {"on_start": "spawns"}}}
        async with manager(tmp_path, packages, cgroups=cgroups) as m:
            assert (await m.do(Verb.START, id="nonce.1.3")).ok
            assert (await m.do(Verb.START, "s", id="nonce.10.3")).ok
            assert (await m.do(Verb.SWEEP, only=("nonce.1",))).ok
            assert not m.running("daemon")
            assert m.running("service")

    run(test)


@pytest.mark.skipif(CGROUPS is None, reason="no cgroup v2 to write to")
def test_a_sweep_that_finds_nobody(tmp_path: Path) -> None:
    """It is answered without a process of its own, and forgets the places."""

    async def test() -> None:
        async with manager(tmp_path, one(), cgroups=True) as m:
            here = containment(m.node, str(m.cgroup))
            assert (await m.do(Verb.START)).ok
            here.create(here.place("p", "nonce.1.2"))  # as an operation leaves it that was killed with its zygote
            assert list(here.members("p").values()) == [[]]
            assert (await m.do(Verb.SWEEP)).ok
            assert here.members("p") == {}

    run(test)


@both
def test_kill_of_what_has_ended(tmp_path: Path, cgroups: bool) -> None:
    """A kill that comes too late leaves the service alone and is not answered."""

    async def test() -> None:
        async with manager(tmp_path, one(on_start="spawns"), cgroups=cgroups) as m:
            id = m.begin(Verb.START)
            assert (await m.ended(id)).ok
            m.executor.kill(id)
            assert (await m.do(Verb.SURVEY)).ok
            assert m.running("service")
            assert [report for report in m.reports if getattr(report, "id", "") == id] == [await m.ended(id)]

    run(test)


@pytest.mark.skipif(os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK), reason="mounting FUSE needs root")
@both
def test_unkillable_operation_never_ends(tmp_path: Path, cgroups: bool) -> None:
    """A start in state D survives its SIGKILL: it is not reported ended, a sweep names it, and other packages go on
    until it is released."""

    async def test() -> None:
        packages = {"p": {"r": {"on_start": "hangs_in_fuse"}}, "q": {"r": {}}}
        (tmp_path / "mount").mkdir()
        with hanging_mount(tmp_path / "mount") as mount:
            async with manager(tmp_path, packages, cgroups=cgroups) as m:
                id = m.begin(Verb.START)
                await m.until(lambda: _hung(mount))
                m.executor.kill(id)
                assert (await m.do(Verb.START, package="q")).ok
                swept = await m.do(Verb.SWEEP, deadline=boottime() + 2)
                assert not swept.ok
                assert "survive SIGKILL" in swept.error
                assert ["state D in request_wait_answer" in text for text in swept.survivors] == [True]
                assert all(getattr(report, "id", "") != id for report in m.reports)
                mount.release()
                assert not (await m.ended(id)).ok
                assert (await m.do(Verb.SWEEP)).ok

    def _hung(mount: Any) -> bool:
        try:
            mount.wait_hung(0)
        except TimeoutError:
            return False
        return True

    run(test)


def test_loader_that_fails(tmp_path: Path) -> None:
    """A loader that ends the interpreter leaves a zygote without packages that says why."""
    inventory = zygote_stock.load  # the module is importable here as well
    assert inventory is not None
    from btw_core.loading import load

    loaded = load("zygote_stock:fail_to_load", [], "n")
    assert loaded.packages == {}
    assert [problem.text for problem in loaded.problems] == ["packages cannot be loaded: SystemExit: no licence"]
