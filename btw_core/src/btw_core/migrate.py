"""`btw migrate`: the configuration section of a back-to-work package script as a package file. The script is read and
never run: what only a shell could work out is named, with its line, as is everything that has no counterpart."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator

import msgspec

from .parameters import literal

GENERIC = ("pace", "timeout", "start_timeout", "stop_timeout")
_BEGIN, _END = "start of configuration section", "end of configuration section"
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_NUMBERED = re.compile(r"(vip|fs|pr)_([a-z_]+?)(?:_?(\d+))?")
#: Variables of modules that have no plugin here, by what their names begin with.
_LACKING = {
    "drbd": "there is no plugin for DRBD; write `exec` resources with drbdadm, or a plugin (btw plugin new drbd)",
    "nfs": "there is no plugin for NFS exports; write an `exec` resource with exportfs, or a plugin",
    "ilo": "there is no power fencing; see `btw check` for what guards the package, and btw-scsi-pr",
}


class Left(msgspec.Struct, frozen=True):
    """What could not be translated."""

    line: int
    what: str
    why: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}: {self.why}"


class Migrated(msgspec.Struct, frozen=True):
    text: str  # of the package file
    left: tuple[Left, ...]
    empty: bool  # nothing was found to translate


def migrate(name: str, script: str) -> Migrated:
    """The package file `name`, with what was left as comments at its end. Pure."""
    found: dict[str, tuple[int, str]] = {}
    left: list[Left] = []
    for line, variable, value in _assignments(script):
        if value is None:
            left.append(Left(line, variable, "only a shell can work out its value; write the value itself"))
        else:
            found[variable] = (line, value)
    empty = not found and not left
    package = _package(found, left)
    resources = [*_disks(found, left), *_file_systems(found, left), *_addresses(found, left)]
    for variable, (line, value) in found.items():
        prefix = variable.partition("_")[0].rstrip("0123456789")
        why = _LACKING.get(prefix, "means nothing to btw")
        if variable.endswith("_priority"):
            why = "a node's priority for the lock; btw tries nodes in the order in which they ask"
        left.append(Left(line, f"{variable}={value}", why))
    left += _code(script)
    left.sort(key=lambda each: each.line)
    head = f"# Package `{name}`, from a back-to-work package script. Check it: btw check {name}"
    blocks = [head, package, *resources]
    if left:
        blocks.append("\n".join(["# Not translated:", *(f"# {each}" for each in left)]))
    return Migrated("\n\n".join(blocks) + "\n", tuple(left), empty)


# ---- reading
def _assignments(script: str) -> Iterator[tuple[int, str, str | None]]:
    """(line, variable, value) in the configuration section, or before the first `case` without one; None: not plain."""
    inside = _BEGIN not in script
    for number, line in enumerate(script.splitlines(), 1):
        text = line.strip()
        if text.startswith("#"):
            inside = (inside or _BEGIN in text) and _END not in text
            continue
        if text.startswith("case "):
            return
        for part in _parts(text) if inside else ():
            match = _ASSIGNMENT.fullmatch(part)
            if match is not None:
                yield number, match[1], _plain(match[2])
            elif part:
                yield number, part, None


def _parts(line: str) -> list[str]:
    """The commands of a line, as written: split at each `;` outside quotes, without a comment."""
    parts, quote = [""], ""
    for position, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and (position == 0 or line[position - 1] in " \t;"):
            break
        elif char == ";":
            parts.append("")
            continue
        parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def _plain(value: str) -> str | None:
    """The value of one word without expansions, unquoted."""
    bare = re.sub(r"'[^']*'", "", value)
    if "$" in bare or "`" in bare:
        return None
    try:
        words = shlex.split(value)
    except ValueError:
        return None
    return " ".join(words) if len(words) < 2 else None


def _code(script: str) -> Iterator[Left]:
    """What `start` does besides modules: the programs, which only a person knows how to stop."""
    inside = False
    for number, line in enumerate(script.splitlines(), 1):
        text = line.strip()
        if re.fullmatch(r"\(?start\)", text):
            inside = True
        elif text.startswith(";;"):
            inside = False
        elif inside and text and not re.match(r"#|echo\b|\. +\S*modules/|exit\b", text):
            why = "make it a `service` (a program that stays in the foreground) or an `exec` resource"
            yield Left(number, f"start does `{text}`", why)


# ---- translating; what was used is taken out of `found`
def _package(found: dict[str, tuple[int, str]], left: list[Left]) -> str:
    rows = ["[package]"]
    for variable in GENERIC:
        line, value = found.pop(variable, (0, ""))
        if re.fullmatch(r"\d+(\.\d+)?", value):
            rows.append(f"{variable} = {value}")
        elif line:
            left.append(Left(line, f"{variable}={value}", "is no number of seconds"))
    return "\n".join(rows)


def _groups(found: dict[str, tuple[int, str]], module: str) -> Iterator[tuple[str, dict[str, tuple[int, str]]]]:
    """(number, {what: (line, value)}) of `vip_ip_0`, `vip_prefix_0` ... in the order of the numbers."""
    groups: dict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
    for variable in list(found):
        match = _NUMBERED.fullmatch(variable)
        if match is not None and match[1] == module:
            groups[match[3] or ""][match[2]] = found.pop(variable)
    return iter(sorted(groups.items(), key=lambda each: int(each[0] or -1)))


def _disks(found: dict[str, tuple[int, str]], left: list[Left]) -> Iterator[str]:
    disks: list[str] = []
    for number, group in _groups(found, "pr"):
        disks += group.pop("disk", (0, ""))[1].split()
        left += _unused("pr", number, group)
    if disks:
        names = [each for each in disks if not each.startswith("/dev/disk/")]
        remedy = "# names below /dev/disk/by-id/ outlive a reboot, these do not:" if names else ""
        yield table(remedy, type="scsi_pr", devices=disks)


def _file_systems(found: dict[str, tuple[int, str]], left: list[Left]) -> Iterator[str]:
    for number, group in _groups(found, "fs"):
        line, device = group.pop("dev", (0, ""))
        below, directory = group.pop("dir", (0, ""))
        said: dict[str, object] = {"name": f"fs{number}" if number else "", "device": device, "directory": directory}
        if "opt" in group:
            said |= _options(*group.pop("opt"), left=left)
        if "umount_wait" in group:
            at, value = group.pop("umount_wait")
            why = "btw-fs tries to unmount for as long as stop_timeout allows, and then kills the users"
            left.append(Left(at, f"fs_umount_wait={value}", why))
        left += _unused("fs", number, group)
        if device and directory:
            yield table("", type="fs", **said)
        else:
            left.append(Left(line or below, f"file system {number}", "needs both fs_dev and fs_dir"))


def _options(line: int, value: str, *, left: list[Left]) -> dict[str, object]:
    """`-t ext4 -o noatime`, `noatime,nodev`."""
    said: dict[str, object] = {}
    words = value.split()
    while words:
        word = words.pop(0)
        if word == "-t" and words:
            said["fstype"] = words.pop(0)
        elif word.startswith("-o") and (word[2:] or words):
            said["options"] = word[2:] or words.pop(0)
        elif not word.startswith("-"):
            said["options"] = word
        else:
            left.append(Left(line, f"fs_opt: {word}", "is no option of mount that btw-fs takes"))
    return said


def _addresses(found: dict[str, tuple[int, str]], left: list[Left]) -> Iterator[str]:
    for number, group in _groups(found, "vip"):
        line, ip = group.pop("ip", (0, ""))
        beside, prefix = group.pop("prefix", (0, ""))
        _, netdev = group.pop("netdev", (0, ""))
        _, network = group.pop("network", (0, ""))
        left += _unused("vip", number, group)
        if not (ip and prefix):
            left.append(Left(line or beside, f"address {number}", "needs both vip_ip and vip_prefix"))
            continue
        if network and "/" not in network:
            network = f"{network}/{prefix}"
        where: dict[str, object] = {"interface": netdev} if netdev else {"network": network}
        yield table("", type="vip", name=f"vip{number}" if number else "", address=f"{ip}/{prefix}", **where)


def _unused(module: str, number: str, group: dict[str, tuple[int, str]]) -> Iterator[Left]:
    for what, (line, value) in group.items():
        name = "_".join(filter(None, [module, what, number]))
        yield Left(line, f"{name}={value}", f"the module {module} had it, the plugin has no such parameter")


def table(remark: str, **said: object) -> str:
    """A resource in TOML, without what is empty."""
    rows = [f"{key} = {literal(value)}" for key, value in said.items() if value not in ("", None)]
    return "\n".join([*filter(None, [remark]), "[[resource]]", *rows])
