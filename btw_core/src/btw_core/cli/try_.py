"""`btw try`: start, stop or look at one package once, by hand, with the same manager as `btw run`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from ..exits import BUSY, UNAVAILABLE
from .common import Given, json_option, packages_argument, setup_options

if TYPE_CHECKING:
    from ..controller import Controller
    from ..manager import Manager
    from ..ports import ResourceHealth
    from ..settings import Setup

#: Exit codes of `try PKG status`, by health.
_CODES = {"up": 0, "down": 1, "partly": 1, "degraded": 2, "cannot tell": 2, "critical": 3}


@click.command
@packages_argument(required=True, several=False)
@click.argument("action", type=click.Choice(["start", "stop", "status"]))
@setup_options
@json_option
def command(package: str, action: str, given: Given, as_json: bool) -> None:
    """Do one thing with the package PKG on this node, and end.

    start: get the lock, start it, and leave it up (`btw run` goes on with it; the lock is not renewed until then).
    stop: get the lock, stop it, verify that it is down, give the lock back.
    status: ask every resource once, without the lock; exit code 0 up, 1 down, 2 degraded or cannot tell, 3 critical.

    start and stop are refused with exit code 75 while another node holds the lock.
    """
    setup = given.setup()
    if action == "status":
        sys.exit(asyncio.run(_look(setup, package, given, as_json)))
    from ..node import Node

    attempt = (_Start if action == "start" else _Stop)(package, as_json)
    screen = sys.stderr if as_json else sys.stdout
    code = asyncio.run(Node(setup, [package], given.arguments(), screen=screen, goal=attempt).run())
    attempt.tell(code)
    sys.exit(code)


class _Attempt:
    """A goal of `Node`: watches the one package, and says when the run is over."""

    action = ""

    def __init__(self, package: str, as_json: bool) -> None:
        self.package, self.as_json = package, as_json
        self.text = ""
        self._failure = ""  # told once the lock is given back
        self._end_by = float("inf")
        self.times: dict[str, float] = {}  # seconds of each resource
        self._at, self._since = "", 0.0

    def __call__(self, manager: Manager) -> int | None:
        controller = manager.controllers[self.package]
        self._measure(controller)
        if self._failure:
            return self._end(1, self._failure) if controller.left else None
        if manager.failure:
            return self._end(1, manager.failure)
        timing, now = controller.spec.timing, controller.desk.now()
        self._end_by = min(self._end_by, now + timing.timeout + timing.start_timeout + timing.stop_timeout)
        if not controller.situation.term and manager.store_trouble:
            return self._end(UNAVAILABLE, f"the lock store cannot be reached: {manager.store_trouble}")
        if now >= self._end_by:
            return self._fail(controller, f"{self.package} is still {controller.situation.state}: {controller.cause}")
        judged = controller.claim.judgement
        if str(controller.situation.state) == "stand-by" and not controller.situation.term and judged is not None:
            # the first reading decides: who tries by hand does not want to wait for a lease
            holder = controller.claim.record.holder if controller.claim.record else None
            ours = holder is not None and holder.nonce == manager.me.nonce
            if judged.take is None and not ours:
                hint = "" if holder else f"; see btw unlock {self.package}"
                return self._end(BUSY, f"{self.package} is not ours to {self.action}: {judged.cause}{hint}")
        code = self._judge(controller)
        self._measure(controller)  # what that has begun may have ended when this is called again
        return code

    def _judge(self, controller: Controller) -> int | None:
        raise NotImplementedError

    def _fail(self, controller: Controller, text: str) -> int | None:
        """To be told once the lock is given back."""
        from ..ports import HaltAsked

        self._failure = text
        controller.halt(HaltAsked(package=self.package, cause=f"btw try {self.action} has failed"))
        return None

    def _end(self, code: int, text: str) -> int:
        self.text = text
        return code

    def _measure(self, controller: Controller) -> None:
        """How long each resource takes, as seen from here."""
        now, at = controller.desk.now(), controller.work.at
        if self._at and at != self._at:
            self.times[self._at] = now - self._since
        if at != self._at:
            self._at, self._since = at, now

    def tell(self, code: int) -> None:
        if self.as_json:
            result = {"package": self.package, "action": self.action, "ok": code == 0, "said": self.text}
            click.echo(json.dumps(result | {"seconds": self.times}, indent=2))
        elif self.text:
            click.echo(self.text if code == 0 else f"btw: {self.text}", err=code != 0)

    def _took(self, what: str, limit: float, limits: dict[str, float | None]) -> str:
        lines = []
        for name, amount in self.times.items():
            own = limits.get(name)
            lines.append(f"  {name}: {amount:.1f} s" + (f" of {what}_timeout {own:g} s" if own else ""))
        total = sum(self.times.values())
        return "\n".join([f"{what} {total:.1f} s of {what}_timeout {limit:g} s", *lines])


class _Start(_Attempt):
    action = "start"
    _why = ""

    def _judge(self, controller: Controller) -> int | None:
        situation, timing = controller.situation, controller.spec.timing
        match str(situation.state):
            case "running" | "degraded" if not controller.work.busy:
                limits = {each.name: each.start_timeout for each in controller.spec.resources}
                took = self._took("start", timing.start_timeout, limits) if self.times else "it was up already"
                left = controller.claim.lost_at - controller.desk.now() + timing.lease - timing.timeout
                after = (
                    f"{self.package} is up on {controller.me.node}, {situation.state}. Its lock is not renewed now: "
                    f"btw run {self.package} goes on with it; another node may take it in {max(left, 0):.0f} s"
                )
                return self._end(0, f"{took}\n{after}")
            case "stuck":
                return self._end(1, f"{self.package} did not start, and is stuck, its lock kept: {controller.cause}")
            case "off":
                remedy = f"when mended: btw enable {self.package}"
                return self._fail(controller, f"{self.package} is switched off here: {situation.off}; {remedy}")
            case "failed":
                return self._fail(controller, f"{self.package} did not start: {self._why}")
            case "failing":
                self._why = controller.cause
        return None


class _Stop(_Attempt):
    action = "stop"

    def __init__(self, package: str, as_json: bool) -> None:
        super().__init__(package, as_json)
        self._asked = False

    def _judge(self, controller: Controller) -> int | None:
        from ..ports import HaltAsked

        state = str(controller.situation.state)
        if state in ("unknown", "running", "degraded", "starting", "off") and not self._asked:
            self._asked = True
            controller.halt(HaltAsked(package=self.package, cause="btw try stop"))
            state = str(controller.situation.state)
        if state == "stuck":
            return self._end(1, f"{self.package} is stuck, its lock is kept: {controller.cause}")
        if state == "halted":
            timing = controller.spec.timing
            limits = {each.name: each.stop_timeout for each in controller.spec.resources}
            took = self._took("stop", timing.stop_timeout, limits) if self.times else "it was down already"
            self.text = f"{took}\n{self.package} is down on {controller.me.node}"
        return None  # the run ends by itself once the lock is given back


async def _look(setup: Setup, package: str, given: Given, as_json: bool) -> int:
    """One round of status, by an observer of its own."""
    from ..containment import find_cgroup_root, home_of
    from ..disk import FileDisk
    from ..executor import RealExecutor
    from ..health import assess
    from ..ports import Logged, Look, Looked, Report
    from ..resource import ConfigError

    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Looked] = loop.create_future()

    def deliver(report: Report) -> None:
        if isinstance(report, Looked) and not answer.done():
            answer.set_result(report)
        elif isinstance(report, Logged):
            click.echo(f"{report.resource}: {report.text}", err=True)

    node = setup.config.node
    home = home_of(node, setup.places.state / node)
    executor = RealExecutor(
        home=home, cgroup=find_cgroup_root(home) or "", deliver=deliver, arguments=[*given.arguments(), package]
    )
    try:
        loaded = await executor.start()
        spec = next((each for each in loaded.packages if each.name == package), None)
        if spec is None:
            raise ConfigError(loaded.problems)
        saved = FileDisk(setup.places.state / node).load(package)
        executor.look(Look(id=1, package=package, term=saved.term if saved else 0, state=saved.state if saved else {}))
        looked = await asyncio.wait_for(answer, spec.timing.timeout)
    finally:
        await executor.close()
    found = assess(spec.resources, {each.resource: each for each in looked.results})
    _show(package, str(found.health), looked.results, as_json)
    return _CODES[str(found.health)]


def _show(package: str, health: str, results: tuple[ResourceHealth, ...], as_json: bool) -> None:
    said: list[dict[str, Any]] = [
        {"resource": each.resource, "status": each.status and str(each.status), "detail": each.detail}
        for each in results
    ]
    if as_json:
        click.echo(json.dumps({"package": package, "health": health, "resources": said}, indent=2))
        return
    for each in said:
        detail = f": {each['detail']}" if each["detail"] else ""
        click.echo(f"{each['resource']}: {each['status'] or 'cannot tell'}{detail}")
    click.echo(f"{package}: {health}")
