"""What mounts at boot, without btw: /etc/fstab and units of systemd."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Where units are, strongest first (systemd.unit(5)); below generator*/ are those made of fstab.
UNITS = ("etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system")
_ESCAPE = re.compile(r"\\([0-7]{3})")


class AtBoot(NamedTuple):
    """Something that mounts `source` on `directory` at boot."""

    source: str
    directory: str
    where: str  # "/etc/fstab:7" or the unit's file
    remedy: str


def at_boot(root: Path = Path("/")) -> list[AtBoot]:
    """All of them, `noauto` and disabled ones left out. Files that cannot be read count as absent."""
    return [*_fstab(root / "etc/fstab"), *_units(root)]


def _fstab(path: Path) -> Iterator[AtBoot]:
    """fstab(5): spaces and tabs in fields are \\040 and \\011."""
    try:
        lines = path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for number, line in enumerate(lines, 1):
        fields = [_ESCAPE.sub(lambda match: chr(int(match[1], 8)), field) for field in line.split()]
        if len(fields) < 3 or line.lstrip().startswith("#") or fields[2] == "swap":
            continue
        options = fields[3].split(",") if len(fields) > 3 else []
        if "noauto" not in options or "x-systemd.automount" in options:  # systemd.mount(5): mounted when it is used
            yield AtBoot(fields[0], fields[1], f"/etc/fstab:{number}", "remove that line, or add noauto to its options")


def _units(root: Path) -> Iterator[AtBoot]:
    seen: set[str] = set()
    for place in UNITS:
        for path in sorted((root / place).glob("*.mount")) + sorted((root / place).glob("*.automount")):
            if path.name in seen or not path.is_file():
                continue
            seen.add(path.name)
            if _enabled(root, path.name):
                text = path.read_text(errors="surrogateescape")
                mount = path.with_suffix(".mount")
                what = _value(mount.read_text(errors="surrogateescape") if mount.is_file() else text, "What")
                shown = f"/{path.relative_to(root)}"
                yield AtBoot(what, _value(text, "Where"), shown, f"systemctl disable {path.name}")


def _enabled(root: Path, name: str) -> bool:
    return any(
        os.path.lexists(link)
        for place in UNITS
        for kind in ("wants", "requires")
        for link in (root / place).glob(f"*.{kind}/{name}")
    )


def _value(text: str, key: str) -> str:
    found = re.findall(rf"^\s*{key}\s*=\s*(.*?)\s*$", text, re.MULTILINE)
    return found[-1] if found else ""
