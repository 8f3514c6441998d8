"""What the release promises, shown with real processes on two nodes of this computer."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from system.conftest import Cluster, interrupt, seconds_between


def test_one_of_two_starts_it_and_the_other_follows_a_stop_at_once(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two nodes run one package: one starts it; after TERM of that one the other has it at once, not a lease later."""
    cluster.script("web")
    first = cluster.run("n1", "web")
    cluster.wait("n1", "running")
    second = cluster.run("n2", "web")
    cluster.wait("n2", "", event="began")
    assert cluster.log("web") == ["begin n1", "end n1"]
    cluster.end(first)
    released = cluster.wait("n1", "halted")
    taken = cluster.wait("n2", "running")
    seconds = seconds_between(released, taken)
    with capsys.disabled():
        print(f"\n    started elsewhere {seconds:.3f} s after it was verified down")
    assert 0 <= seconds < 5
    assert cluster.log("web") == ["begin n1", "end n1", "stop n1", "begin n2", "end n2"]
    cluster.end(second)


def test_degraded_for_timeout_moves(cluster: Cluster) -> None:
    """Degraded is endured for `timeout`; then the package moves."""
    cluster.script("web")
    cluster.run("n1", "web")
    cluster.wait("n1", "running")
    cluster.run("n2", "web")
    cluster.wait("n2", "", event="began")
    cluster.says("web", "n1", 2)
    degraded = cluster.wait("n1", "degraded")
    failing = cluster.wait("n1", "failing")
    assert "not healthy" in failing["cause"]
    assert seconds_between(degraded, failing) > 1  # timeout is 2 s, counted from the last health
    cluster.wait("n2", "running")
    assert cluster.log("web") == ["begin n1", "end n1", "stop n1", "begin n2", "end n2"]


def test_critical_switches_the_node_off_until_enable(cluster: Cluster) -> None:
    """Critical halts it here for good, another node starts it, and `btw enable` lets this node take part again, even
    after its manager was started anew."""
    cluster.script("web")
    first = cluster.run("n1", "web")
    cluster.wait("n1", "running")
    cluster.run("n2", "web")
    cluster.wait("n2", "", event="began")
    cluster.says("web", "n1", 3)
    cluster.wait("n1", "off")
    cluster.wait("n2", "running")
    status = cluster.btw("status", "web")
    assert "btw enable web --node n1" in status.stdout
    cluster.end(first)
    seen = len(cluster.read())
    cluster.run("n1", "web")
    cluster.wait("n1", "off", after=seen)
    done = cluster.btw("enable", "web", "--node", "n1")
    assert done.returncode == 0, done.stderr
    cluster.wait("n1", "stand-by", after=seen)
    assert cluster.log("web").count("begin n1") == 1


@pytest.mark.parametrize("moment", [0.1, 2.5, 4.9])
def test_a_manager_killed_during_a_start_leads_to_no_second_start_beside_it(cluster: Cluster, moment: float) -> None:
    """Whenever the manager dies during a 5 s start: the start dies with it before anybody begins another one."""
    cluster.script("web", start="sleep 5", start_timeout=15)
    first = cluster.run("n1", "web")
    cluster.until(lambda: cluster.log("web") == ["begin n1"], "start begins")
    cluster.run("n2", "web")
    time.sleep(moment)  # the moment is what is tried, nothing waits for it
    cluster.crash(first, "n1")
    seen = len(cluster.read())
    cluster.run("n1", "web")
    cluster.until(
        lambda: any(e.get("state") == "running" for e in cluster.read()[seen:]), "one of them runs it in the end"
    )
    log = cluster.log("web")
    assert not [line for line in log if line.startswith("overlap")], log


def test_a_new_manager_adopts_what_runs(cluster: Cluster) -> None:
    """A manager that was killed and started again goes on with the package, without a start or a stop."""
    cluster.script("web", timeout=20)
    first = cluster.run("n1", "web")
    cluster.wait("n1", "running")
    cluster.crash(first, "n1")
    seen = len(cluster.read())
    second = cluster.run("n1", "web")
    acquired = cluster.wait("n1", "unknown", after=seen)
    assert "adopted" in acquired["cause"] and acquired["term"] == 1
    cluster.wait("n1", "running", after=seen)
    assert cluster.log("web") == ["begin n1", "end n1"]
    cluster.end(second)


