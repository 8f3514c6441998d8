"""Plugins: found through entry points, loaded by stevedore only when needed, registered and validated by pluggy.

Nothing here is global: each `Plugins` has a pluggy manager of its own, and stevedore's caches are passed by, so that a
plugin installed a second ago is seen and an unwritable home directory does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, requires
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
import pluggy
from stevedore import NamedExtensionManager

from . import __version__
from .hooks import PROJECT, Hooks
from .parameters import closest
from .resource import ConfigError, Problem, Resource
from .store import Store

if TYPE_CHECKING:
    import click

RESOURCES, LOCKS, COMMANDS, EXTENSIONS = "btw.resources", "btw.locks", "btw.commands", "btw.extensions"
GROUPS = (RESOURCES, LOCKS, COMMANDS, EXTENSIONS)
#: The usual order of resources in a package, as `Resource.layer` names it.
LAYERS = ("fencing", "storage", "network", "program")

#: Which distribution gives a resource type, where its name does not say so.
_GIVES = {"service": "btw-exec", "flag": "btw-exec", "script": "btw-exec"}
_KNOWN = ("exec", "vip", "fs", "scsi_pr", *_GIVES)
_RESERVED = ("type", "name")
#: Requires-Dist of btw-core (PyPA specification "Core metadata"), with or without extras and parentheses, and a bound.
_NEEDS = re.compile(r"btw[-_.]core\s*(?:\[[^]]*\])?\s*\(?((?:[<>=~!][^;)]*)?)\)?\s*(?:$|;)", re.IGNORECASE)
_BOUND = re.compile(r"(>=|<|~=)\s*(\d+(?:\.\d+)*)")
KINDS = {RESOURCES: "resource type", LOCKS: "lock scheme", COMMANDS: "command", EXTENSIONS: "extension"}


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An entry point that is installed; nothing of it has been imported."""

    group: str
    name: str
    module: str
    distribution: str
    version: str


def find() -> dict[str, dict[str, Found]]:
    """Everything installed, by group and name. Blocks on the disk, imports nothing. Raises ConfigError when two
    distributions give one name."""
    found: dict[str, dict[str, Found]] = {group: {} for group in GROUPS}
    problems = []
    for group, names in found.items():
        for point in entry_points(group=group):
            dist = point.dist
            each = Found(
                group=group,
                name=point.name,
                module=point.value,
                distribution=normal(dist.name) if dist else "unknown",
                version=dist.version if dist else "",
            )
            other = names.setdefault(point.name, each)
            if other != each:
                both = f"{other.distribution} {other.version} and {each.distribution} {each.version}"
                text = f"{KINDS[group]} `{point.name}` is given by both {both}"
                problems.append(Problem(text=text, remedy="pip uninstall one of them"))
    if problems:
        raise ConfigError(problems)
    return found


def missing(group: str, name: str, found: dict[str, dict[str, Found]]) -> Problem:
    """Why `name` cannot be had, and the pip line or the name that was meant."""
    kind = KINDS[group]
    if group == RESOURCES:
        distribution = _GIVES.get(name, normal(f"btw-{name}"))
        meant = closest(name, {*found[group], *_KNOWN})
    else:
        distribution = normal(f"btw-lock-{name}" if group == LOCKS else f"btw-{name}")
        meant = closest(name, found[group])
    if meant and meant != name and name not in _KNOWN:
        installed = ", ".join(sorted(found[group])) or "none"
        return Problem(text=f"{kind} `{name}` is not known (installed: {installed})", remedy=f"did you mean `{meant}`?")
    return Problem(text=f"{kind} `{name}` is not installed", remedy=f"pip install {distribution}")


def unfit(each: Found) -> Problem | None:
    """A plugin made for another version of the API than this one; pip only warns when it brings that about. Looks at
    the bounds `>=`, `<` and `~=` of what its distribution requires, before anything of it is imported."""
    try:
        required = requires(each.distribution) or []
    except PackageNotFoundError:
        return None
    bounds = next((found[1] for text in required if (found := _NEEDS.match(text))), "")
    here = _release(__version__)
    for sign, version in _BOUND.findall(bounds):
        bound = _release(version)
        older = sign != "<" and here < bound
        if older or (sign == "<" and here >= bound):
            text = f"is made for btw-core {bounds.strip()}, and this is btw-core {__version__}"
            remedy = "pip install --upgrade " + ("btw-core" if older else each.distribution)
            who = f"{KINDS[each.group]} `{each.name}` (of {each.distribution} {each.version})"
            return Problem(text=f"{who} {text}", remedy=remedy)
    return None


