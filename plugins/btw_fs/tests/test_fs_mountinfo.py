"""The parser of mountinfo and the walk through its mounts; and the reading of one that never stands still."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btw_fs import kernel
from btw_fs.mountinfo import Mount, Table, parse, within

LINE = rb"36 35 98:0 /mnt1 /mnt/a\040b\011c\012d\043e\134f rw master:1 shared:7 - ext3 /dev/root\040x rw,errors=ro"


def mounts(*places: tuple[int, int, str]) -> Table:
    """(id, parent, point)."""
    none: frozenset[str] = frozenset()
    return Table(Mount(id, parent, (0, id), "/", point, none, "t", f"s{id}", none) for id, parent, point in places)


def test_a_line_with_everything() -> None:
    """Escapes, optional fields and both sets of options are understood (proc(5))."""
    (found,) = parse(LINE + b"\n")
    assert found == Mount(
        id=36,
        parent=35,
        number=(98, 0),
        root="/mnt1",
        point="/mnt/a b\tc\nd#e\\f",
        options=frozenset({"rw"}),
        fstype="ext3",
        source="/dev/root x",
        super_options=frozenset({"rw", "errors=ro"}),
    )


def test_an_empty_source_and_strange_bytes() -> None:
    """A source may be empty, and names need not be UTF-8."""
    (found,) = parse(b"1 2 0:5 / /a\xff rw - tmpfs  rw\n")
    assert (found.source, os.fsencode(found.point)) == ("", b"/a\xff")


@pytest.mark.parametrize("line", [b"1 2 3", b"36 35 98:0 / /mnt rw ext3 /dev/x rw", b"x 35 98:0 / / rw - a b c"])
def test_half_a_line_is_refused(line: bytes) -> None:
    """A torn line is an error, never a mount."""
    with pytest.raises(ValueError):
        parse(line)


NAMES = st.binary(min_size=1, max_size=12).filter(lambda each: not set(each) & {0, 0x2F})


@given(NAMES, NAMES)
def test_every_name_survives(point: bytes, source: bytes) -> None:
    """Whatever the kernel escapes is read back, byte for byte."""

    def mangled(name: bytes) -> bytes:
        return b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)

    (found,) = parse(b"1 2 7:0 / /%s rw - ext4 %s rw\n" % (mangled(point), mangled(source)))
    assert (os.fsencode(found.point), os.fsencode(found.source)) == (b"/" + point, source)


def test_no_prefix_of_a_name() -> None:
    """/srv is not over /srv2."""
    assert within("/srv/a", "/srv") and within("/srv", "/srv") and within("/srv", "/")
    assert not within("/srv2", "/srv")


def test_the_walk() -> None:
    """A path leads to the innermost mount; the upper one of two on one directory; what was mounted before something
    covered its parent is not seen."""
    table = mounts((1, 0, "/"), (2, 1, "/srv"), (3, 2, "/srv/www"), (4, 1, "/srv2"))
    assert [table.holding(path).id for path in ("/", "/srv", "/srv/www/x", "/srv2/www", "/srv/w")] == [1, 2, 3, 4, 2]  # type: ignore[union-attr]
    assert table.at("/srv/www/x") is None
    over = mounts((1, 0, "/"), (2, 1, "/srv"), (3, 2, "/srv/www"), (5, 3, "/srv/www"), (6, 5, "/srv/www/in"))
    assert over.at("/srv/www").id == 5  # type: ignore[union-attr]
    assert over.cover(over.get(3)).id == 5  # type: ignore[arg-type, union-attr]
    assert [each.id for each in over.below(over.get(2))] == [6, 5, 3]  # type: ignore[arg-type]
    hidden = mounts((1, 0, "/"), (2, 1, "/srv"), (3, 2, "/srv/www"), (7, 2, "/srv"))
    assert hidden.at("/srv/www") is None
    assert hidden.cover(hidden.get(3)).id == 7  # type: ignore[arg-type, union-attr]


def test_this_computer() -> None:
    """The real thing agrees with statx: a path's mount is the one that the kernel says."""
    table = kernel.table()
    for path in ("/", "/proc", "/sys", "/dev", "/etc"):
        found = table.holding(str(Path(path).resolve()))
        assert found is not None and found.id == kernel.where(path).mount
