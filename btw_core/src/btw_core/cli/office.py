"""Where commands turn to for the whole cluster: the daemon of this node, which any node may ask."""

from __future__ import annotations

import getpass
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import PATIENCE, closed, fail, kept

if TYPE_CHECKING:
    from ..cluster import ClusterView, PackageView
    from ..placement import Decision
    from ..places import Places
    from ..settings import Setup

#: Seconds between two looks while a command waits.
LOOK = 0.03
#: Seconds without anything going on after which an order counts as one that cannot be obeyed now.
NOTHING = 3.0
#: Seconds for a daemon to write what was asked for.
WRITTEN = 15.0
#: Seconds for a keeper to put another manager in the place of one that died.
REPLACED = 20.0

preview_option = click.option("--preview", is_flag=True, help="Only show what would happen.")
why_option = click.option("--why", metavar="TEXT", default="", help="Why: kept with the switch or order, and shown.")
wait_option = click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=300.0,
    show_default=True,
    help="At most; 0: not at all.",
)


class Office:
    """One daemon on this computer that answers."""

    def __init__(self, path: Path, answer: dict[str, Any]) -> None:
        self.path = path
        self._take(answer)

    def _take(self, answer: dict[str, Any]) -> None:
        import msgspec

        from ..cluster import ClusterView
        from ..placement import Decision

        self.raw = answer
        self.node: str = answer["node"]
        self.trouble: str = answer.get("trouble", "")
        self.read: bool = answer.get("read", True)
        self.life: str = answer.get("life", "")
        self.problems: list[str] = answer.get("problems", [])
        self.view: ClusterView = msgspec.convert(answer["view"], ClusterView)
        self.decisions: list[Decision] = msgspec.convert(answer["decisions"], list[Decision])
        self.digests: dict[str, dict[str, dict[str, str]]] = answer["digests"]
        self.maintenance: dict[str, str] = answer["maintenance"]
        self.locks: dict[str, str] = answer.get("locks", {})  # of what this node does not hold

    def look(self) -> None:
        """Read the picture anew; wait while another manager takes the place of one that died. Leaves with exit code 1
        when none comes."""
        from ..control import NoAnswer

        end, trouble, said = time.monotonic() + REPLACED, "", False
        while time.monotonic() < end:
            try:
                answer = _cluster(self.path)
            except (NoAnswer, ValueError) as error:
                trouble = str(error)
            else:
                if answer["read"] or answer["trouble"]:
                    self._take(answer)
                    return
                trouble = "it has not read the lock store yet"
            if not said and time.monotonic() > end - REPLACED + 1:
                said = True
                click.echo(f"btw: the daemon of {self.node} does not answer; waiting for another manager", err=True)
            time.sleep(LOOK)
        fail(f"the daemon of {self.node} does not answer: {trouble}; what was asked for stands: btw why")

    def ask(self, command: str, **more: Any) -> None:
        """Have it done. Leaves with exit code 1 and the reason when it is refused."""
        from ..control import NoAnswer, ask

        request = {"command": command, "by": _by(), **more}
        try:
            if next(ask(self.path, request, WRITTEN), None) is None:
                raise NoAnswer(f"the manager at {self.path} ended before it answered")
        except NoAnswer as error:
            fail(f"{error}: perhaps it was done, perhaps not; look (btw status, btw why), and ask once more")
        except ValueError as error:
            fail(str(error))

    def package(self, name: str) -> PackageView:
        """Leaves with exit code 1 when there is none."""
        if not self.read:
            trouble = self.trouble or "it has only just begun"
            fail(f"the daemon of {self.node} has not read the lock store yet, so it knows of no package: {trouble}")
        if name not in self.view.packages:
            there = ", ".join(sorted(self.view.packages)) or "none"
            fail(f"no daemon knows a package `{name}` (known: {there}); a new file is taken over with btw apply")
        return self.view.packages[name]

    def has(self, name: str) -> bool:
        """It is a daemon's."""
        return name in self.view.packages or name in self.digests.get(self.node, {})

    def of(self, name: str) -> Iterator[Decision]:
        """What is decided about it, node by node."""
        return (each for each in self.decisions if each.package == name)


def _cluster(path: Path) -> dict[str, Any]:
    """Raises NoAnswer, ValueError."""
    from ..control import NoAnswer, ask

    answer = next(ask(path, {"command": "cluster"}, PATIENCE), None)
    if answer is None:
        raise NoAnswer(f"the daemon at {path} has ended")
    return answer


def offices(places: Places, node: str | None = None, patience: float = REPLACED) -> list[Office]:
    """The daemons on this computer that answer, that of `node` first. Waits `patience` seconds for one whose keeper
    lives."""
    from ..control import NoAnswer, sockets
    from ..records import SLOT

    end = time.monotonic() + patience
    while True:
        found, waits = [], False
        for path in dict.fromkeys([*sockets(places.run), *kept(places.run)]):
            if path.stem == SLOT:
                try:
                    answer = _cluster(path)
                except (NoAnswer, ValueError):
                    waits = waits or path in kept(places.run)
                    continue
                waits = waits or not (answer["read"] or answer["trouble"])
                found.append(Office(path, answer))
        first = [each for each in found if each.node == node and (each.read or each.trouble)]
        if not waits or first or time.monotonic() > end or (found and node is None):
            return sorted(found, key=lambda each: each.node != node)
        time.sleep(LOOK)


def office(setup: Setup) -> Office:
    """This node's, or another's on this computer. Leaves with exit code 1 when none answers."""
    found = offices(setup.places, setup.config.node)
    if not found:
        hidden = closed(setup.places.run)
        fail(hidden[0] if hidden else "no daemon answers on this computer: btw daemon -d (or systemctl start btw)")
    return found[0]