class Plugins:
    """What is installed, and what of it has been loaded. `restrict` (resources only) holds names of types or
    distributions, with or without "btw-". Raises ConfigError, as every method does."""

    def __init__(self, restrict: Iterable[str] | None = None) -> None:
        self.found = find()
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Hooks)
        self._types: dict[str, type[Resource]] = {}
        self._allowed = set(self.found[RESOURCES]) if restrict is None else self._only(restrict)

    @property
    def hook(self) -> pluggy.HookRelay:
        """Calls the hooks of every plugin loaded so far."""
        return self._manager.hook

    def resource_type(self, name: str) -> type[Resource]:
        """The resource type, its plugin loaded at first use (this imports foreign code)."""
        if name not in self._types:
            each = self.found[RESOURCES].get(name)
            if each is None:
                raise ConfigError([missing(RESOURCES, name, self.found)])
            if name not in self._allowed:
                text = f"resource type `{name}` (of {each.distribution}) is left out by --plugins"
                raise ConfigError([Problem(text=text, remedy=f"add {name} to --plugins")])
            self._types |= _types(each, self._call(each, "btw_resource_types") or [], self.found[RESOURCES])
            if name not in self._types:
                raise ConfigError([_defect(each, "btw_resource_types does not return it")])
        return self._types[name]

    def types(self) -> dict[str, type[Resource]]:
        """Every resource type that is installed and allowed."""
        return {name: self.resource_type(name) for name in sorted(self._allowed)}

    def extensions(self, names: Iterable[str] | None = None) -> dict[str, ModuleType]:
        """Load extensions (all of them without `names`), so that `hook` calls them."""
        return {name: self._load(self._get(EXTENSIONS, name)) for name in names or self.found[EXTENSIONS]}

    def command(self, name: str) -> click.Command:
        """A command that a plugin adds to `btw`."""
        each = self._get(COMMANDS, name)
        commands: dict[str, click.Command] = self._call(each, "btw_commands") or {}
        if name not in commands:
            raise ConfigError([_defect(each, "btw_commands does not return it")])
        return commands[name]

    def store(self, lock: str, settings: Mapping[str, Mapping[str, Any]]) -> Store:
        """Open the store that `lock = "scheme:rest"` names; `settings` are the tables `[plugins.NAME]` of btw.toml.
        May block for some seconds. Raises StoreUnavailable too."""
        scheme, _, rest = lock.partition(":")
        each = self._get(LOCKS, scheme)
        factories = self._call(each, "btw_stores") or {}
        if scheme not in factories:
            raise ConfigError([_defect(each, "btw_stores does not return it")])
        try:
            store: Store = factories[scheme](rest, settings.get(scheme, {}))
        except ValueError as error:
            raise ConfigError([Problem(text=f"lock `{lock}`: {error}", key="lock")]) from error
        return store

    def hooks(self, each: Found) -> list[str]:
        """Names of the hooks that its module implements."""
        return sorted(caller.name for caller in self._manager.get_hookcallers(self._load(each)) or [])

    def _get(self, group: str, name: str) -> Found:
        if name not in self.found[group]:
            raise ConfigError([missing(group, name, self.found)])
        return self.found[group][name]

    def _only(self, restrict: Iterable[str]) -> set[str]:
        allowed: set[str] = set()
        problems = []
        resources = self.found[RESOURCES].values()
        for word in restrict:
            wanted = {normal(word), f"btw-{normal(word)}"}
            names = {each.name for each in resources if each.name == word or each.distribution in wanted}
            if not names:
                problem = missing(RESOURCES, word, self.found)
                problems.append(msgspec.structs.replace(problem, key="--plugins"))
            allowed |= names
        if problems:
            raise ConfigError(problems)
        return allowed

    def _load(self, each: Found) -> ModuleType:
        """Import and register the module once, whichever of its names asks first."""
        known = self._manager.get_plugin(each.module)
        if known is not None:
            return known  # type: ignore[no-any-return]
        if refusal := unfit(each):
            raise ConfigError([refusal])
        module = _Import(each).module
        try:
            self._manager.register(module, each.module)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self._manager.unregister(name=each.module)
            raise ConfigError([_defect(each, str(error))]) from error
        return module

    def _call(self, each: Found, hook: str) -> Any:
        """The answer of this module alone; None when it does not implement the hook."""
        module = self._load(each)
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin is module:
                try:
                    return implementation.function()
                except Exception as error:  # foreign code: any failure is the plugin's, and is named
                    raise ConfigError([_defect(each, f"{hook} failed: {_said(error)}")]) from error
        return None


