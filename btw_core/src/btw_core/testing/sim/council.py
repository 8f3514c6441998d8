"""A cluster of daemons in a storm: random rules and dependencies, faults, and people who ask for this and that.

Never two, as ever; besides: no decision without a cause; at the end everything runs that could, where the nodes agree
that it should, and nothing has gone to and fro after the last fault.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ...cluster import RUNNING, ClusterView, Phase, Rules, Verb
from ...placement import What
from ...placer import Placer
from ...switches import Refused
from ...timing import Timing
from ...types import PackageSpec, ResourceSpec
from ..clusters import MISFORTUNES, Cluster, random_view
from . import disasters
from .adversary import Storm
from .node import Killed
from .world import Setting, World

if TYPE_CHECKING:
    from .node import Life

#: Those of `disasters.KINDS` that a cluster of daemons is for; what people say to one `btw run` is not asked of these.
KINDS = (
    *("crash", "crash_at_call", "family", "zygote", "reboot", "freeze", "freeze_in_a_call", "cut", "lossy", "watch"),
    *("observer", "sluggish", "vanish", "stiffen", "mood", "keeper_killed", "both_killed", "both_frozen"),
)
#: Starts of one package after the last fault and the last word of a person, at most.
STARTS = 3


def setting(seed: int, minutes: float = 20.0) -> Setting:
    """2 to 8 nodes, 1 to 40 packages, most often few."""
    dice = random.Random(f"{seed} cluster")
    nodes = dice.randint(2, 8) if dice.random() < 0.3 else dice.randint(2, 4)
    view = random_view(dice, nodes, dice.randint(10, 40) if dice.random() < 0.1 else dice.randint(1, 9))
    names = {f"n{number}": f"node{number}" for number in range(1, nodes + 1)}
    fields = Rules.__struct_fields__
    rules = {
        name: Rules(
            **{key: getattr(package, key) for key in fields} | {"nodes": tuple(names[node] for node in package.nodes)}
        )
        for name, package in view.packages.items()
    }
    specs = tuple(_spec(dice, name) for name in rules)
    return Setting(nodes=nodes, minutes=minutes, specs=specs, rules=rules, adversary=Council)


def _spec(dice: random.Random, name: str) -> PackageSpec:
    pace = round(dice.uniform(1, 3), 2)
    times = {"start_timeout": round(dice.uniform(2, 8), 2), "stop_timeout": round(dice.uniform(1, 8), 2)}
    timing = Timing(pace=pace, timeout=round(pace * dice.uniform(2, 5), 2), **times)
    heals = [dice.random() < 0.3 for _ in range(dice.randint(1, 2))]
    resources = tuple(ResourceSpec(name=f"r{n + 1}", type="sim", heals=each) for n, each in enumerate(heals))
    return PackageSpec(name=name, timing=timing, resources=resources)


class Council(Storm):
    """Faults and people until `quiet`; then everything is mended, a person sets every switch back, and it has to come
    to rest."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.quiet = 0.25 * 60 * world.setting.minutes
        broken = disasters.breaking(world.self_fence, kept=world.kept)
        kinds = [
            kind for kind in KINDS if kind not in broken and (world.kept or not kind.startswith(("keeper", "both")))
        ]
        self.kinds = self.random.sample(kinds, min(len(kinds), self.random.randint(1, 6)))
        self.gap = self.random.uniform(8, 40)
        self._asked = self.random.uniform(5, 60)  # seconds between two words of people
        self._words = 0
        self._since = 0.0  # at rest
        self._begun: dict[str, int] = {}  # starts when the last word was said

    def begin(self) -> None:
        super().begin()
        self.world.scheduler.after(self._asked, self._speak)

    # ---- people
    def _lives(self) -> list[Life]:
        lives = (node.life for node in self.world.nodes.values())
        return [life for life in lives if life is not None and life.alive and not life.frozen]

    def _placers(self) -> list[Placer]:
        return [each.manager.placer for each in self._lives() if each.manager.placer and each.manager.placer.view.nodes]

    def _ask(self, placer: Placer, words: str) -> None:
        self._words += 1  # as each command has a pid of its own
        by = f"person {self._words}"
        if self._do(placer, lambda: placer.ask(words, by, "", lambda: None, lambda _text: None)):
            self.fault(f"a person: {words}")

    def _do(self, placer: Placer, do: Callable[[], None]) -> bool:
        """False: refused, or the manager was killed at a call of its."""
        try:
            do()
        except (ValueError, Refused):
            return False
        except Killed:
            self.world.lives[placer.me.nonce].die("killed at a port call")
            return False
        return True

    def _speak(self) -> None:
        if self.calm:
            return
        placers = self._placers()
        if placers:
            words = self.random.choice([each for each in MISFORTUNES if "lost" not in each and "back" not in each])
            node, name = self.random.choice(list(self.world.nodes)), self.random.choice(self.world.specs).name
            said = " ".join({"N": node, "P": name}.get(word, word) for word in words.split())
            self._ask(self.random.choice(placers), said)
        self.world.scheduler.after(self.random.expovariate(1 / self._asked), self._speak)

    # ---- mending
    def _tend(self) -> None:
        """Once each few seconds: nodes take part, what is stuck is stopped once more, switches are set back."""
        if self._placers():
            placer = self._placers()[0]
            for name, node in placer.view.nodes.items():
                if node.drained:
                    self._ask(placer, f"node {name} resumed")
            for name, package in placer.view.packages.items():
                stuck = Phase.STUCK in package.at.values()
                if stuck and not (package.order and package.order.verb is Verb.HALT and self.random.random() < 0.8):
                    self._ask(placer, f"halt {name}")
                elif not stuck and self._wrong(placer, name):
                    self.fault(f"a person resets {name}")
                    self._do(placer, lambda name=name: placer.reset(name, lambda: None))  # type: ignore[misc]
                elif package.stopped and package.order is None:
                    self._ask(placer, f"run {name}")
        disasters.unlock(self, hopeless=True)
        self.world.scheduler.after(self.TENDS, self._tend)

    def _wrong(self, placer: Placer, name: str) -> bool:
        package = placer.view.packages[name]
        off = any(node in self.world.nodes for node in package.off)
        critical = any(
            each.manager.controllers[name].situation.off for each in self._lives() if name in each.manager.controllers
        )
        return off or critical or package.switch is not None or package.order is not None

    def _rest_if_steady(self) -> None:
        """At rest for two leases: judged, and over."""
        world, now = self.world, self.world.scheduler.now
        for placer in self._placers():
            if not all(each.cause for each in placer.plan.decisions):
                world.judge.fail("a decision without a cause")
        if world.calm_since > self._since or not self._rests():
            self._since = now
        if world.calm_since >= now - 1.0:
            self._begun = dict(world.judge.started)
        longest = max(spec.timing.lease for spec in world.specs)
        if now > max(self._since + 2 * longest, self.quiet + self.LATEST):
            self._judge()
            world.note("at rest for two leases")
            world.scheduler.stop()
        elif now > 60 * world.setting.minutes - 5:
            world.judge.fail(f"not at rest: {self._why()}")
        else:
            world.scheduler.after(1.0, self._rest_if_steady)

    def _rests(self) -> bool:
        return not self._why()

    def _why(self) -> str:
        """What is still going on."""
        world = self.world
        if len(self._placers()) < len(world.nodes):
            return "not every daemon is there"
        if any(node.running for node in world.nodes.values()):
            return "operations run"
        for placer in self._placers():
            if any(node.quiet or node.lost for node in placer.view.nodes.values()):
                return f"{placer.me.node} does not hear of a node"
            doing = [d for d in placer.mine.values() if d.what is What.HALT or (d.what is What.TAKE and not d.delay)]
            if doing:
                return f"{doing[0]}"
            moving = [p for p in placer.view.packages.values() if any(phase is not Phase.UP for phase in p.at.values())]
            if moving:
                return f"{moving[0].at}"
        return ""

    def _judge(self) -> None:
        world, placers = self.world, self._placers()
        views = {msgspec.json.encode(placer.view) for placer in placers}
        if len(views) > 1:
            world.judge.fail("the nodes do not see the same cluster")
        view: ClusterView = placers[0].view
        idle = Cluster(view, random.Random(0)).idle_without_reason()
        if idle:
            world.judge.fail(f"could run, and does not: {idle}")
        for name, package in view.packages.items():
            for node, phase in package.at.items():
                parts = world.nodes[node].parts
                up = all(
                    (part := parts.get((name, r.name))) is not None and part.up for r in world.spec(name).resources
                )
                if phase in RUNNING and not up:
                    world.judge.fail(f"{name} is said to be {phase} on {node}, and is not")
            starts = world.judge.started[name] - self._begun.get(name, 0)
            most = STARTS * (len(world.nodes) if name in world.several else 1)
            if starts > most:
                world.judge.fail(f"{name} was started {starts} times after the last fault")
