"""The README says what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from btw_core.parameters import parameters
from btw_lock_etcd.address import parse
from btw_lock_etcd.settings import Settings, decode

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_is_a_configuration() -> None:
    """The block of TOML is a lock and settings that are understood."""
    (block,) = re.findall(r"^```toml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    example = tomllib.loads(block)
    assert len(parse(example["lock"].removeprefix("etcd:")).places) == 3
    assert decode(example["plugins"]["etcd"]).tls


def test_the_settings_are_all_there() -> None:
    """The table names every setting, in order, with the words of the code."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE)
    assert [name for name, _ in rows] == [each.name for each in parameters(Settings)]
    for (_, words), each in zip(rows, parameters(Settings), strict=True):
        assert words.replace("`", "").startswith(each.meaning), (words, each.meaning)
