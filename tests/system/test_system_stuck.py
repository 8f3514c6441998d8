"""A stop that does not succeed, as a person meets it: what the journal and `btw status` tell, and that it helps."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from system.conftest import Cluster


def test_a_stop_that_never_ends_is_explained_and_can_be_ended(cluster: Cluster) -> None:
    """A stop script that waits for ever: the journal says what it waited for and what it said last; `status` gives the
    commands, and the first of them helps once the script is mended."""
    cluster.script("web", stop=f"echo closing; test -e {cluster.data}/mended || sleep 1000")
    process = cluster.run("n1", "web")
    cluster.wait("n1", "running", "web")
    process.send_signal(signal.SIGTERM)
    stuck = cluster.wait("n1", "stuck", "web")
    words = r"did not end within .*; it said last: closing; until then: pid \d+ \(sleep 1000\)"
    assert re.search(words, stuck["cause"])
    told = cluster.btw("status", "web", "--node", "n1").stdout
    assert "  mend what keeps it from stopping, then: btw stop web --node n1\n" in told
    manager, keeper = cluster.halves("n1")
    assert f"kill -9 {keeper.pid} {manager.pid}; btw unlock web --confirmed\n" in told
    (cluster.data / "mended").touch()
    assert cluster.btw("stop", "web", "--node", "n1").returncode == 0
    assert process.wait(60) == 0


def test_a_stop_in_d_state_is_explained(cluster: Cluster, hang: Callable[[Path], Any]) -> None:
    """A stop that hangs in a mount, and survives SIGKILL: `status` names the process, its state and the mount, says
    that no signal ends it, and does not hang itself; when the mount is mended everything goes on by itself."""
    directory = cluster.directory / "hanging"
    mount = hang(directory)
    cluster.script("web", stop=f"test -e {cluster.data}/mended || (cd {directory}; cat file)")
    process = cluster.run("n1", "web")
    cluster.wait("n1", "running", "web")
    process.send_signal(signal.SIGTERM)
    mount.wait_hung()
    cluster.wait("n1", "stuck", "web")
    said = json.loads(cluster.btw("status", "web", "--json").stdout)
    (row,) = said["packages"]
    hanging = [text for text in row["processes"] if ", state D in " in text]
    assert len(hanging) == 1, said
    pid = hanging[0].split()[1]
    assert hanging[0].startswith(f"pid {pid} (cat file), state D in request_wait_answer")
    assert f"works in {directory}" in hanging[0] and f"on {directory} (fuse btw-hang)" in hanging[0]
    assert any(f"no signal ends {pid} (state D)" in line for line in said["advice"])
    alive = f"still alive: pid {pid} (cat"
    cluster.until(lambda: any(alive in each.get("cause", "") for each in cluster.read()), "a note")
    (cluster.data / "mended").touch()
    mount.release()
    cluster.wait("n1", "halted", "web")
    assert process.wait(60) == 0
