"""`btw check`: everything that is wrong or risky in the configuration, and what the promises are worth with it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec

from .config import Package, load_all, load_package
from .dependencies import flaws
from .plugins import EXTENSIONS, LAYERS, LOCKS, Plugins, missing
from .resource import CheckContext, ConfigError, Problem, Resource, Sibling
from .settings import Setup
from .timing import Timing
from .toml import load


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found. `packages` are those that could be read."""

    lock: str
    packages: tuple[Package, ...]
    problems: tuple[Problem, ...]
    self_fence: str = "none"

    @property
    def ok(self) -> bool:
        """No errors; warnings do not count."""
        return all(problem.severity != "error" for problem in self.problems)

    def cases(self) -> list[tuple[Timing, tuple[bool, bool], list[str]]]:
        """Every distinct timing, whether shared disks are fenced and whether that is enough (`faults.Case`), with the
        names of its packages."""
        found: dict[tuple[Timing, tuple[bool, bool]], list[str]] = {}
        for package in self.packages:
            fenced = bool(package.spec.fences), package.spec.disk_pays
            found.setdefault((package.spec.timing, fenced), []).append(package.name)
        return [(timing, fenced, names) for (timing, fenced), names in found.items()]

    def timings(self) -> list[tuple[Timing, list[str]]]:
        """Every distinct timing with the names of its packages."""
        found: dict[Timing, list[str]] = {}
        for package in self.packages:
            found.setdefault(package.spec.timing, []).append(package.name)
        return list(found.items())


def check(setup: Setup, plugins: Plugins, names: Sequence[str] = ()) -> Report:
    """Check the named packages (all without names) on this node. Changes nothing. Blocks on the disk and in plugins."""
    everything, problems = load_all(setup.config, setup.places, plugins)
    packages = [package for package in everything if package.name in names or not names]
    if names:  # what is wrong with others is not asked for
        problems = [*_absent({*names} - {package.name for package in packages}, setup, plugins)]
    problems += _node(setup, plugins)
    problems += _shared(everything, {package.name for package in packages})
    problems += _together(everything, {package.name for package in packages}, {each.file for each in problems})
    for package in packages:
        problems += _order(package) + _stop_timeouts(package)
        if not package.refused_on(setup.config.node):
            problems += _log(package)
            problems += _resources(package, everything, setup)
    problems.sort(key=lambda each: (each.file, each.line))
    return Report(
        lock=setup.lock, self_fence=setup.config.self_fence, packages=tuple(packages), problems=tuple(problems)
    )


def _absent(names: set[str], setup: Setup, plugins: Plugins) -> list[Problem]:
    problems: list[Problem] = []
    for name in sorted(names):
        try:
            load_package(name, setup.config, setup.places, plugins)
        except ConfigError as error:
            problems += error.problems
    return problems


def _node(setup: Setup, plugins: Plugins) -> list[Problem]:
    """What only the installed plugins can tell about btw.toml."""
    file = str(setup.places.config)
    document = load(setup.places.config, optional=True)
    problems = []
    scheme = setup.lock.partition(":")[0]
    if scheme not in plugins.found[LOCKS]:
        problem = missing(LOCKS, scheme, plugins.found)
        problems.append(msgspec.structs.replace(problem, file=file, line=document.line("lock"), key="lock"))
    for name in setup.config.plugins:
        if name not in plugins.found[EXTENSIONS] and name not in plugins.found[LOCKS]:
            problem = missing(EXTENSIONS, name, plugins.found)
            line = document.line("plugins", name)
            problems.append(msgspec.structs.replace(problem, file=file, line=line, key=name, severity="warning"))
    return problems


def _shared(packages: list[Package], asked: set[str]) -> list[Problem]:
    """Two resources that use one thing: an error across packages, a warning within one."""
    problems: list[Problem] = []
    users: dict[tuple[str, ...], list[tuple[Package, int]]] = {}
    for package in packages:
        for index, resource in enumerate(package.resources):
            try:
                identity = resource.identity()
            except Exception as error:  # noqa: BLE001 - foreign code: its defect is reported like any other problem
                problems += [_failed(package, index, "identity", error)] if package.name in asked else []
            else:
                users.setdefault(identity, []).append((package, index))
    for identity, found in users.items():
        for (first, i), (second, j) in combinations(found if identity else [], 2):
            if not {first.name, second.name} & asked:
                continue
            place = f"{first.file}:{first.document.line('resource', i)}"
            text = f"{' '.join(identity)} is also used by `{first.resources[i].name}` of `{first.name}` ({place})"
            once = first is second
            remedy = "take one of them out" if once else "give each its own, or put both into one package"
            severity = "warning" if once else "error"
            key = second.resources[j].name
            problems.append(_problem(second, j, text=text, remedy=remedy, severity=severity, key=key))
    return problems


def _together(packages: list[Package], asked: set[str], broken: set[str]) -> list[Problem]:
    """What the packages say of each other. `broken`: files that could not be read: nothing is said of what is there."""
    known = {package.name: package for package in packages}
    unread = {Path(file).name.removesuffix(".toml") for file in broken}
    problems = []
    for flaw in flaws({name: package.rules for name, package in known.items()}):
        package = known[flaw.package]
        path = ("package", flaw.key) if flaw.index is None else ("dependency", flaw.index, "package")
        named = None if flaw.index is None else package.rules.dependencies[flaw.index].package
        if flaw.package not in asked or named in unread:
            continue
        line, key = package.document.line(*path), flaw.key or "dependency"
        problems.append(Problem(text=flaw.text, remedy=flaw.remedy, file=package.file, line=line, key=key))
    for package in packages:
        if package.name in asked:
            problems += _several(package)
    return problems


