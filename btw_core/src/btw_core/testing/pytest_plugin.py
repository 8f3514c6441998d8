"""The pytest plugin of btw-core, found through its entry point: fixtures for the tests of plugins, and at the end which
rules of the kits each type has kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .bench import Bench
    from .context import FakeContext
    from .fakes import ManualClock
    from .sim import Verdict

#: Key of what a report says of a rule: which kit it was of, and of what.
RULE = "btw rule"
_HELD, _BROKEN, _LEFT = "passed", "failed", "skipped"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("btw")
    group.addoption("--btw-table", help="JSON: the table that btw_core.testing.installed tries")
    group.addoption("--btw-project", help="distribution that btw_core.testing.project looks at")
    group.addoption("--btw-types", default="", help="fails unless the kit was run on each of these resource types")


# ---- fixtures
@pytest.fixture
def btw_context() -> type[FakeContext]:
    """Makes contexts: `btw_context(Verb.STOP, seconds=5)`; what is logged is in its `lines`."""
    from .context import FakeContext

    return FakeContext


@pytest.fixture
def btw_clock() -> ManualClock:
    """A clock that stands still until the test sets its `time`."""
    from .fakes import ManualClock

    return ManualClock()


@pytest.fixture
def btw_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes benches: `btw_bench({"type": "flag", "path": "/tmp/x"})` is that resource on a node of its own, run by
    the real processes of btw; it is stopped and cleared away in the end."""
    from .bench import Bench

    with ExitStack() as stack:
        count = 0

        def make(table: Mapping[str, Any], **options: Any) -> Bench:
            nonlocal count
            count += 1
            return stack.enter_context(Bench(tmp_path / f"btw{count}", table, **options))

        yield make


@pytest.fixture
def btw_simulate() -> Callable[..., Verdict]:
    """Plays a simulated cluster of real managers in virtual time: `btw_simulate(seed, minutes=5, nodes=2)`. The
    verdict's `problem` is "" when every promise was kept; nothing of a plugin runs in it."""
    from .sim import Setting, World

    def play(seed: int = 0, **setting: Any) -> Verdict:
        return World(seed, Setting(**setting)).run()

    return play


# ---- what was tried
@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    cls = getattr(item, "cls", None)
    kit = getattr(cls, "btw_kit", "")
    if cls is not None and kit:
        table = getattr(item, "funcargs", {}).get("table")
        of = table.get("type", "") if isinstance(table, dict) else getattr(item, "funcargs", {}).get("project", "")
        name = getattr(item, "originalname", item.name).removeprefix("test_")
        report.user_properties.append((RULE, (kit, of, cls.__name__, name)))
    return report  # type: ignore[no-any-return]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """A type that no kit was run on is a failure where `--btw-types` names it."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and session.exitstatus == pytest.ExitCode.OK and _untried(session.config, reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    yield


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rules, untried = _rules(terminalreporter), _untried(config, terminalreporter)
    if not rules and not untried:
        return
    terminalreporter.section("rules of btw")
    for (kit, of, name), found in sorted(rules.items()):
        said = [f"{len(found[_HELD])} rules held"]
        if found[_BROKEN]:
            said.append(f"broken: {', '.join(found[_BROKEN])}")
        if found[_LEFT]:
            said.append(f"not tried: {', '.join(found[_LEFT])}")
        terminalreporter.line(f"{of or name} ({kit}): {'; '.join(said)}", red=bool(found[_BROKEN]))
    for name in untried:
        text = f"{name}: no rule was tried; its tests need a subclass of btw_core.testing.ResourceContract"
        terminalreporter.line(text, red=True)


def _rules(reporter: Any) -> dict[tuple[str, str, str], dict[str, list[str]]]:
    """By kit, type and test class: the rules by what became of them. A rule that was tried more than once counts as
    often as it was."""
    found: dict[tuple[str, str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for outcome in (_HELD, "error", _BROKEN, _LEFT):
        for report in reporter.stats.get(outcome, ()):
            for key, value in getattr(report, "user_properties", ()):
                if key == RULE:
                    kit, of, name, rule = value
                    found[kit, of, name][_BROKEN if outcome == "error" else outcome].append(rule)
    return found


def _untried(config: pytest.Config, reporter: Any) -> list[str]:
    wanted = [name for name in config.getoption("--btw-types").split(",") if name]
    tried = {of for _, of, _ in _rules(reporter)}
    return [name for name in wanted if name not in tried]
