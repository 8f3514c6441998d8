"""A cluster as one picture: who is there, where packages may run, where they are, what people switched. Pure.

`placement` and `rehearsal` compute from this and from nothing else, so that a picture says all that a decision needs:
it can be written by hand (TOML or JSON), kept, changed and computed again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta


class Kind(StrEnum):
    """How many instances of a package there are."""

    FAILOVER = "failover"  # one, on one node at a time
    MULTI_NODE = "multi_node"  # one on each of its nodes, each with a lock of its own


class FailoverPolicy(StrEnum):
    """Which of its nodes gets a package that runs nowhere."""

    CONFIGURED_NODE = "configured_node"  # the first of its list that can
    MIN_PACKAGE_NODE = "min_package_node"  # the one that has the fewest failover packages


class FailbackPolicy(StrEnum):
    """What happens when the first node of its list can run it again."""

    MANUAL = "manual"  # nothing
    AUTOMATIC = "automatic"  # it goes back there


class Condition(StrEnum):
    UP = "UP"
    DOWN = "DOWN"  # exclusion: must be mutual


class Location(StrEnum):
    """Where the other package has to be up, or down."""

    SAME_NODE = "same_node"
    ANY_NODE = "any_node"  # UP
    DIFFERENT_NODE = "different_node"  # UP
    ALL_NODES = "all_nodes"  # DOWN


class Phase(StrEnum):
    """Where an instance is that some node holds; what no node holds is in no phase."""

    STARTING = "starting"
    UP = "up"
    FAILING = "failing"  # failed; it stops as soon as what needs it is down
    HALTING = "halting"
    STUCK = "stuck"  # a stop failed: nobody may start it before a person acts


RUNNING = (Phase.STARTING, Phase.UP)


class Dependency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table `[[dependency]]`: this package runs only while the other one is up, or down, there."""

    package: Annotated[str, Meta(description="the other package", examples=["db"])]
    condition: Annotated[Condition, Meta(description='"UP": it has to run; "DOWN": it must not')] = Condition.UP
    location: Annotated[
        Location, Meta(description='UP: "same_node", "any_node", "different_node"; DOWN: "same_node", "all_nodes"')
    ] = Location.SAME_NODE


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a package's configuration says of where it may run. `nodes` empty: any, in the order of their names."""

    type: Kind = Kind.FAILOVER
    nodes: tuple[str, ...] = ()
    auto_run: bool = True  # what the switch says until somebody changes it
    failover_policy: FailoverPolicy = FailoverPolicy.CONFIGURED_NODE
    failback_policy: FailbackPolicy = FailbackPolicy.MANUAL
    priority: int | None = None  # 1 to 3000, lower wins, any number beats none
    successor_halt_timeout: float | None = None  # seconds that its halt waits for what needs it; None: for ever
    dependencies: tuple[Dependency, ...] = ()


class Switch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the two switches, and who set it, when and why ("" : not known)."""

    on: bool = False
    by: str = ""
    when: str = ""
    why: str = ""

    def __str__(self) -> str:
        """For the end of a sentence: " by ann at 20:15: upgrade"."""
        return _said(self.by, self.when, self.why)

    @property
    def alone(self) -> str:
        """The same without a sentence before it; never empty."""
        return str(self).strip(" :") or "by hand"


class Verb(StrEnum):
    """Of an order."""

    RUN = "run"
    HALT = "halt"
    MOVE = "move"


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person wants once; gone as soon as it is fulfilled. `to` "": run it wherever its policy says, halt it
    everywhere; a move names its node."""

    verb: Verb
    to: str = ""
    by: str = ""
    why: str = ""

    def __str__(self) -> str:
        """For the end of a sentence: " by ann: upgrade"."""
        return _said(self.by, "", self.why)


class NodeView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node. `boot` tells its lives apart; `serves`: the packages that its btw runs (None: all)."""

    lost: bool = False  # nothing is heard of it
    quiet: bool = False  # nothing was heard of it for a moment: nothing new goes there
    drained: str = ""  # why it is to run nothing
    boot: str = ""
    serves: tuple[str, ...] | None = None


class PackageView(Rules, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A package: its rules, its switches, and where it is."""

    at: dict[str, Phase] = {}  # node -> phase, of each lock that is held
    switch: Switch | None = None  # auto_run as somebody set it
    off: dict[str, Switch] = {}  # nodes on which it is switched off
    order: Order | None = None
    stopped: dict[str, str] = {}  # multi-node: node -> its boot when the instance was halted by hand
    restarted: bool = False  # multi-node: halted by hand before; it does not start for the first time
    waited: tuple[str, ...] = ()  # nodes on which it has waited long enough for what needs it
    heir: str = ""  # failover: the node for which another gave it up by choice, and which has not had it since

    @property
    def automatic(self) -> Switch:
        """auto_run as it stands."""
        return self.switch or Switch(on=self.auto_run, why="as configured")


class ClusterView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a decision may look at."""

    nodes: dict[str, NodeView] = {}
    packages: dict[str, PackageView] = {}

    def nodes_of(self, package: PackageView) -> tuple[str, ...]:
        """Its nodes in order; every node by name when it names none."""
        return package.nodes or tuple(sorted(self.nodes))


def _said(by: str, when: str, why: str) -> str:
    return (f" by {by}" if by else "") + (f" at {when}" if when else "") + (f": {why}" if why else "")
