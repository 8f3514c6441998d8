"""Package files to specs, with everything that is wrong in a file said at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .cluster import Dependency, Kind, Rules
from .dependencies import flaws
from .parameters import closest, fields, literal
from .places import Places
from .resource import ConfigError, Problem, Resource
from .settings import NAME, NAME_RULE, NodeConfig, PackageTable, keys
from .tables import Reader
from .timing import Timing, violations
from .toml import Document, load
from .types import PackageSpec, ResourceSpec

if TYPE_CHECKING:
    from .plugins import Plugins

_Type = type[Resource]

_TIMES = ("stop_timeout", "start_timeout", "timeout", "pace")
_VARIABLE = re.compile(r"(?!BTW_)[A-Za-z_][A-Za-z0-9_]*")
_IGNORED = re.compile(r"\..*|README.*|.*~|.*\.swp|#.*#")


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A package file, decoded. `nodes` empty: any node. `document` knows the lines."""

    name: str
    file: str
    spec: PackageSpec
    resources: tuple[Resource, ...]
    nodes: tuple[str, ...] = ()
    rules: Rules = Rules()
    env: Mapping[str, str] = {}
    log: str = ""
    document: Document

    def refused_on(self, node: str) -> str:
        """Why this node may not run it, "" when it may."""
        if not self.nodes or node in self.nodes:
            return ""
        line = self.document.line("package", "nodes")
        return f"{self.file}:{line}: package `{self.name}` is for nodes {', '.join(self.nodes)}, this node is `{node}`"

    def digests(self) -> dict[str, str]:
        """What tells two versions of this file apart: "" for its rules and timeouts, and each resource by its name."""
        tables = {key: table for key, table in self.document.data.items() if key != "resource"}
        env = [dict(self.env)] if self.env else []  # it is of each resource
        digests = {"": _digest(tables)}
        for resource in self.resources:
            digests[resource.name] = _digest([resource.__struct_config__.tag, msgspec.to_builtins(resource), *env])
        return digests

    def several(self) -> list[Resource]:
        """What would be active on several nodes at once, and may not: what other machines can touch."""
        return [each for each in self.resources if each.shared and self.rules.type is Kind.MULTI_NODE]

    def beyond_run(self) -> Problem | None:
        """What `btw run` does not obey, and therefore refuses rather than pass over in silence."""
        plain = Rules(nodes=self.rules.nodes)
        keys = [key for key in Rules.__struct_fields__ if getattr(self.rules, key) != getattr(plain, key)]
        if not keys:
            return None
        words = ["[[dependency]]" if key == "dependencies" else key for key in keys]
        text = f"package `{self.name}`: {', '.join(words)}: only `btw daemon` obeys this, `btw run` does not"
        path = ("dependency", 0) if keys[0] == "dependencies" else ("package", keys[0])
        line = self.document.line(*path)
        remedy = "run it with btw daemon, or remove this"
        return Problem(text=text, remedy=remedy, file=self.file, line=line, key=words[0])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


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


def load_together(
    config: NodeConfig, places: Places, plugins: Plugins
) -> tuple[list[Package], list[Problem]]:
    """As `load_all`, without those that cannot be with the others: what they say of each other is refused."""
    packages, problems = load_all(config, places, plugins)
    found = flaws({package.name: package.rules for package in packages})
    out = {flaw.package: f"{flaw.text}; {flaw.remedy}" for flaw in found}
    for package in packages:
        if package.several():
            names = ", ".join(each.name for each in package.several())
            out[package.name] = f"{names} would be active on several nodes at once in a multi_node package"
        if package.name in out:
            text, remedy = f"package `{package.name}` is left out: {out[package.name]}", f"see btw check {package.name}"
            problems.append(Problem(text=text, remedy=remedy, file=package.file))
    return [package for package in packages if package.name not in out], problems


def package_names(places: Places) -> list[str]:
    """Of every file that may be a package's; nothing is run. Raises ConfigError."""
    return [name for name in _candidates(places) if NAME.fullmatch(name)]


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
    resource_keys = {key for cls in types if cls for key in keys(cls)} or keys(Resource)
    home = (
        dict.fromkeys(keys(NodeConfig), "in btw.toml")
        | dict.fromkeys({"type", *resource_keys}, "below [[resource]]")
        | dict.fromkeys(keys(PackageTable), "below [package]")
    )
    for key in document.data:
        if key not in ("package", "resource", "dependency"):
            reader.unknown(key, (), ("package", "resource", "dependency"), home)
    said = document.data.get("package", {})
    if not isinstance(said, dict):
        reader.problem("must be a table", "write [package]", "package")
        said = {}
    table = _package_table(reader, said, config, home)
    dependencies = _dependencies(reader, document.data.get("dependency", []))
    resources = _resources(reader, tables, types, {key: home[key] for key in home.keys() - resource_keys})
    reader.finish()
    nodes = () if "*" in table.nodes else tuple(table.nodes)
    patience = table.successor_halt_timeout
    return Package(
        name=name,
        file=document.file,
        spec=PackageSpec(
            name=name,
            timing=_timing(table, config),
            resources=tuple(_spec(resource) for resource in resources),
            instance=f"{name}@{config.node}" if table.type is Kind.MULTI_NODE else "",
            on_stop_failure=table.on_stop_failure,
            description=table.description,
            path=document.file,
        ),
        resources=tuple(resources),
        nodes=nodes,
        env=table.env,
        log=table.log,
        rules=Rules(
            type=table.type,
            nodes=nodes,
            auto_run=table.auto_run,
            failover_policy=table.failover_policy,
            failback_policy=table.failback_policy,
            priority=table.priority,
            successor_halt_timeout=None if patience is None else float(patience),
            dependencies=dependencies,
        ),
        document=document,
    )


def _package_table(reader: Reader, said: dict[str, Any], config: NodeConfig, home: Mapping[str, str]) -> PackageTable:
    values = reader.table(PackageTable, said, ("package",), home)
    action = values.get("on_stop_failure", "hold")
    if action == "fence" and config.self_fence not in ("reboot", "watchdog"):
        text = f'found "fence", but self_fence = "{config.self_fence}" in btw.toml cannot fence this node'
        remedy = 'set self_fence = "reboot" or "watchdog" there, or "hold" here'
        reader.problem(text, remedy, "package", "on_stop_failure")
    elif action not in ("hold", "fence"):
        reader.problem(f'found "{action}", allowed: "hold", "fence"', "", "package", "on_stop_failure")
    for name, value in values.get("env", {}).items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            text = f'found "{name}", allowed: letters, digits and _, the first no digit; not BTW_..., which btw sets'
            reader.problem(text, "rename it, such as PEV_PORT", "package", "env", name)
    if not values.get("log", "/").startswith("/"):
        text = f'found "{values["log"]}", relative to the directory that btw happens to be started in'
        reader.problem(text, "give the full path", "package", "log")
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


def _dependencies(reader: Reader, tables: Any) -> tuple[Dependency, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        reader.problem("must be a list of tables", "write [[dependency]]", "dependency")
        return ()
    found = []
    for index, table in enumerate(tables):
        before = len(reader.problems)
        values = reader.table(Dependency, table, ("dependency", index), {})
        if len(reader.problems) == before:
            found.append(Dependency(**values))
    return tuple(found)


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
        fences=hasattr(resource, "fence"),
        layer=resource.layer,
        start_timeout=None if resource.start_timeout is None else float(resource.start_timeout),
        stop_timeout=None if resource.stop_timeout is None else float(resource.stop_timeout),
    )
