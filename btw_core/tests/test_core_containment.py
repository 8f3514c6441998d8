"""Containment against real processes: who belongs where, and who is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from zygote_stock import SOON, wait_until

from btw_core.clock import boot_id
from btw_core.command import alive, proc_stat
from btw_core.containment import (
    Cgroups,
    Containment,
    Cookies,
    cookie_environment,
    find_cgroup_root,
    kill_process,
    machine_id,
    operation_of,
    prune,
)
from btw_core.resource import Process

NODE = f"contained-{os.getpid()}"


@pytest.fixture(params=["cgroups", "cookies"])
def here(request: pytest.FixtureRequest) -> Iterator[Containment]:
    if request.param == "cookies":
        yield Cookies(NODE)
        return
    root = find_cgroup_root(NODE)
    if root is None:
        pytest.skip("no cgroup v2 to write to")
    cgroups = Cgroups(Path(root))
    yield cgroups
    cgroups.kill(root)
    wait_until(lambda: cgroups.empty(root))
    cgroups.remove(root)


#: Enters the place `argv[1]`, forks a detached child without exec, says its pid, and sleeps.
INHABITANT = """
import os, sys, time
from pathlib import Path
from btw_core.containment import Cgroups, Cookies
here = Cookies(os.environ["BTW_HOME"]) if sys.argv[2] == "cookies" else Cgroups(Path(sys.argv[2]))
here.enter(sys.argv[1])
child = os.fork()
if child == 0:
    os.setsid()
else:
    print(child, flush=True)
time.sleep(3600)
"""


class Inhabitant:
    """A process and its detached child in a place."""

    def __init__(self, here: Containment, place: str, *, create: bool = True) -> None:
        if create:
            here.create(place)
        how = str(here.root) if isinstance(here, Cgroups) else "cookies"
        self.process = subprocess.Popen(
            [sys.executable, "-c", INHABITANT, place, how],
            stdout=subprocess.PIPE,
            env={**os.environ, **cookie_environment(NODE)},
        )
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())
        stat = proc_stat(self.child)
        assert stat is not None
        self.identity = Process(pid=self.child, start_time=stat.start_time)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(SOON)
        kill_process(self.identity)


def test_life_of_a_place(here: Containment) -> None:
    """Whoever enters belongs there with what it forks; a kill empties just this place, which can then be removed."""
    first, second = here.place("p", "op.1"), here.place("p", "op.10")
    assert operation_of(first) == "op.1"
    assert here.empty(first)
    one, two = Inhabitant(here, first), Inhabitant(here, second)
    try:
        members = here.members("p")
        assert sorted(members[first]) == sorted([one.process.pid, one.child])
        assert sorted(members[second]) == sorted([two.process.pid, two.child])
        assert here.members("other") == {}
        assert here.find("op.1") == [first]
        assert here.find("op") == []
        assert not here.empty(first)
        here.kill(first)
        one.process.wait(SOON)
        wait_until(lambda: here.empty(first))
        wait_until(lambda: not alive(one.identity))  # without cgroups one that is ending shows no cookie any more
        assert alive(two.identity)
        here.remove(first)
        here.remove(second)  # does nothing: somebody lives there
        assert here.find("op.1") == []
        assert here.find("op.10") == [second]
        assert not here.empty(second)
        here.kill(first)  # of a place that is gone: nothing
    finally:
        one.end()
        two.end()


@pytest.mark.parametrize("here", ["cgroups"], indirect=True)
def test_a_place_that_another_manager_pruned_is_made_again(here: Containment) -> None:
    """`btw stop a` ends its manager, which removes what is empty, just when an operation of b is about to enter."""
    assert isinstance(here, Cgroups)
    place = here.place("p", "op.1")
    here.create(place)
    prune(str(here.root))
    inhabitant = Inhabitant(here, place, create=False)
    try:
        assert inhabitant.process.pid in here.members("p")[place]
    finally:
        inhabitant.end()
        wait_until(lambda: here.empty(place))
        here.remove(place)


@pytest.mark.parametrize("here", ["cgroups"], indirect=True)  # cookies do not depend on where the manager lives
def test_other_cgroup_of_the_same_node(here: Containment) -> None:
    """Operations of a former manager that lived in another cgroup are members as well."""
    assert isinstance(here, Cgroups)
    elsewhere = here.root.parent.parent / f"session-{os.getpid()}"
    former = Cgroups(elsewhere / "btw" / NODE)
    place = former.place("p", "op.1")
    inhabitant = Inhabitant(former, place)
    try:
        members = here.members("p")
        assert list(members) == [place] and here.own("p") == {}
        assert sorted(members[place]) == sorted([inhabitant.process.pid, inhabitant.child])
    finally:
        inhabitant.end()
        wait_until(lambda: former.empty(place))
        former.remove(str(elsewhere))


def test_cgroup_without_kill_file(tmp_path: Path) -> None:
    """Where there is no cgroup.kill (before Linux 5.14) every process is killed by itself."""
    with subprocess.Popen(["sleep", "3600"]) as process:
        (tmp_path / "cgroup.procs").write_text(f"{process.pid}\n")
        directory = Cgroups(tmp_path.parent)
        (tmp_path / "cgroup.kill").symlink_to("missing/file")  # opening it says ENOENT, as the kernel would
        directory.kill(str(tmp_path))
        assert process.wait(SOON) == -signal.SIGKILL


def test_root_that_cannot_be_made() -> None:
    """A name that no directory can have gives None, so that cookies serve."""
    assert find_cgroup_root("line\nbreak") is None


def test_kill_process_compares_the_start_time() -> None:
    """A pid that belongs to somebody else by now is left alone; the right one is killed; one that is gone is fine."""
    with subprocess.Popen(["sleep", "3600"]) as process:
        stat = proc_stat(process.pid)
        assert stat is not None
        kill_process(Process(pid=process.pid, start_time=stat.start_time + 1))
        assert process.poll() is None
        kill_process(Process(pid=process.pid, start_time=stat.start_time))
        assert process.wait(SOON) == -signal.SIGKILL
        kill_process(Process(pid=process.pid, start_time=stat.start_time))


def test_cookies_need_room() -> None:
    """A process that was started without room for the cookie is told so, and not left without containment."""
    program = (
        "from btw_core.containment import Cookies\n"
        "try:\n    Cookies('n').enter('n/p/o')\nexcept OSError as error:\n    print(error)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BTW_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=SOON
    )
    assert "started without room for BTW_PACKAGE" in done.stdout


def test_cookies_refuse_long_names() -> None:
    """An id that does not fit is an error, and is not cut."""
    program = (
        "from btw_core.containment import Cookies\n"
        "try:\n    Cookies('n').enter('n/p/' + 'o' * 256)\nexcept OSError as error:\n    print(error)\n"
    )
    environment = {**os.environ, **cookie_environment("n")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=SOON
    )
    assert "has 256 bytes, at most 255 fit" in done.stdout


def test_where_we_are() -> None:
    """Machine and boot are the same at every call, and there."""
    assert machine_id() == machine_id() != ""
    assert len(boot_id()) == 36
