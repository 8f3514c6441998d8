"""Start, stop, status and heal in a real kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from vip_lan import GENEROUS, Computer, lan, plug
from vip_steps import V4, V6, Outcome, heal, looked, perform, start, status, stop, vip

from btw_core.command import proc_stat
from btw_core.types import Verb
from btw_vip import doing
from btw_vip.kernel import OURS, Found, Kernel

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
Lan = dict[str, Computer]


@pytest.fixture
def net() -> Iterator[Lan]:
    """Two nodes with addresses of their own."""
    with lan("a", "b") as computers:
        for number, name in enumerate("ab", 1):
            address(computers[name], number)
        yield computers


def address(computer: Computer, number: int) -> None:
    computer.ip("address", "add", f"10.77.0.{number}/24", "dev", "eth0")
    computer.ip("address", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")


def has(computer: Computer, text: str) -> bool:
    return f" {text} " in computer.addresses()


def flags(text: str) -> Any:
    """(flags, protocol, label) of an address here."""
    for message in Kernel()._ask("addr", "dump"):
        if f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}" == text:
            return message.get_attr("IFA_FLAGS"), message.get_attr("IFA_PROTO"), message.get_attr("IFA_LABEL")
    return None


def good(outcome: Outcome, status: str) -> Outcome:
    assert (outcome.error, outcome.status) == ("", status)
    return outcome


@pytest.mark.parametrize("text", [V4, V6])
def test_twice_each(net: Lan, text: str) -> None:
    """Start, stop and status may be repeated; a herald runs in between, one, and none afterwards."""
    node, resource = net["a"], vip(text)
    assert status(node, resource) == "down"
    first = good(start(node, resource), "up")
    assert has(node, text)
    (herald,) = node.processes()
    second = good(start(node, resource, first.state), "up")
    assert node.processes() == [herald]
    assert status(node, resource, second.state) == "up"
    assert good(stop(node, resource, second.state), "down").state == {}
    assert not has(node, text)
    assert node.processes() == []
    good(stop(node, resource), "down")
    assert has(node, "10.77.0.1/24") and has(node, "fd77::1/64")


def test_marks(net: Lan) -> None:
    """Ours are marked in the kernel, without a route of their own; an IPv6 address is no source by accident, and one
    may be asked for."""
    node = net["a"]
    good(start(node, vip(V4, label="eth0:web")), "up")
    assert node.call(flags, V4) == (0x200 | 0x80 | 0x01, OURS, "eth0:web")
    good(start(node, vip(V6)), "up")
    assert node.call(flags, V6) == (0x200 | 0x80 | 0x02 | 0x20, OURS, None)
    assert "10.77.0.100" not in node.ip("route") and node.ip("-6", "route").count("fd77::/64") == 1
    assert " src fd77::1 " in node.ip("route", "get", "fd77::2")
    assert " src 10.77.0.1 " in node.ip("route", "get", "10.77.0.2")
    good(start(node, vip("fd77::99/64", source=True)), "up")
    assert node.call(flags, "fd77::99/64")[0] & 0x20 == 0


@pytest.mark.parametrize("text", [V4, V6])
def test_state_is_lost(net: Lan, text: str) -> None:
    """A stop that knows nothing takes down what is marked ours, and what is exactly as the package says."""
    node, resource = net["a"], vip(text)
    good(start(node, resource), "up")
    good(stop(node, resource), "down")
    assert not has(node, text)
    node.ip("address", "add", text, "dev", "eth0")  # a former administrator did
    good(stop(node, resource), "down")
    assert not has(node, text)


def test_half_a_start(net: Lan) -> None:
    """A start that is killed leaves what the next stop, and the next start, can cope with."""
    node, resource = net["a"], vip(V4)
    job = node.start(killed_before_the_announcement, resource)
    assert os.waitpid(job.pid, 0)[1] == signal.SIGKILL
    os.close(job._answer)
    assert has(node, V4)
    good(stop(node, resource), "down")
    assert not has(node, V4)
    job = node.start(killed_before_the_announcement, resource)
    os.waitpid(job.pid, 0)
    os.close(job._answer)
    good(start(node, resource), "up")


def killed_before_the_announcement(resource: Any) -> None:
    doing._proclaim = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    perform(Verb.START, resource, {})


def test_elsewhere(net: Lan) -> None:
    """The same address with another prefix, or on another interface, is never taken for down; one that btw did not put
    there is left alone, and said with the remedy. One that it did put there is moved."""
    node, resource = net["a"], vip(V4)
    node.ip("address", "add", "10.77.0.100/32", "dev", "eth0")
    assert status(node, resource) == "degraded"
    remedy = "ip address del 10.77.0.100/32 dev eth0"
    assert remedy in start(node, resource).error
    outcome = stop(node, resource)
    assert remedy in outcome.error and outcome.status == "degraded"
    assert has(node, "10.77.0.100/32")
    node.ip("address", "del", "10.77.0.100/32", "dev", "eth0")
    good(start(node, vip("10.77.0.100/32")), "up")
    assert status(node, resource) == "degraded"
    good(start(node, resource), "up")
    assert has(node, V4) and not has(node, "10.77.0.100/32")


@pytest.mark.parametrize("text", [V4, V6])
def test_held_by_a_stranger(net: Lan, text: str) -> None:
    """Refused with the MAC address that answered; nothing is left; the stranger keeps it."""
    net["b"].ip("address", "add", text, "dev", "eth0", *(["nodad"] if text == V6 else []))
    for more in ({}, {"on_conflict": "take"}):
        outcome = start(net["a"], vip(text, probe=0.5, **more), holders={"c": ["02:00:00:00:00:0c"]})
        assert net["b"].mac in outcome.error and "no node that has held test" in outcome.error
        assert outcome.status == "down" and not has(net["a"], text)
    assert net["a"].processes() == []


@pytest.mark.parametrize("text", [V4, V6])
def test_held_by_a_former_holder(net: Lan, text: str) -> None:
    """A node that the lock record knows is named; it is refused, or with on_conflict = take overruled."""
    net["b"].ip("address", "add", text, "dev", "eth0", *(["nodad"] if text == V6 else []))
    holders = {"a": ["02:00:00:00:00:0a"], "b": ["02:00:00:00:00:0b", net["b"].mac]}
    refused = start(net["a"], vip(text, probe=0.5), holders=holders)
    assert "this is b, which should have stopped" in refused.error and refused.status == "down"
    taken = good(start(net["a"], vip(text, probe=0.5, on_conflict="take"), holders=holders), "up")
    assert any("taken from it" in line for line in taken.lines)


def test_without_probe(net: Lan) -> None:
    """probe = 0 asks nobody."""
    net["b"].ip("address", "add", V4, "dev", "eth0")
    good(start(net["a"], vip(V4, probe=0)), "up")


def test_kernel_detection(net: Lan) -> None:
    """dad = kernel: waits for the end of `tentative`; a duplicate is removed again and the start fails."""
    resource = vip(V6, dad="kernel", probe=0)
    started = good(start(net["a"], resource), "up")
    assert "tentative" not in net["a"].run("ip", "address", "show", "to", "fd77::100")
    outcome = start(net["b"], resource)
    assert "dadfailed" in outcome.error
    assert outcome.status == "down" and not has(net["b"], V6)
    good(stop(net["a"], resource, started.state), "down")


def test_too_short_for_the_kernel(net: Lan) -> None:
    """A start that has no time left removes what is still tentative, and says so."""
    outcome = net["a"].call(perform, Verb.START, vip(V6, dad="kernel", probe=0), {}, 0.2)
    assert "still looked for duplicates" in outcome.error and outcome.status == "down"


def test_dadfailed_from_before(net: Lan) -> None:
    """An address that the kernel gave up as a duplicate is not up; a start begins anew."""
    net["b"].ip("address", "add", V6, "dev", "eth0", "nodad")
    net["a"].ip("address", "add", V6, "dev", "eth0")
    net["a"].call(until, "dadfailed")
    assert status(net["a"], vip(V6)) == "degraded"
    net["b"].ip("address", "del", V6, "dev", "eth0")
    good(start(net["a"], vip(V6)), "up")
    assert "dadfailed" not in net["a"].addresses()


def until(word: str) -> None:
    end = time.monotonic() + GENEROUS
    while word not in subprocess.run(["ip", "address"], capture_output=True, text=True, check=True).stdout:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_no_carrier(net: Lan) -> None:
    """Start and heal refuse an interface that is down, or whose other end is; status says degraded as long as nothing
    is watched, for the address is there."""
    node, resource = net["a"], vip(V4, interface="eth0")
    started = good(start(node, resource), "up")
    net["switch"].ip("link", "set", "to-a", "down")
    end = time.monotonic() + GENEROUS
    while (seen := status(node, resource, started.state)) == "up":  # the kernel tells the other end in its own time
        assert time.monotonic() < end
    assert seen == "degraded"
    good(stop(node, resource, started.state), "down")
    assert "eth0 has no carrier" in start(node, resource).error
    assert "eth0 has no carrier" in heal(node, resource, started.state).error
    net["switch"].ip("link", "set", "to-a", "up")
    node.ip("link", "set", "eth0", "down")
    assert "eth0 has no carrier" in start(node, resource).error


@pytest.mark.parametrize("more", [{"interface": "eth0"}, {}])
def test_interface_gone(net: Lan, more: dict[str, str]) -> None:
    """Without its interface an address is down, stop is a success, start a failure that names what there is."""
    node, resource = net["a"], vip(V4, **more)
    started = good(start(node, resource), "up")
    node.ip("link", "del", "eth0")
    assert status(node, resource, started.state) == "down"
    good(stop(node, resource, started.state), "down")
    assert node.processes() == []
    assert "there are: " in start(node, resource).error
    plug(net, "a")
    address(node, 1)
    good(start(node, resource), "up")


def test_heal(net: Lan) -> None:
    """Put back as it was; where nothing is missing nothing is done; the sixth time within a minute is a failure, with
    the count."""
    node, resource = net["a"], vip(V4)
    state = good(start(node, resource), "up").state
    assert heal(node, resource, state).lines == []
    for number in range(1, 6):
        node.ip("address", "del", V4, "dev", "eth0")
        assert status(node, resource, state) == "down"
        outcome = good(heal(node, resource, state), "up")
        assert f"put back, {number} of 5" in outcome.lines[0]
        state = outcome.state
        assert len(node.processes()) == 1
    node.ip("address", "del", V4, "dev", "eth0")
    outcome = heal(node, resource, state)
    assert "deleted 6 times within a minute, heals = 5" in outcome.error
    assert outcome.status == "down"


def test_heal_on_another_interface(net: Lan) -> None:
    """With `network` a deleted interface is replaced by another one of that network."""
    node = net["a"]
    second = ["type", "veth", "peer", "name", "eth1", "netns", node.name]
    net["switch"].ip("link", "add", "to-a1", *second)
    net["switch"].ip("link", "set", "to-a1", "master", "br0", "up")
    node.ip("link", "set", "eth1", "up")
    node.ip("address", "add", "10.77.0.3/24", "dev", "eth1")
    resource = vip(V4, network="10.77.0.0/24")
    state = good(start(node, resource), "up").state
    assert state["interface"] == "eth0"
    node.ip("link", "del", "eth0")
    assert status(node, resource, state) == "down"
    healed = good(heal(node, resource, state), "up")
    assert healed.state["interface"] == "eth1"
    (herald,) = node.processes()
    assert herald == healed.state["herald"]["pid"]


@pytest.mark.parametrize(
    ("text", "route"), [(V4, "203.0.113.0/24 via 10.77.0.2"), (V4, "203.0.113.0/24"), (V6, "2001:db8::/32 via fd77::2")]
)
def test_routes(net: Lan, text: str, route: str) -> None:
    """Routes are there while the address is, from it; stop removes them, also without state; both may be repeated."""
    node, resource = net["a"], vip(text, routes=(route,))
    family = "-6" if text == V6 else "-4"
    network = route.split()[0]
    state = good(start(node, resource), "up").state
    good(start(node, resource, state), "up")
    (line,) = [each for each in node.ip(family, "route").splitlines() if each.startswith(network)]
    assert f"src {text.split('/')[0]}" in line
    good(stop(node, resource), "down")
    assert network not in node.ip(family, "route")
    good(stop(node, resource), "down")


def test_refresh_is_off(net: Lan) -> None:
    """Nobody stays behind then."""
    resource = vip(V4, refresh=0)
    state = good(start(net["a"], resource), "up").state
    assert net["a"].processes() == []
    good(stop(net["a"], resource, state), "down")


def test_state_of_another_boot(net: Lan) -> None:
    """What was remembered before a reboot, such as the pid of what is somebody else's now, is not believed."""
    with subprocess.Popen(["sleep", "1000"]) as innocent:
        try:
            herald = {"name": "x", "pid": innocent.pid, "start_time": proc_stat(innocent.pid).start_time}  # type: ignore[union-attr]
            old = {"boot": "before", "since": 1e9, "heals": [1e9] * 9, "interface": "eth9", "herald": herald}
            good(stop(net["a"], vip(V4), old), "down")
            state = good(start(net["a"], vip(V4), old), "up").state
            assert "heals" not in state and state["interface"] == "eth0" and state["since"] < 1e9
            net["a"].ip("address", "del", V4, "dev", "eth0")
            healed = good(heal(net["a"], vip(V4), old), "up")
            assert "1 of 5" in healed.lines[0]
            assert innocent.poll() is None
        finally:
            innocent.kill()


