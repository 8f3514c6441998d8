"""btw.toml and what the command line says over it: this node's settings, with everything wrong said at once."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .cluster import FailbackPolicy, FailoverPolicy, Kind
from .parameters import fields
from .places import Places, places
from .resource import Problem, Seconds
from .tables import Reader
from .toml import load

#: Package, node, cluster and resource names: they become file names, cgroups, keys and environment.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,38}")
NAME_RULE = "1 to 39 letters, digits, `.`, `_` or `-`, the first a letter or digit"
_LOCK = re.compile(r"[a-z][a-z0-9_-]*:.+")
_SECRET = re.compile(r"//[^/]*@")


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`btw.toml`: this node and its cluster."""

    cluster: Annotated[str, Meta(description="name of the cluster, the same on every node")] = "btw"
    node: Annotated[str, Meta(description="name of this node; default: the host name up to its first dot")] = ""
    lock: Annotated[
        str | None,
        Meta(description="store: scheme:rest; default: the embedded store, which serves one computer"),
    ] = None
    self_fence: Annotated[
        Literal["none", "stop", "reboot", "watchdog"],
        Meta(description="what happens to what is not down by the hard deadline, and what others may trust"),
    ] = "none"
    watchdog: Annotated[str, Meta(description='device, for self_fence = "watchdog"')] = "none"
    watchdog_timeout: Annotated[Seconds, Meta(description="W: its timeout; the same on every node")] = Seconds(10)
    priority: Annotated[int, Meta(ge=0, le=99, description="real-time priority of btw itself; 0: none")] = 0
    clock_error: Annotated[
        float, Meta(ge=0, lt=0.5, description="share by which the clocks of two nodes may run apart")
    ] = 0.01
    scheduling_slack: Annotated[Seconds, Meta(description="how late a process may run that should run now")] = Seconds(
        0.5
    )
    forming: Annotated[
        Seconds | None,
        Meta(description="how long a daemon leaves packages to preferred nodes when it begins; default: pace"),
    ] = None
    plugins: Annotated[
        dict[str, dict[str, Any]], Meta(description="settings of extensions and stores: [plugins.NAME]")
    ] = {}

    @property
    def window(self) -> float:
        """W in seconds; 0 without a watchdog."""
        return float(self.watchdog_timeout) if self.self_fence == "watchdog" else 0.0

    @property
    def lock_explicit(self) -> bool:
        """Somebody wrote the lock down: an embedded one is meant, and not merely what happened to be there."""
        return self.lock is not None


