"""btw.toml and package files to specs, with everything that is wrong in a file said at once."""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .parameters import closest, fields, literal
from .places import Places, places
from .resource import ConfigError, Problem, Resource, Seconds
from .tables import Reader
from .timing import Timing, violations
from .toml import Document, load
from .types import PackageSpec, ResourceSpec

if TYPE_CHECKING:
    from .plugins import Plugins

_Type = type[Resource]

#: Package, node, cluster and resource names: they become file names, cgroups, keys and environment.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,38}")
NAME_RULE = "1 to 39 letters, digits, `.`, `_` or `-`, the first a letter or digit"
_LOCK = re.compile(r"[a-z][a-z0-9_-]*:.+")
_SECRET = re.compile(r"//[^/]*@")
_TIMES = ("stop_timeout", "start_timeout", "timeout", "pace")
_IN_PACKAGE_FILE = "below [package] in a package file"
_IGNORED = re.compile(r"\..*|README.*|.*~|.*\.swp|#.*#")


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
    nodes: Annotated[
        list[str] | Literal["*"], Meta(description="nodes that may run it", examples=[["node1", "node2"]])
    ] = "*"
    on_stop_failure: Annotated[str, Meta(description='"hold": keep the lock until a person decides')] = "hold"


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A package file, decoded. `nodes` empty: any node. `document` knows the lines."""

    name: str
    file: str
    spec: PackageSpec
    resources: tuple[Resource, ...]
    nodes: tuple[str, ...] = ()
    document: Document

    def refused_on(self, node: str) -> str:
        """Why this node may not run it, "" when it may."""
        if not self.nodes or node in self.nodes:
            return ""
        line = self.document.line("package", "nodes")
        return f"{self.file}:{line}: package `{self.name}` is for nodes {', '.join(self.nodes)}, this node is `{node}`"


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
    dir: str | None = None, node: str | None = None, lock: str | None = None, plugins: str | None = None
) -> Setup:
    """Places, btw.toml and what the command line says over it. Blocks on the disk. Raises ConfigError."""
    where = places(dir)
    said = {key: value for key, value in (("node", node), ("lock", lock)) if value is not None}
    return Setup(places=where, config=load_config(where.config, said), restrict=words(plugins))


def words(plugins: str | None) -> tuple[str, ...] | None:
    """What `--plugins a,b` restricts to; None: not given."""
    return None if plugins is None else tuple(filter(None, map(str.strip, plugins.split(","))))


def load_config(file: Path, said: Mapping[str, str] | None = None) -> NodeConfig:
    """`btw.toml` (a missing one is all defaults); `said` is what the command line says for `node` and `lock`.
    Raises ConfigError with every problem."""
    said = said or {}
    reader = Reader(load(file, optional=True))
    values = reader.table(NodeConfig, reader.document.data, (), dict.fromkeys(_keys(PackageTable), _IN_PACKAGE_FILE))
    _watchdog(reader, values)
    values = {"node": socket.gethostname().partition(".")[0]} | values
    for key in ("cluster", "node"):
        if key in values and key not in said and not NAME.fullmatch(values[key]):
            where = "" if key in reader.document.data else " (it comes from the host name)"
            reader.problem(f'found "{values[key]}"{where}, allowed: {NAME_RULE}', f'set {key} = "..."', key)
    if "lock" in values:
        values["lock"] = _lock(values["lock"], file.parent)
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


def load_package(name: str, config: NodeConfig, places: Places, plugins: Plugins) -> Package:
    """One package by name. Blocks on the disk and in plugins (seconds). Raises ConfigError with every problem."""
    files = _candidates(places)
    if name not in files:
        near = closest(name, files)
        there = ", ".join(sorted(files)) or "none"
        text = f"there is no package `{name}` (there are: {there})"
        remedy = f"did you mean `{near}`?" if near else f"make one: btw new {name} -m exec"
        raise ConfigError([Problem(text=text, remedy=remedy, file=str(places.packages))])
    package = _load(name, files[name], config, plugins)
    if package is None:
        text = "is no package script: it has no run bit, and no plugin takes it for anything else"
        raise ConfigError([Problem(text=text, remedy=f"chmod +x {files[name][0]}", file=str(files[name][0]))])
    return package


def load_all(config: NodeConfig, places: Places, plugins: Plugins) -> tuple[list[Package], list[Problem]]:
    """Every package that can be read, and what is wrong with the others. Blocks as `load_package`."""
    packages: list[Package] = []
    problems: list[Problem] = []
    try:
        files = _candidates(places)
    except ConfigError as error:
        return [], list(error.problems)
    for name, found in sorted(files.items()):
        try:
            package = _load(name, found, config, plugins)
        except ConfigError as error:
            problems += error.problems
        else:
            packages += [package] if package else []
    return packages, problems


def _candidates(places: Places) -> dict[str, list[Path]]:
    """Package name -> the files that could be it. Directories (modules/) and what editors leave are none."""
    found: dict[str, list[Path]] = {}
    try:
        entries = sorted(places.packages.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        text = f"directory cannot be read: {error.strerror}"
        raise ConfigError([Problem(text=text, file=str(places.packages))]) from error
    for file in entries:
        if not _IGNORED.fullmatch(file.name) and not file.is_dir():
            found.setdefault(file.name.removesuffix(".toml"), []).append(file)
    return found


def _load(name: str, files: list[Path], config: NodeConfig, plugins: Plugins) -> Package | None:
    """None: the file is nobody's (no run bit, and no plugin takes it)."""
    file = files[0]
    if len(files) > 1:
        text = f"two packages of one name: {' and '.join(each.name for each in files)}"
        raise ConfigError([Problem(text=text, remedy="rename or remove one of them", file=str(file))])
    if not NAME.fullmatch(name):
        text = f"`{name}` is no package name, allowed: {NAME_RULE}"
        raise ConfigError([Problem(text=text, remedy="rename the file", file=str(file))])
    document = load(file) if file.suffix == ".toml" else _foreign(file, plugins)
    return decode_package(name, document, config, plugins) if document else None