def both_ways(name: str) -> tuple[object, object]:
    """One link by its name, and the same in the list of all."""
    kernel = Kernel()
    return kernel.named(name), {index: link for index, link in kernel.links().items() if link.name == name}


def test_one_link_is_as_in_the_list(net: Lan) -> None:
    """By the name that the kernel shows, whatever state it is in; no other name that the kernel would understand."""
    node = net["a"]
    node.ip("link", "property", "add", "dev", "eth0", "altname", "another")
    for change in ("up", "down"):
        node.ip("link", "set", "eth0", change)
        for name in ("eth0", "lo"):
            one, listed = node.call(both_ways, name)
            assert one == listed and one
    for name in ("another", "eth0:btw", "eth9", "eth0" + 20 * "0"):
        assert node.call(both_ways, name) == ({}, {})


def found_both_ways(texts: list[str]) -> tuple[list[list[Found]], list[list[Found]]]:
    """Addresses found one by one, and the same in the list of all."""
    kernel = Kernel()
    ips = [ip_address(text) for text in texts]
    return [kernel.find(ip) for ip in ips], [[each for each in kernel.addresses() if each.ip == ip] for ip in ips]


@pytest.mark.parametrize("network", ["10.78.{}.{}", "fd78::{:x}:{:x}"])
def test_one_address_is_as_in_the_list(net: Lan, network: str, tmp_path: Path) -> None:
    """Among many more than fit into one answer of the kernel; on two interfaces; ours, and what is not there."""
    node, width = net["a"], 128 if ":" in network else 32
    options = " nodad" if ":" in network else ""
    many = [network.format(*divmod(number, 250)) for number in range(1001, 2001)]
    lines = "".join(f"address add {each}/{width} dev eth0{options}\n" for each in many)
    (tmp_path / "lines").write_text(f"{lines}address add {many[500]}/{width} dev lo{options}\n")
    node.ip("-batch", str(tmp_path / "lines"))
    texts = [many[0], many[500], many[-1], network.format(99, 9)]
    one, listed = node.call(found_both_ways, texts)
    assert one == listed and [len(each) for each in one] == [1, 2, 1, 0]
    resource = vip(V6 if ":" in network else V4)
    good(start(node, resource), "up")
    one, listed = node.call(found_both_ways, [str(resource.address.ip)])
    assert one == listed and [each.ours for each in one[0]] == [True]


