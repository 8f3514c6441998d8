"""`btw init`: write btw.toml, make the directories, create the cluster in its lock store."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import click

from ..exits import BUSY, USAGE
from .common import PATIENCE, Given, fail, setup_options

if TYPE_CHECKING:
    from ..settings import Setup

_TOML = """\
# btw.toml: this node and its cluster. Lines with # show the defaults.

# Name of the cluster, the same on every node.
{cluster}
# Name of this node; default: the host name up to its first dot.
{node}
# The lock store. The embedded one serves this computer only; a cluster of several computers needs a store plugin.
{lock}
# What happens to what is not down by the hard deadline, and so what others may trust when this node vanishes: "none",
# "stop" (it is killed), "reboot" (the node is), or "watchdog" (also if nothing of btw runs any more; root only).
# `btw check` says what each is worth. The embedded lock needs none.
# self_fence = "none"
# watchdog = "/dev/watchdog"
# watchdog_timeout = 10
# Real-time priority of btw itself (1 to 99), for computers that are busy; 0: none.
# priority = 0
# How far the clocks of two nodes may run apart (0.01 = 1 %), and how late a process may run that should run now.
# clock_error = 0.01
# scheduling_slack = "500ms"
"""


@click.command
@click.option("--cluster", metavar="NAME", help="Name of the cluster.")
@setup_options
def command(cluster: str | None, given: Given) -> None:
    """Create a cluster: btw.toml (if there is none), the directories, and the records of all packages in the store.

    Once for each cluster; refused when its store has one already. On further nodes only copy btw.toml.
    """
    from ..places import places

    given = given.absolute()
    file = places(given.dir).config
    written = False
    if not file.exists():
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        file.write_text(_toml(cluster, given))
        written = True
    elif cluster is not None:
        fail(f"{file} exists, so its cluster name holds: leave out --cluster, or write it there", USAGE)
    try:
        setup = given.setup()
        setup.places.ensure()
        names = _create(setup)
    except BaseException:  # Ctrl-C included; raised again
        if written:  # what was refused leaves no trace
            file.unlink()
        raise
    click.echo(f"{file} {'written' if written else 'was there and is used'}")
    click.echo(f"cluster {setup.config.cluster} created in {setup.lock}")
    click.echo(f"packages: {', '.join(names) or 'none yet; make one: btw new NAME -m exec'}")


def _toml(cluster: str | None, given: Given) -> str:
    values = {"cluster": (cluster, "btw"), "node": (given.node, "..."), "lock": (given.lock, "local:...")}
    return _TOML.format(
        **{key: f'{key} = "{said}"' if said else f'# {key} = "{usual}"' for key, (said, usual) in values.items()}
    )


def _create(setup: Setup) -> list[str]:
    """The cluster's record and a free one for each package. Raises ConfigError (any package that cannot be read: it
    would have to wait for a whole lease at its first start), StoreUnavailable."""
    from .. import lease
    from ..config import load_all
    from ..plugins import Plugins
    from ..resource import ConfigError
    from ..store import Conflict

    plugins = Plugins(setup.restrict)
    packages, problems = load_all(setup.config, setup.places, plugins)
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    store = plugins.store(setup.lock, setup.config.plugins)
    try:
        record = lease.ClusterRecord(id=secrets.token_hex(8), name=setup.config.cluster)
        if isinstance(store.put(lease.CLUSTER_KEY, lease.encode(record), expected=None, deadline=PATIENCE), Conflict):
            fail(f"{setup.lock} has a cluster already; nothing was changed", BUSY)
        for package in packages:
            first = lease.first(package.spec.timing.lease, "btw init")
            store.put(lease.PACKAGES + package.spec.lock, lease.encode(first), expected=None, deadline=PATIENCE)
    finally:
        store.close()
    return [package.name for package in packages]
