"""What a Serviceguard administrator writes into a package: external scripts and their exit codes, PEV variables, the
script log, generic resources. Two real daemons."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from .conftest import Cluster
from .daemons import Daemons, ended, started

SCRIPT = """\
#!/bin/sh
echo "$1 on $BTW_NODE by $PEV_WHO"
[ "$1$BTW_NODE" = startn1 ] && exit $PEV_CODE
exit 0
"""
HEAD = """\
[package]
nodes = ["n1", "n2"]
pace = 0.5
timeout = 5
start_timeout = 20
stop_timeout = 4
log = "{log}"

[package.env]
PEV_WHO = "{name}"
PEV_CODE = "{code}"

[[resource]]
"""


@pytest.fixture
def daemons(cluster: Cluster) -> Iterator[Daemons]:
    with ended(Daemons(cluster, None)) as found:
        yield found


def test_external_scripts_and_a_generic_resource(daemons: Daemons) -> None:
    """Start with exit 1: "do not try elsewhere", auto_run off. With exit 2: another node has it. A value that goes down
    is a failure of the package, and the next node's start waits for it."""
    script, value = daemons.directory / "script", daemons.directory / "value"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    value.write_text("80\n")
    logs = {}
    for name, code in (("final", 1), ("other", 2), ("fibre", 0)):
        logs[name] = daemons.directory / f"{name}.log"
        text = HEAD.format(name=name, code=code, log=logs[name]) + f'type = "external"\npath = "{script}"\n'
        if name == "fibre":
            text += f'[[resource]]\ntype = "generic"\npath = "{value}"\nup = ">= 50"\n'
        (daemons.directory / "packages" / f"{name}.toml").write_text(text)
    started(daemons, "n1", "n2")
    daemons.settles(final="", other="n2", fibre="n1")

    said = daemons.btw("why", "final")
    assert "auto_run is off by btw on n1" in said and "exit code 1" in said
    assert "switched off on n1 by btw on n1" in daemons.btw("why", "other", "--on", "n1")
    assert [line.partition(": ")[2] for line in logs["final"].read_text().splitlines()] == [
        "start on n1 by final",
        "stop on n1 by final",
    ]
    assert " n2 start external: start on n2 by other\n" in logs["other"].read_text()

    daemons.cluster.btw("generic", "set", "generic", "49")
    daemons.settles(fibre="")
    daemons.cluster.btw("generic", "set", "generic", "50")
    daemons.settles(fibre="n2")
    assert "switched off on n1 by btw on n1" in daemons.btw("why", "fibre", "--on", "n1")
    assert any("value says 49, up means >= 50" in line for line in daemons.journal("output", "fibre"))
    daemons.cluster.btw("generic", "set", "generic", "49")
    wanted = [f"-> mend it, then: btw enable fibre --on {node}" for node in ("n1", "n2")]
    daemons.until(lambda: all(line in daemons.btw("why", "fibre") for line in wanted))


def test_a_halt_waits_no_longer_than_its_successor_halt_timeout(daemons: Daemons) -> None:
    """`app` needs `db` and cannot be stopped: `db`, which is to leave the node, waits, says so, then goes."""
    daemons.package("db", 'nodes = ["n1", "n2"]\nsuccessor_halt_timeout = 6')
    daemons.package("app", 'nodes = ["n1", "n2"]', '[[dependency]]\npackage = "db"\n')
    app = daemons.directory / "packages" / "app.toml"
    app.write_text(app.read_text().replace('stop = "rm -f ', 'stop = "false '))
    started(daemons, "n1", "n2")
    daemons.settles(db="n1", app="n1")
    daemons.btw("node", "drain", "n1", "--wait", "0")
    limit = "(or after 6 s, successor_halt_timeout)"
    daemons.until(lambda: limit in daemons.btw("why", "db"), lambda: daemons.btw("why", "db"))
    daemons.settles(db="n2", app="")
    said = "\n".join(daemons.journal("placement", "db"))
    assert f"waits here: halts when app is down {limit}: goes to n2: drained" in said
    assert "without waiting for app any longer: successor_halt_timeout is over" in said
    assert "stuck on n1" in daemons.btw("why", "app")
    app.write_text(app.read_text().replace('stop = "false ', 'stop = "rm -f '))
    daemons.up("app", "n1").unlink()  # so that everything can end


def test_a_failure_is_not_forgotten_when_the_manager_is_killed(daemons: Daemons) -> None:
    """Killed while it stops what has failed: the next manager goes on with that, and the package runs elsewhere, not
    where it is switched off."""
    daemons.package("web", 'nodes = ["n1", "n2"]')
    web = daemons.directory / "packages" / "web.toml"
    web.write_text(web.read_text().replace('stop = "rm', 'stop = "sleep 2; rm'))
    started(daemons, "n1", "n2")
    daemons.settles(web="n1")
    manager = daemons.status("n1")["pid"]
    daemons.up("web", "n1").unlink()
    daemons.until(lambda: any("failing" in line for line in _states(daemons)))
    os.kill(manager, signal.SIGKILL)
    daemons.settles(web="n2")
    assert not [line for line in _states(daemons) if line == "n1 unknown starting"][1:]  # but the first one
    assert "switched off on n1 by btw on n1" in daemons.btw("why", "web", "--on", "n1")


def _states(daemons: Daemons) -> list[str]:
    lines = (json.loads(line) for line in daemons.btw("events", "web", "--json").splitlines())
    return [f"{each['node']} {each['before']} {each['state']}" for each in lines if each["event"] == "transition"]