def test_no_ethernet(net: Lan) -> None:
    """Where there is no way to ask or tell others, nothing is started."""
    net["a"].ip("tuntap", "add", "tun0", "mode", "tun")
    assert "tun0 is no Ethernet" in start(net["a"], vip(V4, interface="tun0")).error
    assert "lo is no Ethernet" in start(net["a"], vip(V4, interface="lo")).error


def test_only_root(net: Lan) -> None:
    """Without privileges the message says so."""
    outcome = net["a"].call(as_nobody, vip(V4))
    assert "must run as root" in outcome.error


def as_nobody(resource: Any) -> Outcome:
    import btw_vip.looking  # noqa: F401 - nobody may not be able to read the interpreter's library

    os.setresuid(65534, 65534, 65534)
    return perform(Verb.START, resource, {})


def test_gateway(net: Lan) -> None:
    """The package is degraded while its gateway does not answer."""
    node = net["a"]
    there, nobody = vip(V4, gateway="10.77.0.2"), vip(V4, gateway="10.77.0.77")
    state = good(start(node, there), "up").state
    answer = node.call(looked, nobody, state)
    assert answer.status == "degraded" and "gateway 10.77.0.77 does not answer on eth0" in answer.lines[0]
    assert status(node, vip(V4, gateway="fd77::2"), state) == "up"