def _by() -> str:
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user} (pid {os.getpid()})"


def play(view: ClusterView, words: str) -> None:
    """Show what it would come to. Leaves with exit code 1 when it is refused."""
    from ..rehearsal import play, section

    try:
        played = play(view, [words])[1]
    except ValueError as error:
        fail(str(error))
    click.echo(section(played))
    if played.refused:
        sys.exit(1)


def foresee(view: ClusterView, words: str) -> None:
    """One line for each step that would follow. Leaves with exit code 1 when it is refused."""
    from ..rehearsal import play

    try:
        played = play(view, [words])[1]
    except ValueError as error:
        fail(str(error))
    if played.refused:
        fail(f"{words}: {played.refused}")
    for step in played.steps:
        for each in step.decisions:
            verb = {"takes": "will start on", "halts": "will halt on"}[str(each.what)]
            click.echo(f"{each.package} {verb} {each.node}: {each.cause}")


def follow(office: Office, name: str, done: Callable[[PackageView], bool], seconds: float) -> bool:
    """Show where the package goes until `done`; then for how long it was not up, where it was up before. Blocks for at
    most `seconds`. False: it did not come to that, and why is shown."""
    if seconds == 0:
        return True
    begin = active = time.monotonic()
    shown, gone, outage = office.view.packages[name].at, None, None
    while time.monotonic() < begin + seconds:
        office.look()
        now, package = time.monotonic(), office.package(name)
        up = [node for node, phase in package.at.items() if phase == "up"]
        if package.at != shown:
            for node in sorted({*shown, *package.at}):
                if shown.get(node) != package.at.get(node):
                    click.echo(f"{time.strftime('%H:%M:%S')} {name} on {node}: {package.at.get(node, 'down')}")
            if up:
                outage = None if gone is None else now - gone
                gone = None
            elif gone is None and "up" in shown.values():
                gone = now
            shown, active = package.at, now
        if done(package):
            if outage is not None:
                click.echo(f"{name} was not up for {outage:.2f} s")
            return True
        moving = any(each.what in ("takes", "halts") for each in office.decisions) or any(
            phase in ("starting", "halting", "failing")
            for each in office.view.packages.values()
            for phase in each.at.values()
        )
        active = now if moving else active
        if now > active + NOTHING:
            break
        time.sleep(LOOK)
    explain(office, name)
    if office.package(name).order is None:
        since = "it was fulfilled and more happened since, or a later order or btw reset took it back"
        click.echo(f"btw: no order for {name} stands any more: {since} (btw events {name})", err=True)
    return False


def explain(office: Office, name: str, node: str | None = None) -> None:
    """Why it is where it is, node by node, and the command that changes it."""
    package = office.package(name)
    at = [f"{phase} on {where}" for where, phase in sorted(package.at.items())]
    click.echo(
        f"{name}: {', '.join(at) or 'down'}; auto_run is {'on' if package.automatic.on else 'off'}{package.automatic}"
    )
    if package.order is not None:
        to = f" on {package.order.to}" if package.order.to else ""
        click.echo(f"  ordered: {package.order.verb}{to}{package.order}, not fulfilled yet")
    for text in office.problems:
        if text.startswith(f"{name} "):
            click.echo(f"  {text}")
    if name in office.maintenance:
        click.echo(f"  maintenance{office.maintenance[name]}: failures are passed over; btw maintenance {name} off")
    for off, switch in package.off.items():
        click.echo(f"  switched off on {off}{switch}; when mended: btw enable {name} --on {off}")
    found = [each for each in office.of(name) if node in (None, each.node)]
    for each in found:
        click.echo(f"  {each.node}: {each.what}{' run here' if each.what == 'not' else ''}: {each.cause}")
        if each.what == "takes" and each.node == office.node and name in office.locks:
            click.echo(f"    its lock: {office.locks[name]}")
    if not found:
        there = f"{node} is not of its nodes: {', '.join(office.view.nodes_of(package))}"
        click.echo(f"  {there}" if node else "  no node may run it")
    for line in remedies(office, name):
        click.echo(f"  {line}")


def remedies(office: Office, name: str) -> list[str]:
    """The commands that would change that it does not run."""
    from ..claim import NO_RECORD

    package, view = office.package(name), office.view
    stuck = [node for node, phase in package.at.items() if phase == "stuck"]
    if stuck:
        return [f"-> mend what keeps it from stopping on {stuck[0]}, then: btw stop {name}"]
    if any(phase in ("up", "starting") for phase in package.at.values()):
        return []
    found = []
    if not package.automatic.on and package.order is None:
        found.append(f"-> btw enable {name}, or once: btw start {name}")
    for node in view.nodes_of(package):
        known = view.nodes.get(node)
        if known is None:
            found.append(f"-> start btw on {node}: no daemon of that name has ever been seen")
        elif known.lost:
            found.append(f"-> start btw on {node}: nothing is heard of it")
        elif known.drained:
            found.append(f"-> btw node resume {node}")
        elif node in package.off:
            found.append(f"-> mend it, then: btw enable {name} --on {node}")
    if package.order is not None and package.order.verb == "halt":
        found.append(f"-> it is being halted; then: btw start {name}")
    if office.locks.get(name, "").startswith(f"{NO_RECORD};"):  # and is waited for
        remedy = f"at once, when you are sure that it runs nowhere: btw unlock {name} --confirmed"
        found.append(f"-> it is new, or its lock's record was lost; {remedy}")
    return found
