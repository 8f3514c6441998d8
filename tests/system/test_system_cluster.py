"""Real daemons on several nodes of this computer: each expected placement is written in the test.

On the embedded store, and on a real etcd of one member.
"""

from __future__ import annotations

import getpass
import os
import time

from .daemons import NODES, Daemons, started


def twenty(daemons: Daemons) -> None:
    """db <- app <- web on one node by db's list; five balanced ones; a log on every node; pairs that exclude each
    other; the rest by their lists."""
    daemons.package("db", 'nodes = ["n1", "n2", "n3"]\npriority = 10')
    daemons.package("app", 'nodes = ["n1", "n2", "n3"]', '[[dependency]]\npackage = "db"\n')
    daemons.package("web", 'nodes = ["n1", "n2", "n3"]', '[[dependency]]\npackage = "app"\nlocation = "any_node"\n')
    for number in range(1, 7):
        daemons.package(f"even{number}", 'nodes = ["n1", "n2", "n3"]\nfailover_policy = "min_package_node"')
    down = '[[dependency]]\npackage = "{}"\ncondition = "DOWN"\nlocation = "same_node"\n'
    daemons.package("prod", 'nodes = ["n2", "n3"]\npriority = 20', down.format("test"))
    daemons.package("test", 'nodes = ["n2", "n3"]', down.format("prod"))
    for number in range(1, 9):
        node = NODES[number % 3]
        others = [each for each in NODES if each != node]
        back = 'failback_policy = "automatic"' if number <= 4 else ""
        daemons.package(f"own{number}", f'nodes = ["{node}", "{others[0]}", "{others[1]}"]\n{back}')
    daemons.package("idle", 'nodes = ["n1"]\nauto_run = false')


FIRST = {f"own{number}": NODES[number % 3] for number in range(1, 9)}


def test_a_day_of_twenty_packages(daemons: Daemons) -> None:
    """Cluster start, exclusion, node crash, return with failback, drain, resume, maintenance."""
    twenty(daemons)
    started(daemons)
    daemons.settles(db="n1", app="n1", web="n1", prod="n2", test="n3", idle="", **FIRST)
    evens = [f"even{number}" for number in range(1, 7)]
    daemons.until(lambda: all(len(daemons.look()[name]) == 1 for name in evens))
    assert len({daemons.look()[name][0] for name in evens}) > 1

    # n1 is gone: db drags app along to its next node; web follows its list; those of n1 go to their next node
    daemons.crash("n1")
    daemons.settles(db="n2", app="n2", web="n2", prod="n2", test="n3", own3="n2", own6="n2", own1="n2", own2="n3")
    assert "n1 is lost" in daemons.btw("why", "db", "--on", "n2", node="n2") or daemons.look()["db"] == ["n2"]

    # n1 is back: only own3, whose failback is automatic, goes back
    daemons.begin("n1")
    daemons.settles(db="n2", app="n2", own3="n1", own6="n2")

    # n2 is drained: prod (priority 20) takes n3, and test has to leave it; n2 is empty
    daemons.btw("node", "drain", "n2", "--why", "kernel")
    daemons.settles(db="n1", app="n1", web="n1", prod="n3", own1="n1", own4="n1", own7="n1")
    assert not any("n2" in nodes for nodes in daemons.look().values())
    assert daemons.look()["test"] == []
    said = daemons.btw("why", "test")
    assert "excluded by prod on n3" in said and "drained" in said and "-> btw node resume n2" in said

    # n2 takes part again: test has a node again, and those with automatic failback return
    daemons.btw("node", "resume", "n2")
    daemons.settles(prod="n3", test="n2", own1="n2", own4="n2", own7="n1")

    # maintenance: what vanishes is passed over; it ends only in health
    daemons.btw("maintenance", "own8", "on", "--why", "new disk")
    where = daemons.look()["own8"][0]
    daemons.until(lambda: _maintained(daemons, where, "own8"))
    daemons.up("own8", where).unlink()
    daemons.until(lambda: bool(daemons.journal("note", "own8")))
    time.sleep(1.5)
    daemons.settles(own8=where)
    refused = daemons.btw("maintenance", "own8", "off", code=1)
    assert f"is not healthy on {where}" in refused
    daemons.up("own8", where).touch()
    daemons.until(lambda: _healthy(daemons, where, "own8"))
    daemons.until(lambda: _ends(daemons, "own8"))
    daemons.settles(own8=where)


def _maintained(daemons: Daemons, node: str, name: str) -> bool:
    return any(each["package"] == name and each["maintenance"] for each in daemons.status(node)["packages"])


def _ends(daemons: Daemons, name: str) -> bool:
    """Maintenance: from any node, once that has heard that the package is healthy."""
    try:
        return "is off" in daemons.btw("maintenance", name, "off")
    except AssertionError as error:
        raise ValueError(str(error)) from error


def _healthy(daemons: Daemons, node: str, name: str) -> bool:
    resources = (each["resources"] for each in daemons.status(node)["packages"] if each["package"] == name)
    return all(each["status"] == "up" for each in next(resources))


