"""Reservation keys of btw: which node registered, under which term. Pure.

    63      48 47      32 31                    0
    | cluster  |  node   |         term         |

The first two parts are hashes of names, the first hex digit is never 0. The term alone makes keys of one package
differ: it is the number of the activation, so that an earlier life of the same node has another key and can be shut
out too.
Keys are numbers and are compared as such; text is made of them for people only.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

#: Terms that have room in a key: one more each second for 136 years.
LAST_TERM = 2**32 - 1


class Key(NamedTuple):
    """The parts of a key of btw."""

    cluster: int
    node: int
    term: int

    def __int__(self) -> int:
        return self.cluster << 48 | self.node << 32 | self.term


def key(cluster: str, node: str, term: int) -> Key:
    """Raises ValueError when the term has no room."""
    if not 0 < term <= LAST_TERM:
        raise ValueError(f"term {term} has no room in a reservation key, whose last is {LAST_TERM}")
    return Key(0x1000 + _hash(cluster) % 0xF000, _hash(node), term)


def parts(number: int) -> Key:
    """Of any key, also of one that btw did not make."""
    return Key(number >> 48 & 0xFFFF, number >> 32 & 0xFFFF, number & LAST_TERM)


def name(node: int, known: Iterable[str]) -> str:
    """The node among those known by name; where it is none of them, what its key says of it."""
    return next((each for each in sorted(known) if _hash(each) == node), f"of number {node:04x}")


def shown(number: int) -> str:
    """As sg_persist shows it."""
    return f"0x{number:x}"


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=2).digest(), "big")