def _foreign(file: Path, plugins: Plugins) -> Document | None:
    """A file that is not TOML, as a plugin understands it."""
    runs = os.access(file, os.X_OK)
    plugins.extensions()
    try:
        content = plugins.hook.btw_package_file(path=file)
    except ValueError as error:
        raise ConfigError([Problem(text=str(error), file=str(file))]) from error
    except Exception as error:  # foreign code: whatever else it raises is its defect, and costs only this package
        text = f"a plugin failed over this file: {type(error).__name__}: {error}"
        raise ConfigError([Problem(text=text, file=str(file))]) from error
    if content is not None and not isinstance(content, dict):
        raise ConfigError([Problem(text=f"a plugin read this file as {content!r}, not as a table", file=str(file))])
    if content is None and runs:
        text = "no installed plugin reads this file"
        raise ConfigError([Problem(text=text, remedy="pip install btw-exec (package scripts)", file=str(file))])
    return None if content is None else Document(file=str(file), data=content)


def decode_package(name: str, document: Document, config: NodeConfig, plugins: Plugins) -> Package:
    """The content of a package file. Imports the plugins of its types. Raises ConfigError with every problem."""
    reader = Reader(document)
    tables = document.data.get("resource", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        reader.problem("must be a list of tables", "write [[resource]]", "resource")
        tables = []
    elif not tables:
        reader.problem("has no [[resource]]: there is nothing to run", "add one, see `btw plugin list`")
    types = [_type(reader, table, index, config, plugins) for index, table in enumerate(tables)]
    resource_keys = {key for cls in types if cls for key in _keys(cls)} or _keys(Resource)
    home = (
        dict.fromkeys(_keys(NodeConfig), "in btw.toml")
        | dict.fromkeys({"type", *resource_keys}, "below [[resource]]")
        | dict.fromkeys(_keys(PackageTable), "below [package]")
    )
    for key in document.data:
        if key not in ("package", "resource"):
            reader.unknown(key, (), ("package", "resource"), home)
    said = document.data.get("package", {})
    if not isinstance(said, dict):
        reader.problem("must be a table", "write [package]", "package")
        said = {}
    table = _package_table(reader, said, config, home)
    resources = _resources(reader, tables, types, {key: home[key] for key in home.keys() - resource_keys})
    reader.finish()
    return Package(
        name=name,
        file=document.file,
        spec=PackageSpec(
            name=name,
            timing=_timing(table, config),
            resources=tuple(_spec(resource) for resource in resources),
            description=table.description,
            path=document.file,
        ),
        resources=tuple(resources),
        nodes=() if "*" in table.nodes else tuple(table.nodes),
        document=document,
    )


def _package_table(reader: Reader, said: dict[str, Any], config: NodeConfig, home: Mapping[str, str]) -> PackageTable:
    values = reader.table(PackageTable, said, ("package",), home)
    action = values.get("on_stop_failure", "hold")
    if action in ("fence", "exit"):
        text = f'found "{action}", which needs something that can fence; this release has nothing yet'
        reader.problem(text, 'allowed: "hold"', "package", "on_stop_failure")
    elif action != "hold":
        reader.problem(f'found "{action}", allowed: "hold"', "", "package", "on_stop_failure")
    nodes = values.get("nodes", "*")
    for index, node in enumerate(nodes):
        if node != "*" and not NAME.fullmatch(node):
            reader.problem(f'found "{node}", allowed: {NAME_RULE}', "", "package", "nodes", index)
    if not nodes:
        reader.problem("is empty: no node may run it", 'name nodes, or write nodes = "*"', "package", "nodes")
    table = PackageTable(**values)
    known = all(key in values for key in _TIMES if key in said)  # else defaults would be blamed
    for text in violations(_timing(table, config)) if known else []:
        mentioned = [key for key in _TIMES if key in said and re.search(rf"\b{key}\b", text)]
        reader.problem(text, "", "package", *mentioned[:1])
    return table


def _timing(table: PackageTable, config: NodeConfig) -> Timing:
    return Timing(
        pace=float(table.pace),
        timeout=float(table.timeout),
        start_timeout=float(table.start_timeout),
        stop_timeout=float(table.stop_timeout),
        clock_error=config.clock_error,
        slack=float(config.scheduling_slack),
        watchdog=config.window,
    )


def _type(reader: Reader, table: dict[str, Any], index: int, config: NodeConfig, plugins: Plugins) -> _Type | None:
    """The type that a [[resource]] names; None when that is a problem."""
    name = table.get("type")
    if not isinstance(name, str):
        found = "`type` is missing" if name is None else f"found {literal(name)}, allowed: text"
        reader.problem(found, 'add type = "...", see `btw plugin list`', "resource", index, "type")
        return None
    try:
        cls = plugins.resource_type(name)
    except ConfigError as error:
        reader.adopt(error.problems, "resource", index, "type")
        return None
    if cls.shared and not config.lock_explicit:
        text = f"`{name}` touches what other machines can touch, but the lock is the embedded one that nobody chose"
        remedy = "write lock = in btw.toml: a store that all nodes reach, or local:PATH if this is the only computer"
        reader.problem(text, remedy, "resource", index, "type")
    return cls


def _resources(
    reader: Reader, tables: list[dict[str, Any]], types: Sequence[_Type | None], home: Mapping[str, str]
) -> list[Resource]:
    """The resources in order, named; those with problems are left out."""
    resources = []
    used: dict[str, int] = {}  # name -> index of the table
    counts: Counter[str] = Counter()
    for index, (table, cls) in enumerate(zip(tables, types, strict=True)):
        if cls is None:
            continue
        path = ("resource", index)
        before = len(reader.problems)
        said = {key: value for key, value in table.items() if key != "type"}
        values = reader.table(cls, said, path, home)
        counts[table["type"]] += 1
        count = counts[table["type"]]
        name = values.get("name") or (f"{table['type']}-{count}" if count > 1 else table["type"])
        if not NAME.fullmatch(name):
            reader.problem(f'found "{name}", allowed: {NAME_RULE}', "", *path, "name")
        if name in used:
            first = reader.document.line("resource", used[name])
            reader.problem(f"two resources are named `{name}`, the other in line {first}", "rename one", *path, "name")
        used.setdefault(name, index)
        for key in ("start_timeout", "stop_timeout"):
            if values.get(key) == 0:
                reader.problem("found 0, must be greater than 0", "", *path, key)
        if len(reader.problems) == before:
            try:
                names = {field.encode_name: field.name for field in fields(cls)}
                resources.append(cls(**{names[key]: value for key, value in values.items()} | {"name": name}))
            except (ValueError, TypeError) as error:  # what the type's __post_init__ says
                reader.problem(str(error), "", *path)
    return resources


def _spec(resource: Resource) -> ResourceSpec:
    return ResourceSpec(
        name=resource.name,
        type=str(resource.__struct_config__.tag),
        shared=resource.shared,
        heals=hasattr(resource, "heal"),
        start_timeout=None if resource.start_timeout is None else float(resource.start_timeout),
        stop_timeout=None if resource.stop_timeout is None else float(resource.stop_timeout),
    )


def _keys(struct: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in fields(struct)}