def load(types: Iterable[str], restrict: Iterable[str] | None = None) -> dict[str, type[Resource]]:
    """The resource types of these names. Raises ConfigError with everything that is missing or defective."""
    plugins = Plugins(restrict)
    loaded: dict[str, type[Resource]] = {}
    problems: list[Problem] = []
    for name in types:
        try:
            loaded[name] = plugins.resource_type(name)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return loaded


def open_store(lock: str, settings: Mapping[str, Mapping[str, Any]]) -> Store:
    """See `Plugins.store`."""
    return Plugins().store(lock, settings)


class _Import(NamedExtensionManager[Any]):
    """stevedore for exactly one entry point, which is given and not looked up in its caches (they are global, one of
    them a file below ~/.cache whose key does not change with every installation)."""

    def __init__(self, each: Found) -> None:
        self._each = each
        super().__init__(each.group, [each.name], on_load_failure_callback=self._failed)

    @property
    def module(self) -> ModuleType:
        module: object = self[self._each.name].plugin
        if not isinstance(module, ModuleType):
            raise ConfigError([_defect(self._each, f"its entry point `{self._each.module}` is not a module")])
        return module

    def list_entry_points(self) -> list[EntryPoint]:
        return [EntryPoint(self._each.name, self._each.module, self._each.group)]

    def _load_one_plugin(self, *args: Any, **kwds: Any) -> Any:
        try:
            return super()._load_one_plugin(*args, **kwds)
        except (AssertionError, SystemExit) as error:  # stevedore lets these through
            raise ImportError(_said(error)) from error

    def _failed(self, _manager: Any, _point: EntryPoint, error: BaseException) -> None:
        raise ConfigError([_defect(self._each, f"importing {self._each.module} failed: {_said(error)}")]) from error


def _types(each: Found, types: Iterable[Any], names: dict[str, Found]) -> dict[str, type[Resource]]:
    """What `btw_resource_types` returned, by tag. Raises ConfigError for a type that does not keep the contract."""
    found: dict[str, type[Resource]] = {}
    for cls in types:
        if not (isinstance(cls, type) and issubclass(cls, Resource)):
            raise ConfigError([_defect(each, f"btw_resource_types returns {cls!r}, which is no subclass of Resource")])
        config, own = cls.__struct_config__, set(cls.__struct_fields__) - set(Resource.__struct_fields__)
        reserved = sorted(field for field in own if field in _RESERVED or field.endswith("_timeout"))
        tag = str(config.tag)
        if not config.frozen:
            raise ConfigError([_defect(each, f"{cls.__name__} is not frozen")])
        if tag not in names or names[tag].module != each.module:
            text = f'{cls.__name__} has tag="{tag}", which is none of its entry points in {RESOURCES}'
            raise ConfigError([_defect(each, text)])
        if tag in found:
            raise ConfigError([_defect(each, f"{cls.__name__} and {found[tag].__name__} have the same tag `{tag}`")])
        if reserved:
            raise ConfigError([_defect(each, f"{cls.__name__} uses the reserved name `{reserved[0]}`")])
        if cls.layer not in LAYERS:
            raise ConfigError([_defect(each, f"{cls.__name__}.layer is {cls.layer!r}, allowed: {', '.join(LAYERS)}")])
        found[tag] = cls
    return found


def _defect(each: Found, what: str) -> Problem:
    """The plugin is at fault, not the one who configures it."""
    who = f"{KINDS[each.group]} `{each.name}` (of {each.distribution} {each.version})"
    return Problem(text=f"{who}: {what}", remedy=f"reinstall or upgrade {each.distribution}")


def _release(version: str) -> tuple[int, ...]:
    """Its numbers, without zeros at the end: 0.2.0 is 0.2."""
    numbers = [int(part) for part in re.findall(r"\d+", version)[: version.count(".") + 1]]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def normal(name: str) -> str:
    """Names of distributions compare so (PyPA specification "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()
