"""The keeper as a process: whatever happens to it or its manager, what was promised at H is done."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from keeper_stock import LIMIT, Stage, listening, send, soon

from btw_core.containment import Cgroups, find_cgroup_root
from btw_core.pulse import start_of

FAR = (1e9, 1e9 + 10)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    try:
        yield stage
    finally:
        stage.kill_all()


@pytest.mark.parametrize("code", [0, 1, 75, 78])
def test_a_refusal_passes_through_while_nothing_is_up(stage: Stage, code: int) -> None:
    """The manager's exit code is the run's, and no pulse is left."""
    stage.plan(exit=code)
    keeper = stage.start()
    assert keeper.wait(LIMIT) == code
    assert len(stage.lives()) == 1 and not stage.path.exists()


def test_a_refusal_while_something_is_up_is_tried_again(stage: Stage) -> None:
    """A configuration that somebody broke meanwhile must not leave a package without a manager."""
    stage.plan(leases={"web": FAR})
    keeper = stage.start()
    stage.until_up(web=FAR)
    stage.plan(exit=78)
    stage.until(lambda: len(stage.said("manager_lost")) >= 2)
    said = " ".join(stage.said("manager_lost"))  # each is written by a child of its own, so in any order
    assert "ended with exit code 78; another one is started" in said and "started in 1 s" in said
    stage.plan()
    stage.until(lambda: len(stage.lives()) >= 3)
    stage.until_up(len(stage.lives()), web=FAR)
    keeper.send_signal(signal.SIGTERM)
    assert keeper.wait(LIMIT) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV])
def test_a_manager_that_ends_or_stalls_is_followed_by_another(stage: Stage, number: int) -> None:
    """Nobody has to do anything; the new one finds what its predecessor said in the pulse."""
    stage.plan(leases={"web": FAR})
    keeper = stage.start()
    stage.until_up(web=FAR)
    stage.plan()
    send(stage.lives()[0], number)
    stage.until_up(2, web=FAR)
    stage.until(lambda: stage.said("manager_lost"))
    if number == signal.SIGSTOP:
        assert "no beat for" in stage.said("manager_killed")[0]
    keeper.terminate()
    assert keeper.wait(LIMIT) == 0
    assert len(stage.lives()) == 2


def test_a_second_keeper_is_refused(stage: Stage) -> None:
    """One for each slot; the message names the first and the way out."""
    first = stage.start()
    stage.until_up()
    second = stage.start()
    output, _ = second.communicate(timeout=LIMIT)
    assert second.returncode == 75
    assert f"already managed on node n1 by pid {first.pid}" in output and "btw stop web" in output
    assert first.poll() is None


@pytest.mark.parametrize("level", ["reboot", "watchdog"])
def test_the_node_is_rebooted_at_h(stage: Stage, level: str) -> None:
    """Not before, although the manager beats: what counts is what may be up."""
    stage.plan(leases={"web": FAR})
    keeper = stage.start("--self-fence", level)
    stage.until_up(web=FAR)
    assert stage.sysrq.read_bytes() == b""
    stage.plan(leases={"web": soon(0, 1.0), "db": FAR})
    stage.until(lambda: stage.sysrq.read_bytes(), "b is written")
    assert set(stage.sysrq.read_bytes()) == set(b"b")
    stage.until(lambda: stage.said("self_fence"))
    (cause,) = stage.said("self_fence")
    assert cause.startswith("web: not known to be down") and "this node is rebooted" in cause
    assert stage.kmsg.read_text().startswith(f"<1>btw: keeper of node n1: {cause[:30]}")  # no disk is needed for that
    assert keeper.poll() is None


def test_the_node_is_rebooted_at_h_without_any_manager(stage: Stage) -> None:
    """Also one that cannot be started any more."""
    stage.plan(leases={"web": FAR})
    stage.start("--self-fence", "reboot")
    stage.until_up(web=FAR)
    limits = soon(0, 3)
    stage.plan(leases={"web": limits})
    stage.until_up(web=limits)
    stage.plan(exit=70)
    stage.until(lambda: stage.sysrq.read_bytes(), "b is written")


@pytest.mark.parametrize("with_cgroups", [True, False])
def test_what_is_up_at_h_is_killed(stage: Stage, with_cgroups: bool) -> None:
    """self_fence none and stop: the processes of that package on this node, no others, without asking the manager."""
    home = f"n1.{os.getpid():08x}"
    root = find_cgroup_root(home)
    if with_cgroups and root is None:
        pytest.skip("no cgroup v2 here")
    late, other = (sleeper(home, package, root if with_cgroups else None) for package in ("web", "db"))
    try:
        stage.plan(leases={"web": FAR, "db": FAR}, home=home, cgroup=root if with_cgroups else "")
        keeper = stage.start("--self-fence", "stop")
        stage.until_up(web=FAR, db=FAR)
        stage.plan(leases={"web": soon(0, 0), "db": FAR}, home=home, cgroup=root if with_cgroups else "")
        assert late.wait(LIMIT) == -signal.SIGKILL
        stage.until(lambda: stage.said("self_fence"))
        assert "its processes are killed" in stage.said("self_fence")[0]
        assert other.poll() is None and len(stage.lives()) == 1 and keeper.poll() is None
        assert stage.sysrq.read_bytes() == b""
    finally:
        for each in (late, other):
            each.kill()
            each.wait(LIMIT)
        if root is not None:
            remove(Path(root))


def sleeper(home: str, package: str, root: str | None) -> subprocess.Popen[bytes]:
    cookies = {"BTW_HOME": home, "BTW_PACKAGE": package, "BTW_OPERATION": "1"}
    if root is None:
        return subprocess.Popen(["sleep", "1000"], env={**os.environ, **cookies})
    places = Cgroups(Path(root))
    place = places.place(package, "1")
    places.create(place)
    process = subprocess.Popen(["sleep", "1000"])
    Path(place, "cgroup.procs").write_text(str(process.pid))
    return process


def remove(root: Path) -> None:
    for directory, _, _ in os.walk(root, topdown=False):
        Path(directory).rmdir()


def test_a_manager_that_promises_something_else_is_replaced(stage: Stage) -> None:
    """btw.toml was changed while there was no keeper: others must not trust what nobody does."""
    stage.plan(leases={"web": FAR})
    first = stage.start()
    stage.until_up(web=FAR)
    first.kill()
    first.wait(LIMIT)
    stage.start("--self-fence", "reboot")
    stage.until_up(2, web=FAR)
    stage.until(lambda: stage.said("manager_killed"))
    assert "it promises self_fence = none" in stage.said("manager_killed")[0]


@pytest.mark.parametrize("how", ["deleted", "cut"])
def test_a_pulse_that_is_gone_counts_as_h_passed(stage: Stage, how: str) -> None:
    """While something may be up nobody may be left who could say until when."""
    stage.plan(leases={"web": FAR})
    stage.start("--self-fence", "reboot")
    stage.until_up(web=FAR)
    stage.until_looked()
    if how == "deleted":
        stage.path.unlink()
    else:
        os.truncate(stage.path, 100)
    stage.until(lambda: stage.sysrq.read_bytes(), "b is written")
    stage.until(lambda: any("the pulse is gone" in cause for cause in stage.said("self_fence")))


def test_a_pulse_that_is_gone_while_nothing_is_up_is_made_again(stage: Stage) -> None:
    """Nothing else happens."""
    keeper = stage.start("--self-fence", "reboot")
    stage.until_up()
    stage.path.unlink()
    stage.until(lambda: stage.said("pulse_renewed"))
    stage.until(stage.path.exists)
    assert stage.sysrq.read_bytes() == b"" and keeper.poll() is None


def test_another_keeper_attaches_to_the_manager_that_runs(stage: Stage) -> None:
    """It starts none, hears what the manager says last though it is not its parent, and goes with it."""
    stage.plan(leases={"web": FAR})
    first = stage.start()
    stage.until_up(web=FAR)
    first.kill()
    first.wait(LIMIT)
    second = stage.start()
    stage.until(lambda: (half := stage.halves()[1]) is not None and half.pid == second.pid)
    stage.until(lambda: stage.said("keeper_attached"))
    assert len(stage.lives()) == 1
    send(stage.lives()[0], signal.SIGKILL)
    stage.until_up(2, web=FAR)
    second.kill()
    second.wait(LIMIT)
    third = stage.start()
    stage.until(lambda: len(stage.said("keeper_attached")) == 2)
    third.terminate()
    assert third.wait(LIMIT) == 0
    assert len(stage.lives()) == 2


def test_a_signal_waits_until_the_manager_can_be_told(stage: Stage) -> None:
    """While something is up a manager that loads would only end; the next one is told as well."""
    stage.plan(leases={"web": FAR})
    keeper = stage.start()
    stage.until_up(web=FAR)
    stage.plan(ready=False, at_term=70)
    send(stage.lives()[0], signal.SIGKILL)
    stage.until(lambda: len(stage.lives()) == 2)
    keeper.terminate()
    stage.until(lambda: (half := stage.halves()[0]) is not None and half.pid == stage.lives()[-1])
    assert stage.lines("signals") == []
    stage.plan(at_term=70)
    stage.until(lambda: stage.lines("signals") == ["SIGTERM"])
    stage.plan()
    assert keeper.wait(LIMIT) == 0
    assert set(stage.lines("signals")) == {"SIGTERM"} and len(stage.lives()) >= 3


def test_ctrl_c_reaches_the_manager_once_and_once_more(stage: Stage) -> None:
    """A terminal sends it to the whole group: the manager is in none of the terminal's."""
    keeper = stage.start()
    stage.until_up()
    os.killpg(keeper.pid, signal.SIGINT)
    stage.until(lambda: stage.lines("signals") == ["SIGINT"])
    os.killpg(keeper.pid, signal.SIGINT)
    stage.until(lambda: stage.lines("signals") == ["SIGINT"] * 2)
    os.killpg(keeper.pid, signal.SIGTSTP)  # Ctrl-Z must not stop it
    stage.plan(exit=0)
    assert keeper.wait(LIMIT) == 0
    assert stage.lines("signals") == ["SIGINT"] * 2