def test_a_vanished_manager_is_taken_over_and_what_it_left_is_ended(cluster: Cluster) -> None:
    """A manager that stays dead: the other node ends what is left of it on this computer, then starts."""
    cluster.script("web", start="setsid sleep 1000 > /dev/null 2>&1 &")
    first = cluster.run("n1", "web")
    cluster.wait("n1", "running")
    cluster.run("n2", "web")
    cluster.wait("n2", "", event="began")
    cluster.crash(first, "n1")
    cluster.wait("n2", "fencing")
    cluster.wait("n2", "running")
    assert cluster.log("web") == ["begin n1", "end n1", "begin n2", "end n2"]


def test_a_second_run_of_a_package_on_a_node_is_refused(cluster: Cluster) -> None:
    """The message names the manager that has it; exit code 75; the first goes on."""
    cluster.script("web")
    first = cluster.run("n1", "web")
    cluster.wait("n1", "running")
    second = cluster.run("n1", "web")
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 75
    assert f"by pid {first.pid}" in output and "btw stop web" in output
    cluster.end(first)
    assert cluster.log("web") == ["begin n1", "end n1", "stop n1"]


def test_a_second_interrupt_says_what_is_waited_for(cluster: Cluster) -> None:
    """Ctrl-C halts in order; the second one explains, and aborts nothing."""
    cluster.script("web", stop=f"while test -e {cluster.data}/hold; do sleep 0.1; done")
    hold = cluster.data / "hold"
    hold.touch()
    process = cluster.run("n1", "web")
    cluster.wait("n1", "running")
    interrupt(process)
    cluster.until(lambda: cluster.log("web")[-1] == "stop n1", "stop begins")
    interrupt(process)
    assert process.stdout is not None
    for line in process.stdout:
        if "waiting for web: halting, stop of script" in line:
            break
    else:
        pytest.fail("no word about what it waits for")
    hold.unlink()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert cluster.log("web") == ["begin n1", "end n1", "stop n1"]


def test_two_packages_of_one_run_end_on_their_own(cluster: Cluster) -> None:
    """`btw stop` of one leaves the other running; the run ends with its last."""
    cluster.script("one")
    cluster.script("two")
    process = cluster.run("n1", "one", "two")
    cluster.wait("n1", "running", "one")
    cluster.wait("n1", "running", "two")
    stopped = cluster.btw("stop", "one")
    assert stopped.returncode == 0 and "halted" in stopped.stdout, stopped.stderr
    assert process.poll() is None and cluster.log("two") == ["begin n1", "end n1"]
    assert cluster.btw("stop", "two").returncode == 0
    assert process.wait(60) == 0


def test_a_start_that_cannot_be_killed_is_stuck_and_harms_nobody(
    cluster: Cluster, hang: Callable[[Path], Any], tmp_path: Path
) -> None:
    """A start in state D is reported stuck, its lock kept; another package of the same manager does not notice; when it
    is gone, everything goes on."""
    directory = tmp_path / "hanging"
    mount = hang(directory)
    cluster.script("bad", start=f"cat {directory}/file", start_timeout=1)
    cluster.script("good")
    process = cluster.run("n1", "bad", "good")
    mount.wait_hung()
    cluster.run("n2", "bad")
    stuck = cluster.wait("n1", "stuck", "bad")
    assert "cat" in stuck["cause"] or "start" in stuck["cause"]
    cluster.wait("n1", "running", "good")
    assert "stuck" in cluster.btw("status", "bad", "--node", "n1").stdout
    asked = cluster.btw("stop", "bad", "--node", "n1")
    assert asked.returncode == 1 and "stuck" in asked.stderr
    assert not [e for e in cluster.read() if e["node"] == "n2" and e.get("state") in ("unknown", "starting")]
    assert "stop n1" not in cluster.log("good")
    seen = len(cluster.read())
    mount.release()
    cluster.wait("n1", "halted", "bad", after=seen)
    cluster.wait("n2", "starting", "bad")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
