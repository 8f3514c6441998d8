"""What a zygote loads: packages with their resources, and the listeners of the journal."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Sequence
from functools import partial

from . import applied
from .config import Package, load_package
from .operation import Inventory, Stock
from .plugins import Plugins
from .resource import ConfigError, Problem
from .settings import load_setup


def configured(arguments: Sequence[str]) -> Inventory:
    """The usual loader. Arguments: DIR NODE LOCK PLUGINS COPY ("" = not given) and names of packages; none: all
    that are for this node, for a daemon."""
    directory, node, lock, restrict, copy, *names = arguments
    setup = load_setup(directory or None, node or None, lock or None, restrict or None, copy or None)
    config, plugins = setup.config, Plugins(setup.restrict)
    problems: list[Problem] = []
    everything: list[Package] = []
    if names:
        packages = []
        for name in names:
            try:
                package = load_package(name, config, setup.places, plugins)
            except ConfigError as error:
                problems += error.problems
                continue
            if refused := package.refused_on(config.node):
                problems.append(Problem(text=refused, remedy="run it there, or add this node"))
            elif beyond := package.beyond_run():
                problems.append(beyond)
            else:
                packages.append(package)
    else:
        everything, problems = applied.load(setup, plugins)
        packages = [package for package in everything if not package.refused_on(config.node)]
    listeners = {}
    for name in plugins.found["btw.extensions"]:
        try:
            module = plugins.extensions([name])[name]
        except ConfigError as error:
            problems += error.problems
            continue
        for hook in plugins.hook.btw_event.get_hookimpls():
            if hook.plugin is module:
                listeners[name] = partial(_listen, hook, config.plugins.get(name, {}))
    logs = setup.places.log / config.node
    logs.mkdir(parents=True, exist_ok=True)
    return Inventory(
        cluster=config.cluster,
        node=config.node,
        packages={p.name: Stock(p.spec, {r.name: r for r in p.resources}, p.env, p.log) for p in packages},
        problems=tuple(problems),
        rules={p.name: p.rules for p in everything},
        digests={p.name: p.digests() for p in everything if p in packages},
        listeners=listeners,
        logs=str(logs),
    )


def _listen(hook: object, settings: object, event: object) -> None:
    """pluggy lets an implementation leave arguments out."""
    given = {"event": event, "settings": settings}
    hook.function(**{name: given[name] for name in hook.argnames})  # type: ignore[attr-defined]


def load(loader: str, arguments: Sequence[str], node: str) -> Inventory:
    """Never raises: with an empty inventory it can still end what a former zygote left running."""
    module, _, function = loader.partition(":")
    try:
        inventory: Inventory = getattr(importlib.import_module(module), function)(arguments)
    except ConfigError as error:
        return Inventory(cluster="", node=node, problems=error.problems)
    except BaseException as error:  # noqa: BLE001 - imports foreign code; SystemExit is no reason to go either
        traceback.print_exc()
        text = f"packages cannot be loaded: {type(error).__name__}: {error}"
        return Inventory(cluster="", node=node, problems=(Problem(text=text, remedy="see the traceback above"),))
    return inventory