def test_switches_survive_everything(daemons: Daemons) -> None:
    """Halted by hand, switched off by a failure, disabled: still so after every daemon was ended and begun again."""
    daemons.package("web", 'nodes = ["n1", "n2"]')
    daemons.package("app", 'nodes = ["n1", "n2"]')
    daemons.package("job", 'nodes = ["n1", "n2"]')
    started(daemons)
    daemons.settles(web="n1", app="n1", job="n1")
    daemons.btw("stop", "web", "--why", "no more")
    daemons.up("app", "n1").unlink()  # it fails on n1, and runs on n2
    daemons.settles(web="", app="n2", job="n1")
    daemons.btw("disable", "job", "--why", "window")
    for node in NODES:
        daemons.end(node)
    assert not list(daemons.directory.glob("*.up-*"))
    daemons.begin(*NODES)
    daemons.settles(web="", app="n2", job="")
    user = os.environ.get("SUDO_USER") or getpass.getuser()
    said = daemons.btw("why", "web")
    assert (
        f"auto_run is off by {user}" in said
        and "no more" in said
        and "-> btw enable web, or once: btw start web" in said
    )
    assert "switched off on n1 by btw on n1" in daemons.btw("why", "app", "--on", "n1")
    assert "window" in daemons.btw("status", "--line") or "window" in daemons.btw("status")
    assert "package:web|auto_run=off" in daemons.btw("status", "--line")
    daemons.btw("enable", "app", "--on", "n1")
    daemons.btw("move", "app", "n1")
    daemons.btw("enable", "web")
    daemons.btw("start", "job")
    daemons.settles(web="n1", app="n1", job="n1")
    daemons.btw("stop", "app", "--here")
    daemons.settles(app="n2")


def test_multi_node_and_what_needs_it(daemons: Daemons) -> None:
    """An instance on each node; halted by hand only running it by hand starts it again; what needs it follows."""
    daemons.package("log", 'type = "multi_node"')
    daemons.package("app", 'nodes = ["n2", "n1"]', '[[dependency]]\npackage = "log"\n')
    started(daemons)
    daemons.settles(log="n1 n2 n3", app="n2")
    daemons.btw("stop", "log", "--on", "n2")
    daemons.settles(log="n1 n3", app="n1")
    assert "only running it by hand" in daemons.btw("why", "log", "--on", "n2")
    daemons.btw("start", "log", "--on", "n2")
    daemons.settles(log="n1 n2 n3", app="n1")


def test_apply_takes_over_what_changed_and_touches_nothing_else(daemons: Daemons) -> None:
    """New, changed and removed package files while everything runs; refused where something would have to stop."""
    for name in ("web", "app", "old"):
        daemons.package(name, 'nodes = ["n1", "n2"]')
    started(daemons)
    daemons.settles(web="n1", app="n1", old="n1")
    web = daemons.directory / "packages" / "web.toml"
    text = web.read_text()
    web.write_text(
        text + '[[resource]]\ntype = "flag"\nname = "second"\npath = "' + str(daemons.directory / "second") + '"\n'
    )
    refused = daemons.btw("apply", code=1)
    assert "+ resource second" in refused and "btw stop web" in refused
    web.write_text(text.replace("timeout = 4", "timeout = 5", 1))
    daemons.package("new", 'nodes = ["n1"]')
    daemons.btw("stop", "old")
    (daemons.directory / "packages" / "old.toml").unlink()
    preview = daemons.btw("apply", "--preview", code=1)
    assert "+ package new" in preview and "- package old" in preview and "~ [package]" in preview
    said = daemons.btw("apply", code=1)  # n2 and n3 have not read them yet
    assert "applied on n1" in said and "n2 has another web: [package]" in said
    daemons.settles(web="n1", app="n1", new="n1")
    stopped = [
        line for name in ("web", "app") for line in daemons.journal("transition", name) if "verified down" in line
    ]
    assert not stopped, stopped
    assert daemons.btw("apply", node="n2", code=0 if "n3" not in said else 1)
    daemons.btw("apply", node="n3")
    assert "nothing changed" in daemons.btw("apply")


def test_refused_and_explained(daemons: Daemons) -> None:
    """What cannot be is refused before anything happens, with the reason."""
    daemons.package("web", 'nodes = ["n1", "n2"]')
    started(daemons)
    daemons.settles(web="n1")
    assert "not in its list of nodes" in daemons.btw("move", "web", "n3", code=1)
    assert "runs there" in daemons.btw("move", "web", "n1", code=1)
    assert "there is no node `n9`" in daemons.btw("start", "web", "--on", "n9", code=1)
    daemons.btw("disable", "web", "--on", "n2")
    assert "switched off" in daemons.btw("start", "web", "--on", "n2", code=1)
    assert "web halts on n1" in daemons.btw("stop", "web", "--preview")
    daemons.settles(web="n1")
    report = daemons.directory / "report.tar.gz"
    said = daemons.btw("report", "-o", str(report))
    assert report.stat().st_mode & 0o777 == 0o600 and "cluster.json" in said and "store.txt" in said
