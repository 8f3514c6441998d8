"""`btw check`: everything wrong at once, the time line of the worst failover, and what keeps the promises."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Any

import click

from ..exits import CONFIGURATION, DONE
from .common import Given, json_option, setup_options

if TYPE_CHECKING:
    from ..checks import Report


@click.command
@click.argument("packages", metavar="[PKG]...", nargs=-1)
@setup_options
@json_option
def command(packages: tuple[str, ...], given: Given, as_json: bool) -> None:
    """Report everything that is wrong with the configuration (of all packages without PKG).

    One line each, `file:line: key: what; remedy`. Exit code 0 without errors, else 78. With PKG also what keeps
    "never two" and "always one" for each fault, and within how many seconds, or that nothing does.
    """
    from ..checks import Report, check
    from ..plugins import Plugins
    from ..resource import ConfigError

    try:
        setup = given.setup()
        report = check(setup, Plugins(setup.restrict), packages)
    except ConfigError as error:  # btw.toml or the installation: packages cannot be read without them
        report = Report(lock="", packages=(), problems=error.problems)
    if as_json:
        import json

        click.echo(json.dumps(_json(report), indent=2))
    else:
        click.echo(_text(report, bool(packages)))
    sys.exit(DONE if report.ok else CONFIGURATION)


def _text(report: Report, named: bool) -> str:
    from ..checks import timeline
    from ..safety import WIDTH, summary, table, text

    blocks = ["\n".join(str(problem) for problem in report.problems)]
    for timing, names in report.timings():
        blocks.append(f"Worst failover of {', '.join(names)}, when its node vanishes:\n{timeline(timing)}")
    for timing, fenced, names in report.cases():
        rows = table(timing, report.lock, report.self_fence, *fenced)
        where = f"{', '.join(names)} with lock {report.lock.partition(':')[0]}, self_fence {report.self_fence}"
        if named:
            head = f"What keeps the promises of {where}, when a fault strikes the node that runs it; seconds: at most."
            blocks += [textwrap.fill(head, WIDTH), text(rows)]
        else:
            hint = f"  All faults, and what keeps the promises: btw check {names[0]}"
            blocks.append(f"What nothing guards {where} against:\n{summary(rows)}\n{hint}")
    counts = [sum(each.severity == severity for each in report.problems) for severity in ("error", "warning")]
    blocks.append(
        f"{_count(len(report.packages), 'package')} read, {_count(counts[0], 'error')}, {_count(counts[1], 'warning')}."
    )
    return "\n\n".join(filter(None, blocks))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _json(report: Report) -> dict[str, Any]:
    import msgspec

    from ..safety import table

    return {
        "ok": report.ok,
        "packages": [package.name for package in report.packages],
        "problems": [msgspec.to_builtins(problem) for problem in report.problems],
        "timings": [
            {
                "packages": names,
                "pace": timing.pace,
                "timeout": timing.timeout,
                "stop_timeout": timing.stop_timeout,
                "grace": timing.grace,
                "lease": timing.lease,
                "worst_failover": timing.worst_failover(),
            }
            for timing, names in report.timings()
        ],
        "safety": [
            {
                "packages": names,
                "lock": report.lock,
                "self_fence": report.self_fence,
                "fenced_on_disk": fenced[0],
                "disk_pays": fenced[1],
                "rows": msgspec.to_builtins(table(timing, report.lock, report.self_fence, *fenced)),
            }
            for timing, fenced, names in report.cases()
        ],
    }