def _several(package: Package) -> list[Problem]:
    """What other machines can touch may not be active on several nodes."""
    text = "would be active on several nodes at once in a multi_node package"
    remedy = 'put it into a package of type = "failover"'
    found = [(package.resources.index(each), each.name) for each in package.several()]
    return [_problem(package, index, text=text, remedy=remedy, key=name) for index, name in found]


def _order(package: Package) -> list[Problem]:
    problems = []
    for index, resource in enumerate(package.resources):
        before = package.resources[:index]
        above = next((each for each in before if LAYERS.index(each.layer) > LAYERS.index(resource.layer)), None)
        if above:
            text = f"{resource.layer} starts after `{above.name}` ({above.layer}); usual: {', '.join(LAYERS)}"
            remedy = f"move it above `{above.name}` unless this is meant"
            problem = _problem(package, index, text=text, remedy=remedy, severity="warning", key=resource.name)
            problems.append(problem)
    return problems


def _stop_timeouts(package: Package) -> list[Problem]:
    """The package's stop_timeout ends all, so a longer one of a resource cannot be reached."""
    limit = package.spec.timing.stop_timeout
    problems = []
    for index, resource in enumerate(package.resources):
        if resource.stop_timeout is not None and resource.stop_timeout > limit:
            text = f"{resource.stop_timeout:g} s is longer than the package's stop_timeout {limit:g} s, which ends all"
            remedy = "raise stop_timeout below [package]"
            problem = _problem(package, index, text=text, remedy=remedy, severity="warning", key="stop_timeout")
            problems.append(problem)
    return problems


def _log(package: Package) -> list[Problem]:
    """A log that cannot be written costs no service, so nobody would notice."""
    path = Path(package.log)
    if not package.log or (path.parent.is_dir() and (path.is_file() or not path.exists())):
        return []
    missing = not path.parent.is_dir()
    text = f"{path.parent} is no directory" if missing else f"{path} is no regular file"
    remedy = f"mkdir -p {path.parent}" if missing else "name another file"
    line = package.document.line("package", "log")
    return [Problem(text=text, remedy=remedy, file=package.file, line=line, key="log")]


def _resources(package: Package, everything: list[Package], setup: Setup) -> list[Problem]:
    """What the resources say themselves."""
    context = CheckContext(
        cluster=setup.config.cluster,
        node=setup.config.node,
        package=package.name,
        env=package.env,
        everything=tuple(
            Sibling(package=each.name, resource=resource) for each in everything for resource in each.resources
        ),
    )
    problems = []
    for index, resource in enumerate(package.resources):
        try:
            found = list(resource.check(context))
        except Exception as error:  # noqa: BLE001 - foreign code: its defect is reported like any other problem
            problems.append(_failed(package, index, "check", error))
        else:
            problems += [_placed(package, index, problem) for problem in found]
    return problems


def _failed(package: Package, index: int, method: str, error: Exception) -> Problem:
    text = f"{method} of {_type(package.resources[index])} failed: {type(error).__name__}: {error}"
    return _problem(package, index, text=text, remedy="a defect of the plugin: report it", key="type")


def _type(resource: Resource) -> str:
    return f"`{resource.__struct_config__.tag}`"


def _problem(package: Package, index: int, **said: Any) -> Problem:
    return _placed(package, index, Problem(**said))


def _placed(package: Package, index: int, problem: Problem) -> Problem:
    line = package.document.line("resource", index, problem.key)
    return msgspec.structs.replace(problem, file=package.file, line=line)


# ---- what the promises are worth ---------------------------------------------------------------------------------
def timeline(timing: Timing) -> str:
    """The worst failover, drawn: from the last renewal of a holder that vanished to the start on a stand-by."""
    t = timing
    parts = [("T", t.timeout), ("S", t.stop_timeout), ("g", t.grace), ("P+4r", t.pace + 4 * t.renewal_deadline)]
    total = sum(length for _, length in parts)
    bar = "|".join(f" {name} ".center(max(len(name) + 2, round(60 * length / total)), "-") for name, length in parts)
    watchdog = f" + W {t.watchdog:g}" if t.watchdog else ""
    grace = f"2 x {t.clock_error:g} x (T + S) + {t.slack:g}{watchdog}"
    rows = [
        (0.0, "the last renewal that was committed is sent; the node vanishes"),
        (t.timeout, f"T = {t.timeout:g} s: there the lock counts as lost and everything is stopped"),
        (t.timeout + t.stop_timeout, f"S = {t.stop_timeout:g} s: there the hard deadline, what is left is cut off"),
        (t.lease, f"g = {t.grace:g} s ({grace}): L = T + S + g, a stand-by may take the lock"),
        (
            t.worst_failover(),
            f"P + 4r = {t.pace:g} + {4 * t.renewal_deadline:g} s: a stand-by has it, however slow the answers",
        ),
    ]
    return "\n".join([f"  |{bar}|", *(f"  {f'{at:.1f} s':>9}  {text}" for at, text in rows)])