def test_an_upgrade_keeps_process_and_lock(stage: Stage) -> None:
    """USR1: the manager leaves, the keeper becomes the new one in the same process, which starts a new manager."""
    stage.plan(leases={"web": FAR})
    keeper = stage.start()
    stage.until_up(web=FAR)
    start = start_of(keeper.pid)
    keeper.send_signal(signal.SIGUSR1)
    stage.until_up(2, web=FAR)
    assert stage.lines("signals") == ["SIGUSR1"] and start_of(keeper.pid) == start
    second = stage.start()
    assert second.wait(LIMIT) == 75
    second.communicate()
    keeper.send_signal(signal.SIGUSR1)
    stage.until_up(3, web=FAR)
    keeper.terminate()
    assert keeper.wait(LIMIT) == 0
    assert not stage.said("manager_lost") and len(stage.said("upgrade")) == 2


def test_the_service_manager_hears_how_it_goes(stage: Stage, tmp_path: Path) -> None:
    """READY when the manager answers, WATCHDOG while both beat, RELOADING and READY again, STOPPING; the manager itself
    has nothing to do with it."""
    with listening(tmp_path / "notify") as heard:
        stage.plan(ready=False)
        keeper = stage.start(notify=str(tmp_path / "notify"))
        stage.until(lambda: stage.halves()[0] is not None)
        assert "READY=1" not in heard()
        stage.plan()
        stage.until(lambda: {"READY=1", "STATUS=web fine", "WATCHDOG=1", f"MAINPID={keeper.pid}"} <= set(heard()))
        assert (half := stage.halves()[1]) is not None and half.served
        assert stage.lines("lives")[0].endswith(" False")
        keeper.send_signal(signal.SIGUSR1)
        stage.until(lambda: "RELOADING=1" in heard())
        stage.until(lambda: "READY=1" in heard()[heard().index("RELOADING=1") :])
        keeper.terminate()
        assert keeper.wait(LIMIT) == 0
        assert "STOPPING=1" in heard()


