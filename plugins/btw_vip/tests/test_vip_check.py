"""What `btw check` refuses and warns of, and the configuration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vip_lan import Computer, lan
from vip_steps import V4, V6, start, vip

from btw_core import Problem
from btw_core.parameters import convert, fields
from btw_core.resource import CheckContext
from btw_vip import btw_resource_types
from btw_vip.vip import Vip

README = Path(__file__).parents[1] / "README.md"
CHECK = CheckContext(cluster="c", node="n", package="p", everything=())


@pytest.fixture(scope="module")
def node() -> Iterator[Computer]:
    """With the networks 10.77.0.0/24 and fd77::/64 on eth0."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with lan("a") as net:
        net["a"].ip("address", "add", "10.77.0.1/24", "dev", "eth0")
        net["a"].ip("address", "add", "fd77::1/64", "dev", "eth0", "nodad")
        yield net["a"]


def found(node: Computer, resource: Vip) -> list[Problem]:
    return node.call(resource.check, CHECK)


@pytest.mark.parametrize("more", [{}, {"interface": "eth0"}, {"network": "10.77.0.0"}, {"network": "10.77.0.0/24"}])
def test_good(node: Computer, more: dict[str, str]) -> None:
    """Nothing to say; nor while the address is up by our doing."""
    resource = vip("10.77.0.99/24", **more)
    assert found(node, resource) == []
    start(node, resource)
    assert found(node, resource) == []


@pytest.mark.parametrize("text", [V6, "fd77::99/128", "10.77.0.98/32"])
def test_other_good_ones(node: Computer, text: str) -> None:
    """IPv6, and addresses with the prefix of one host."""
    assert found(node, vip(text)) == []


@pytest.mark.parametrize(
    ("text", "more", "key", "says"),
    [
        ("10.77.0.1/24", {}, "address", "10.77.0.1 is this node's own address on eth0"),
        ("fd77::1/64", {}, "address", "fd77::1 is this node's own address on eth0"),
        (V4, {"interface": "eth9"}, "interface", "there is no interface eth9 (there are: eth0)"),
        (V4, {"network": "192.0.2.0/24"}, "network", "no interface has a route to the network 192.0.2.0/24"),
        (V4, {"network": "10.77.0.0", "interface": "eth0"}, "network", "both given"),
        ("192.0.2.1/24", {}, "address", "no interface has a route to a network with 192.0.2.1"),
        (
            "192.0.2.1/24",
            {"interface": "eth0"},
            "address",
            "in no network of this node on eth0 (there are: 10.77.0.0/24)",
        ),
        (V4, {"interface": "lo"}, "interface", "lo is no Ethernet"),
    ],
)
def test_refused(node: Computer, text: str, more: dict[str, Any], key: str, says: str) -> None:
    """Each refusal names the parameter, what was found and what there is."""
    problems = [each for each in found(node, vip(text, **more)) if each.severity == "error"]
    assert [each.key for each in problems] == [key]
    assert says in problems[0].text
    assert problems[0].remedy


@pytest.mark.parametrize(
    ("text", "more", "key"),
    [
        ("10.77.0.97/16", {}, "address"),
        (V4, {"dad": "kernel"}, "dad"),
        (V4, {"source": True}, "source"),
        (V6, {"label": "eth0:web"}, "label"),
    ],
)
def test_warnings(node: Computer, text: str, more: dict[str, Any], key: str) -> None:
    """A prefix that is not the network's, and what has no effect, is run anyway."""
    problems = found(node, vip(text, **more))
    assert [(each.severity, each.key) for each in problems] == [("warning", key)]


def test_no_carrier() -> None:
    """Only a warning: it may be connected by the time it is needed."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with lan("a") as net:
        net["a"].ip("address", "add", "10.77.0.1/24", "dev", "eth0")
        net["switch"].ip("link", "set", "to-a", "down")
        (problem,) = found(net["a"], vip(V4, interface="eth0"))
        assert (problem.severity, problem.text) == ("warning", "eth0 has no carrier now")


def test_identity() -> None:
    """One address is one thing, however it is written and whatever its prefix."""
    same = {vip(text).identity() for text in ("2001:db8::1/64", "2001:DB8:0::1/128")}
    assert same == {("address", "2001:db8::1")}
    assert vip("192.0.2.1/24").identity() != vip("192.0.2.2/24").identity()


def test_nothing_heavy_is_imported() -> None:
    """Commands that read packages, and the manager, do not pay for pyroute2."""
    code = "import sys, btw_vip; btw_vip.btw_resource_types(); print(sorted(m for m in sys.modules if 'pyroute2' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_readme() -> None:
    """Each example is read as it stands, and every parameter is explained."""
    text = README.read_text()
    blocks = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    types = {field.encode_name: field.type for field in fields(Vip)}
    for block in blocks:
        for table in tomllib.loads(block).get("resource", []):
            if table.pop("type") == "vip":
                values = {key: convert(value, types[key]) for key, value in table.items()}
                assert Vip(**values).address.ip
    for name in types.keys() - {"name", "start_timeout", "stop_timeout"}:
        assert f"`{name}`" in text, name
    assert [kind.__struct_config__.tag for kind in btw_resource_types()] == ["vip"]
