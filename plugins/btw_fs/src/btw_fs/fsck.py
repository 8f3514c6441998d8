"""Which check a file system gets before it is mounted, and what its exit code means (fsck(8)). Pure."""

from __future__ import annotations

from typing import NamedTuple

#: `auto`: types that want it, with what it costs when nothing is wrong: ext* replay the journal and read the error mark
#: (10 ms); FAT has no journal. xfs, btrfs, f2fs and the like repair themselves when they are mounted.
_AUTO: dict[str, tuple[str, ...]] = {
    "ext2": ("e2fsck", "-p"),
    "ext3": ("e2fsck", "-p"),
    "ext4": ("e2fsck", "-p"),
    "vfat": ("fsck.fat", "-a"),
    "msdos": ("fsck.fat", "-a"),
    "exfat": ("fsck.exfat", "-p"),
}
_ALWAYS = _AUTO | {
    "ext2": ("e2fsck", "-p", "-f"),
    "ext3": ("e2fsck", "-p", "-f"),
    "ext4": ("e2fsck", "-p", "-f"),
    "xfs": ("xfs_repair", "-e"),
    "btrfs": ("btrfs", "check", "--readonly"),
    "f2fs": ("fsck.f2fs", "-f", "-a"),
}
#: Bits of the exit code (fsck(8), "EXIT STATUS").
_BITS = {
    1: "errors were corrected",
    2: "errors were corrected, a mounted one would need a reboot",
    4: "errors are left",
    8: "it could not do its work",
    16: "wrong usage",
    32: "it was cancelled",
    128: "a shared library failed",
}


class Verdict(NamedTuple):
    """`ok`: it may be mounted. `text` is for the journal or the error, "" for nothing to tell."""

    ok: bool
    text: str


def command(mode: str, fstype: str, device: str) -> list[str]:
    """Words to run, [] for none."""
    words: tuple[str, ...] = ()
    if mode != "never":
        words = (_AUTO if mode == "auto" else _ALWAYS).get(fstype, ())
    return [*words, device] if words else []


def verdict(words: list[str], code: int) -> Verdict:
    """What the end of a check means."""
    program, shown = words[0], " ".join(words)
    if code < 0:
        return Verdict(False, f"{shown}: killed by signal {-code}; start again, it begins anew")
    if program == "xfs_repair":
        return {
            0: Verdict(True, ""),
            2: Verdict(True, f"{shown}: its log is not replayed yet, which mounting does: not checked"),
            4: Verdict(True, f"{shown}: errors were corrected"),
        }.get(code, Verdict(False, f"{shown}: exit code {code}: it could not do its work; try it by hand"))
    if program == "btrfs":
        by_hand = f"by hand, unmounted on all nodes: btrfs check {words[-1]}"
        return Verdict(code == 0, "" if code == 0 else f"{shown}: exit code {code}: errors were found; {by_hand}")
    said = "; ".join(text for bit, text in _BITS.items() if code & bit)
    if code & ~3 == 0:
        return Verdict(True, f"{shown}: {said}" if code else "")
    by_hand = " ".join([program, words[-1]])
    return Verdict(False, f"{shown}: exit code {code}: {said}; by hand, unmounted on all nodes: {by_hand}")