def test_what_cannot_be_promised_is_refused_before_anything_starts(stage: Stage) -> None:
    """reboot without the means to reboot; watchdog without a device: exit code 78 and the remedy."""
    stage.sysrq.unlink()
    keeper = stage.start("--self-fence", "reboot")
    output, _ = keeper.communicate(timeout=LIMIT)
    assert keeper.returncode == 78 and 'self_fence = "reboot" needs' in output and 'set self_fence = "stop"' in output
    stage.sysrq.touch()
    device = ["--watchdog", str(stage.directory / "none"), "--window", "10"]
    keeper = stage.start("--self-fence", "watchdog", *device)
    output, _ = keeper.communicate(timeout=LIMIT)
    assert keeper.returncode == 78 and "modprobe softdog" in output
    assert stage.lives() == []


def test_a_run_that_was_killed_whole_is_cut_off_by_the_next(stage: Stage) -> None:
    """Keeper and manager dead at once: the next keeper knows until when what they left may be up."""
    stage.plan(leases={"web": FAR})
    first = stage.start("--self-fence", "reboot")
    stage.until_up(web=FAR)
    limits = soon(0, 1)
    stage.plan(leases={"web": limits})
    stage.until_up(web=limits)
    send(first.pid, signal.SIGSTOP)
    send(stage.lives()[0], signal.SIGKILL)
    first.kill()
    first.wait(LIMIT)
    stage.plan()
    stage.start("--self-fence", "reboot")
    stage.until(lambda: stage.sysrq.read_bytes(), "b is written")


def test_a_stopped_manager_that_is_done_needs_no_other(stage: Stage) -> None:
    """It did what it was asked to; what another package of a former run left up is still cut off, then all is over."""
    stage.plan(leases={"old": FAR})
    keeper = stage.start()
    stage.until_up(old=FAR)
    stage.plan(exit=0, at_end={"old": soon(0, 1)})
    assert keeper.wait(LIMIT) == 0
    assert len(stage.lives()) == 1 and stage.said("self_fence")
