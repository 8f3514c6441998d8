"""Dependencies: what cannot be is refused with its remedy; what needs what decides order and company."""

from __future__ import annotations

from typing import Any

import pytest

from btw_core.cluster import Condition, Dependency, FailoverPolicy, Kind, Location, Rules
from btw_core.dependencies import Graph, flaws


def needs(*others: str, location: Location = Location.SAME_NODE) -> tuple[Dependency, ...]:
    return tuple(Dependency(package=other, location=location) for other in others)


def excludes(other: str, location: Location = Location.SAME_NODE) -> tuple[Dependency, ...]:
    return (Dependency(package=other, condition=Condition.DOWN, location=location),)


def rules(*dependencies: Dependency, **said: Any) -> Rules:
    return Rules(dependencies=dependencies, **said)


MULTI = Rules(type=Kind.MULTI_NODE)
ANY, DIFFERENT, ALL = Location.ANY_NODE, Location.DIFFERENT_NODE, Location.ALL_NODES
REFUSED: dict[str, tuple[dict[str, Rules], list[str]]] = {
    "itself": ({"a": rules(*needs("a"))}, ["a: a package cannot depend on itself; remove it"]),
    "unknown": (
        {"web": rules(*needs("databse")), "database": Rules()},
        ["web: there is no package `databse`; did you mean `database`?"],
    ),
    "location": (
        {"a": rules(*needs("b", location=ALL)), "b": Rules()},
        [
            "a: condition UP with location all_nodes; allowed with UP: same_node, any_node, different_node",
        ],
    ),
    "twice": (
        {"a": rules(*needs("b"), *needs("b", location=ANY)), "b": Rules()},
        ["a: a second dependency on `b`; keep one of them"],
    ),
    "not mutual": (
        {"a": rules(*excludes("b"), priority=1), "b": Rules()},
        [
            "a: exclusion is not mutual: `b` does not exclude `a`; "
            'add to `b`: package = "a", condition = "DOWN", location = "same_node"',
        ],
    ),
    "no priority": (
        {"a": rules(*excludes("b")), "b": rules(*excludes("a"))},
        [
            "a: neither `a` nor `b` has a priority: which of them gives way?; "
            "write priority = 1 to 3000 into at least one; the lower number stays",
            "b: neither `b` nor `a` has a priority: which of them gives way?; "
            "write priority = 1 to 3000 into at least one; the lower number stays",
        ],
    ),
    "multi_node excluded": (
        {"a": rules(*excludes("b"), priority=1), "b": rules(*excludes("a"), type=Kind.MULTI_NODE)},
        [
            "a: only failover packages exclude each other; remove it",
            "b: only failover packages exclude each other; remove it",
        ],
    ),
    "multi_node needs failover": (
        {"a": rules(*needs("b"), type=Kind.MULTI_NODE), "b": Rules()},
        [
            "a: a multi_node package cannot need `b`, which runs on one node at a time; "
            "let `b` depend on `a`, or make both multi_node",
        ],
    ),
    "list not contained": (
        {"a": rules(*needs("b"), nodes=("n1", "n2")), "b": Rules(nodes=("n1", "n3"))},
        ["a: `b` cannot run on n2; add to its nodes, or remove from these: n2"],
    ),
    "any node, but the other has a list": (
        {"a": rules(*needs("b")), "b": Rules(nodes=("n1",))},
        ['a: runs on any node, but `b` only on n1; write nodes = ["n1"] or fewer'],
    ),
    "two lists cannot be followed": (
        {"a": rules(*needs("b"), failover_policy=FailoverPolicy.MIN_PACKAGE_NODE), "b": Rules()},
        [
            "a: this package has failover_policy min_package_node: two lists cannot be followed at once; "
            "set configured_node in this package",
        ],
    ),
    "priority before what it needs": (
        {"a": rules(*needs("b", location=ANY), priority=1), "b": Rules(priority=2)},
        [
            "a: priority 1 beats `b`, which has to be placed first; "
            "give `b` priority 1 or lower, or this one a higher number",
        ],
    ),
    "no different node": (
        {"a": rules(*needs("b", location=DIFFERENT), nodes=("n1",)), "b": Rules(nodes=("n1",))},
        ["a: `b` cannot be on a different node: both have only n1; name further nodes"],
    ),
    "node named twice": (
        {"a": Rules(nodes=("n1", "n2", "n1"))},
        ["a: names n1 more than once; name each node once, the preferred one first"],
    ),
    "multi_node with a policy": (
        {"a": Rules(type=Kind.MULTI_NODE, failover_policy=FailoverPolicy.MIN_PACKAGE_NODE)},
        ["a: a multi_node package runs on all its nodes at once and never fails over; remove it"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be(case: str) -> None:
    """Each rule that is broken is one line with its remedy, and nothing else is said."""
    packages, expected = REFUSED[case]
    assert [f"{flaw.package}: {flaw.text}; {flaw.remedy}" for flaw in flaws(packages)] == expected


def test_a_circle_is_refused_once() -> None:
    """A circle is named with all its members, once, however many packages lead into it."""
    packages = {
        "a": rules(*needs("b")),
        "b": rules(*needs("c")),
        "c": rules(*needs("a")),
        "d": rules(*needs("a")),
    }
    found = flaws(packages)
    said = [(flaw.package, flaw.text, flaw.remedy) for flaw in found]
    assert said == [("c", "a circle: a -> b -> c -> a", "remove one of these dependencies")]
    assert sorted(Graph(packages).order) == ["a", "b", "c", "d"], "and does no harm to whoever looks anyway"


def test_what_excludes_what_it_needs_could_never_run() -> None:
    """A package that needs, through another, what it excludes is refused with the chain."""
    packages = {
        "app": rules(*needs("db"), *excludes("old"), priority=5),
        "db": rules(*needs("old"), priority=3),
        "old": rules(*excludes("app"), priority=1),
    }
    texts = [flaw.text for flaw in flaws(packages)]
    assert "excludes `old`, which it needs (app -> db -> old): it could never run" in texts


def test_what_is_well_is_not_refused() -> None:
    """Needs of every kind, chains, and a mutual exclusion with one priority."""
    packages = {
        "agent": MULTI,
        "db": rules(*needs("agent"), *excludes("test"), nodes=("n1", "n2"), priority=1),
        "app": rules(*needs("db"), nodes=("n2",)),
        "test": rules(*excludes("db"), nodes=("n2", "n1")),
        "report": rules(*needs("db", location=ANY)),
        "copy": rules(*needs("db", location=DIFFERENT)),
    }
    assert flaws(packages) == []


def test_order_and_company() -> None:
    """What is needed starts before what needs it; what has to be on one node is one company."""
    packages = {
        "app": rules(*needs("db")),
        "web": rules(*needs("app"), priority=1),
        "db": rules(*needs("agent")),
        "agent": MULTI,
    }
    graph = Graph(packages)
    assert graph.start_order() == ["agent", "db", "app", "web"]
    assert graph.company == {"app": ("db",), "web": ("db", "app"), "db": ()}
    assert graph.order[0] == "web", "the highest priority decides where all of them go"
