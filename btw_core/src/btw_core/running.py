"""`btw new --from-running`: a package file from what is up on this node. What belongs to the node itself, and not to a
service that could move, is written as a comment."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from .migrate import table
from .mounts import Mount, mounts
from .resource import ConfigError, Problem

#: Mounts of the node itself: these directories, and everything below the last ones. All others are a service's.
_SYSTEM = re.compile(r"/(?:(?:home|tmp|usr|var|var/(?:cache|log|tmp))?$|(?:boot|dev|etc|proc|run|sys)(?:/|$))")
_NETWORK_TYPES = ("nfs", "nfs4", "cifs")
#: Units that a node has whatever it serves.
_UNITS = re.compile(
    r"(systemd-|user@|getty|serial-getty|dbus|ssh|cron|rsyslog|chrony|ntp|polkit|udisks|NetworkManager|networking"
    r"|multipath|iscsid|lvm|mdmonitor|wpa_supplicant|unattended-upgrades|btw|accounts-daemon|qemu-guest|snapd|auditd)"
)
_LIMIT = 10.0
Run = Callable[[Sequence[str]], str]
Block = tuple[str, str]  # a resource in TOML, and why it is the node's own ("": it may move)


def package_file(name: str, run: Run | None = None, there: Iterable[Mount] | None = None) -> str:
    """The text of packages/NAME.toml. Blocks on `ip` and `systemctl`, for some seconds at most. Raises ConfigError when
    nothing is found that could move."""
    ask, there = run or _run, mounts() if there is None else there
    found = [*_mounts(there), *_addresses(ask(["ip", "-json", "address"])), *_units(ask(_LIST_UNITS))]
    if all(own for _, own in found):
        text = "no address, mount or unit is up here that could be a package's"
        remedy = "start by hand what the package shall have, or use btw new -m TYPE"
        raise ConfigError([Problem(text=text, remedy=remedy)])
    head = [
        f"# Package `{name}`, from what was up on this node. Remove what is not the package's, then: btw check {name}\n"
        "# What seems to be the node's own is commented out.",
        "[package]",
    ]
    return "\n\n".join([*head, *(_commented(*each) if each[1] else each[0] for each in found)]) + "\n"


_LIST_UNITS = ["systemctl", "list-units", "--type=service", "--state=running", "--plain", "--no-legend"]


def _run(command: Sequence[str]) -> str:
    """Its output; "" where there is no such program, or it fails (no systemd)."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _mounts(there: Iterable[Mount]) -> Iterator[Block]:
    """Local disks and network file systems, in the order in which they were mounted."""
    seen: set[str] = set()
    for device, root, directory, options, fstype, source in there:
        if directory != directory.encode(errors="replace").decode():
            continue  # TOML has no words for a name that is no UTF-8
        if not (source.startswith("/dev/") or fstype in _NETWORK_TYPES) or root != "/" or device in seen:
            continue
        seen.add(device)
        said = {"device": _by_uuid(source), "directory": directory, "fstype": fstype}
        kept = [each for each in options.split(",") if each not in ("rw", "relatime")]
        block = table("", type="fs", name=_name(directory) or "root", **said, options=",".join(kept))
        yield block, "the node's own" if _SYSTEM.match(directory) else ""


def _addresses(said: str) -> Iterator[Block]:
    """Those that are not the first of their interface and family: so an address is added to a node (ip-address(8))."""
    for interface in json.loads(said or "[]"):
        name, first = interface["ifname"], set()
        for address in interface.get("addr_info", []):
            if address.get("scope") != "global" or name == "lo" or address.get("dynamic") or address.get("temporary"):
                continue
            local = f"{address['local']}/{address['prefixlen']}"
            own = address["family"] not in first and not address.get("secondary")
            first.add(address["family"])
            block = table("", type="vip", name=_name(address["local"]), address=local, interface=name)
            yield block, f"the first of {name}" * own


def _units(said: str) -> Iterator[Block]:
    for line in said.splitlines():
        unit = line.split()[0] if line.split() else ""
        if not unit.endswith(".service"):
            continue
        commands = {verb: ["systemctl", verb, unit] for verb in ("start", "stop")}
        commands["status"] = ["systemctl", "--quiet", "is-active", unit]
        name = _name(unit.removesuffix(".service"))
        block = table(f"# then: systemctl disable {unit}", type="exec", name=name, **commands)
        yield block, "every node's" if _UNITS.match(unit) else ""


def _name(text: str) -> str:
    """As the names of resources are (settings.NAME_RULE)."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:39]


def _commented(block: str, why: str) -> str:
    return "\n".join([f"# {why}:", *(f"#{line}" for line in block.splitlines() if not line.startswith("#"))])


def _by_uuid(device: str) -> str:
    """UUID=... where udev has made the link; names such as /dev/sdb may be another disk's after a reboot."""
    for link in Path("/dev/disk/by-uuid").glob("*"):
        if link.resolve() == Path(device).resolve():
            return f"UUID={link.name}"
    return device
