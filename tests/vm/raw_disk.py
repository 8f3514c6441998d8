"""Blocks that say who wrote them, on a disk without a file system. Standard library only: it runs in machines.

    raw_disk.py write DEVICE NODE FOUND     first reads everything and says in the file FOUND what is there, then writes
                                            blocks of NODE (1, 2...) for as long as it runs, whatever errors it meets
    raw_disk.py read FILE                   prints what is there

Each node has an area of its own. Half of its blocks are written past the cache (O_DIRECT), half are left in it, to be
written whenever the kernel likes. A block has its node, term, number and checksum. Every write changes its area, so an
area that is the same as before was not written to in between.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import sys
import time
from hashlib import blake2b
from pathlib import Path

BLOCK, HALF, NODES = 4096, 32, 3
AREA = 2 * HALF * BLOCK
#: Seconds between two writes past the cache.
EVERY = 0.02
_STAMP = struct.Struct("<4sIIQ")
_SUM = 16


def block(node: int, term: int, number: int) -> bytes:
    stamp = _STAMP.pack(b"btw!", node, term, number)
    text = (stamp * (BLOCK // len(stamp)))[: BLOCK - _SUM].ljust(BLOCK - _SUM, b".")
    return text + blake2b(text, digest_size=_SUM).digest()


def described(data: bytes) -> list[dict[str, object]]:
    """Of each area its checksum, the last block's term and number, and which blocks are not whole or not its own."""
    found = []
    for node in range(1, NODES + 1):
        area = data[(node - 1) * AREA : node * AREA]
        last, broken = (0, 0), []
        for index in range(2 * HALF):
            text = area[index * BLOCK : (index + 1) * BLOCK]
            if text.strip(b"\0"):
                _, whose, term, number = _STAMP.unpack_from(text)
                if text != block(whose, term, number) or whose != node:
                    broken.append(index)
                last = max(last, (term, number))
        digest = blake2b(area, digest_size=8).hexdigest()
        found.append({"sum": digest, "term": last[0], "number": last[1], "broken": broken})
    return found


def direct(descriptor: int) -> bytes:
    room = mmap.mmap(-1, NODES * AREA)  # O_DIRECT wants an aligned buffer
    os.preadv(descriptor, [room], 0)
    return bytes(room)


def write(device: str, node: int, found: Path) -> None:
    term = int(os.environ["BTW_TERM"])
    past, through = os.open(device, os.O_RDWR | os.O_DIRECT), os.open(device, os.O_RDWR)
    disk, cached = described(direct(past)), described(os.pread(through, NODES * AREA, 0))
    text = json.dumps({"term": term, "disk": disk, "cached": cached})
    found.with_suffix(".new").write_text(text)
    found.with_suffix(".new").rename(found)
    room = mmap.mmap(-1, BLOCK)
    number, start = 0, (node - 1) * AREA
    while True:
        number += 1
        room[:] = block(node, term, number)
        place = start + number % HALF * BLOCK
        with contextlib.suppress(OSError):  # refused: goes on trying, as the worst of programs would
            os.pwrite(past, room, place)
        with contextlib.suppress(OSError):
            os.pwrite(through, room, place + HALF * BLOCK)
        time.sleep(EVERY)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        with open(sys.argv[2], "rb") as stream:
            print(json.dumps(described(stream.read(NODES * AREA))))
