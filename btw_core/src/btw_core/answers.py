"""What people ask a manager over its control socket, and what they hear. See `control` for the requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from .cluster import Switch
from .control import Answer, Request
from .manager import Manager
from .placer import Placer
from .ports import EnableAsked, HaltAsked, Report
from .summary import ill, lock
from .switches import Refused

#: Seconds in which what a person asked for must be written to the store.
WRITTEN = 10.0
#: Characters of who asks and why, which every node keeps and shows.
LONGEST = 1000
COMMANDS = ("ping", "status", "halt", "enable", "cluster", "ask", "maintenance", "reset", "reload")


class Driver(Protocol):
    """What drives the manager: `node.Node`."""

    names: list[str]
    manager: Manager | None

    def found_wrong(self) -> list[str]: ...

    def deliver(self, report: Report) -> None: ...
    def schedule(self) -> None: ...
    def leave(self) -> None: ...
    def ping(self) -> Answer: ...
    def status(self, manager: Manager) -> Answer: ...


class Answers:
    """`answer` is the manager's side of the socket; `tell` hands on each line of the journal, `left` each end."""

    def __init__(self, node: Driver) -> None:
        self.node = node
        self._watchers: dict[asyncio.Queue[Answer | None], str] = {}

    def tell(self, event: dict[str, Any]) -> None:
        for queue, package in self._watchers.items():
            if event.get("package") == package:
                queue.put_nowait({"event": event})

    def left(self, manager: Manager) -> None:
        """Nobody waits longer for a package that is done with here."""
        for queue, package in self._watchers.items():
            if manager.controllers[package].left:
                queue.put_nowait(None)

    async def answer(self, request: Request) -> AsyncIterator[Answer]:
        """Raises ValueError for what cannot be answered."""
        node, manager = self.node, self.node.manager
        assert manager is not None
        command, package = request.get("command"), str(request.get("package", ""))
        if command in ("halt", "enable") and package not in manager.controllers:
            raise ValueError(f"package {package} is not managed here, but {', '.join(node.names)}")
        match command:
            case "ping":
                yield node.ping()
            case "status":
                yield node.status(manager)
            case "enable":
                node.deliver(EnableAsked(package=package, cause=str(request.get("cause", ""))))
                yield {"ok": True}
            case "halt":
                if manager.placer:
                    raise ValueError("this is a daemon: packages are halted with the request `ask`")
                async for answer in self._halt(manager, package, str(request.get("cause", ""))):
                    yield answer
            case "cluster" | "ask" | "maintenance" | "reset" | "reload":
                yield await self._daemon(manager, str(command), package, request)
            case _:
                raise ValueError(f"found command {command!r}, allowed: {', '.join(COMMANDS)}")

    async def _daemon(self, manager: Manager, command: str, package: str, request: Request) -> Answer:
        placer = manager.placer
        if placer is None:
            raise ValueError("this is a `btw run`, which takes no part in a cluster: run btw daemon instead")
        if command == "cluster":
            trouble = manager.store_trouble or manager.session.trouble
            locks = {each.name: lock(each) for each in manager.controllers.values() if not each.claim.held}
            return placer.summary() | {"trouble": trouble, "problems": self.node.found_wrong(), "locks": locks}
        by, why = str(request.get("by", "")), str(request.get("why", ""))
        if len(by + why) > LONGEST:
            raise ValueError(f"found {len(by + why)} characters of who and why, allowed: {LONGEST}")
        match command:
            case "ask":
                words = str(request.get("words", ""))
                await self._written(lambda then, no: placer.ask(words, by, why, then, no))
            case "maintenance":
                switch = Switch(on=True, by=by, when=placer.when(), why=why) if request.get("on") else None
                if switch is None:
                    _healthy(placer, package)
                await self._written(lambda then, _: placer.maintain(package, switch, then))
            case "reset":
                await self._written(lambda then, _: placer.reset(package, then))
            case "reload":
                self.node.leave()
        return {"ok": True}

    async def _written(self, begin: Callable[[Callable[[], None], Callable[[str], None]], None]) -> None:
        """Wait until it stands in the store. Raises ValueError."""
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def end(text: str = "") -> None:
            if not done.done():
                done.set_result(text)

        try:
            begin(end, end)
        except Refused as refused:
            raise ValueError(str(refused)) from refused
        self.node.schedule()
        try:
            text = await asyncio.wait_for(done, WRITTEN)
        except TimeoutError:
            trouble = f"the lock store did not take it within {WRITTEN:g} s; it is done as soon as it does, unless this"
            trouble += " daemon ends before"
            raise ValueError(trouble) from None
        if text:
            raise ValueError(text)

    async def _halt(self, manager: Manager, package: str, cause: str) -> AsyncIterator[Answer]:
        controller = manager.controllers[package]
        queue: asyncio.Queue[Answer | None] = asyncio.Queue()
        self._watchers[queue] = package
        try:
            self.node.deliver(HaltAsked(package=package, cause=cause))
            yield {"state": str(controller.situation.state)}
            while (answer := await queue.get()) is not None:
                yield answer
            yield {"ended": str(controller.situation.state), "cause": controller.cause, "free": controller.claim.free}
        finally:
            del self._watchers[queue]


def _healthy(placer: Placer, package: str) -> None:
    """A package leaves maintenance only in health (as Serviceguard's does), which the node that has it knows. Raises
    ValueError."""
    found = {node: record.ill.get(package, "") for node, record in placer.papers.nodes.items()}
    if package in placer.controllers:
        found[placer.me.node] = ill(placer.controllers[package])
    for node, text in found.items():
        if text:
            raise ValueError(f"{package} is not healthy on {node}, it would fail at once: {text}")


def now() -> str:
    """For switches and orders."""
    return time.strftime("%Y-%m-%d %H:%M:%S")