class PackageTable(msgspec.Struct, frozen=True, kw_only=True):
    """The table `[package]`."""

    description: Annotated[str, Meta(description="one line for `status`")] = ""
    pace: Annotated[Seconds, Meta(description="how often status is asked and the lock renewed")] = Seconds(4)
    timeout: Annotated[Seconds, Meta(description="how long it may be unhealthy, or the lock unrenewed")] = Seconds(30)
    start_timeout: Annotated[Seconds, Meta(description="how long one start may take")] = Seconds(30)
    stop_timeout: Annotated[Seconds, Meta(description="how long stopping everything may take")] = Seconds(30)
    type: Annotated[Kind, Meta(description="on one node at a time, or on each of its nodes")] = Kind.FAILOVER
    nodes: Annotated[
        list[str] | Literal["*"],
        Meta(description="nodes that may run it, the preferred one first", examples=[["node1", "node2"]]),
    ] = "*"
    auto_run: Annotated[bool, Meta(description="it starts by itself, until somebody switches that")] = True
    failover_policy: Annotated[
        FailoverPolicy, Meta(description="which node gets it: the first of its list, or the one with fewest packages")
    ] = FailoverPolicy.CONFIGURED_NODE
    failback_policy: Annotated[
        FailbackPolicy, Meta(description="whether it goes back by itself when the first node of its list can run it")
    ] = FailbackPolicy.MANUAL
    priority: Annotated[
        Annotated[int, Meta(ge=1, le=3000)] | None,
        Meta(description="who decides and who gives way: lower wins", examples=[100]),
    ] = None
    successor_halt_timeout: Annotated[
        Seconds | None,
        Meta(description="how long its halt waits for what needs it; default: until that is down", examples=[120]),
    ] = None
    env: Annotated[
        dict[str, str],
        Meta(description="environment of every command of its resources", examples=[{"PEV_PORT": "8080"}]),
    ] = {}
    log: Annotated[
        str, Meta(description="file for what its commands and services print; default: the journal, and PACKAGE.log")
    ] = ""
    on_stop_failure: Annotated[
        str, Meta(description='"hold": keep the lock until a person decides; "fence": reboot this node')
    ] = "hold"


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What every command needs to know first."""

    places: Places
    config: NodeConfig
    restrict: tuple[str, ...] | None = None  # --plugins

    @property
    def lock(self) -> str:
        """The store to open: as written, or the embedded one at its usual place."""
        return self.config.lock or f"local:{self.places.local_lock}"


def load_setup(
    dir: str | None = None,
    node: str | None = None,
    lock: str | None = None,
    plugins: str | None = None,
    copy: str | None = None,
) -> Setup:
    """Places, btw.toml, or a `copy` of it, and what the command line says over it. Blocks on the disk. Raises
    ConfigError."""
    where = places(dir)
    said = {key: value for key, value in (("node", node), ("lock", lock)) if value is not None}
    config = load_config(Path(copy) if copy else where.config, said, base=where.config.parent)
    return Setup(places=where, config=config, restrict=words(plugins))


def words(plugins: str | None) -> tuple[str, ...] | None:
    """What `--plugins a,b` restricts to; None: not given."""
    return None if plugins is None else tuple(filter(None, map(str.strip, plugins.split(","))))


def load_config(file: Path, said: Mapping[str, str] | None = None, *, base: Path | None = None) -> NodeConfig:
    """`btw.toml` (a missing one is all defaults); `said` is what the command line says for `node` and `lock`; relative
    paths begin at `base`, where it is by default. Raises ConfigError with every problem."""
    said = said or {}
    reader = Reader(load(file, optional=True))
    elsewhere = dict.fromkeys(keys(PackageTable), "below [package] in a package file")
    values = reader.table(NodeConfig, reader.document.data, (), elsewhere)
    _watchdog(reader, values)
    values = {"node": socket.gethostname().partition(".")[0]} | values
    for key in ("cluster", "node"):
        if key in values and key not in said and not NAME.fullmatch(values[key]):
            where = "" if key in reader.document.data else " (it comes from the host name)"
            reader.problem(f'found "{values[key]}"{where}, allowed: {NAME_RULE}', f'set {key} = "..."', key)
    if "lock" in values:
        values["lock"] = _lock(values["lock"], base or file.parent)
        if "lock" not in said and _SECRET.search(values["lock"]):
            text = "a user or password stands in it, where logs show it (not shown here)"
            reader.problem(text, "write them below [plugins.SCHEME], and change this password", "lock")
        elif "lock" not in said and not _LOCK.fullmatch(values["lock"]):
            reader.problem(f'found "{values["lock"]}", allowed: "scheme:rest"', 'such as "local:/PATH"', "lock")
    if "node" in said and not NAME.fullmatch(said["node"]):
        reader.problems.append(Problem(text=f'found "{said["node"]}", allowed: {NAME_RULE}', key="--node"))
    if "lock" in said and _SECRET.search(said["lock"]):
        text = "a user or password stands in it, where `ps` shows it: write them below [plugins.SCHEME] of btw.toml"
        reader.problems.append(Problem(text=text, remedy="change this password", key="--lock"))
    elif "lock" in said and not _LOCK.fullmatch(said["lock"]):
        reader.problems.append(Problem(text=f'found "{said["lock"]}", allowed: scheme:rest', key="--lock"))
    reader.finish()
    return NodeConfig(**values | {**said, **({"lock": _lock(said["lock"], Path.cwd())} if "lock" in said else {})})


def _watchdog(reader: Reader, values: Mapping[str, Any]) -> None:
    """A device without self_fence would do nothing, and self_fence without a device promise nothing."""
    device, fence = values.get("watchdog", "none"), values.get("self_fence", "none")
    if fence == "watchdog" and not device.startswith("/"):
        reader.problem("names no device", 'such as watchdog = "/dev/watchdog"', "watchdog")
    elif fence != "watchdog" and device != "none":
        reader.problem(f'found "{device}", but self_fence is "{fence}"', 'write self_fence = "watchdog"', "watchdog")
    elif fence == "watchdog" and values.get("watchdog_timeout", 10) < 1:
        reader.problem(f"found {values['watchdog_timeout']:g} s, allowed: at least 1 s", "", "watchdog_timeout")


def _lock(lock: str, base: Path) -> str:
    """The path of an embedded store made absolute, for `run -d` changes directory."""
    scheme, _, rest = lock.partition(":")
    return f"local:{base.absolute() / rest}" if scheme == "local" and rest else lock


def keys(struct: type[msgspec.Struct]) -> set[str]:
    """The keys of the table that it is written as."""
    return {field.encode_name for field in fields(struct)}
