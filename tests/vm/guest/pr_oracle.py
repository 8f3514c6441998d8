"""In a machine: random sequences of reservation commands, sent to one disk by btw-scsi-pr and to another by sg_persist.

    python -m vm.guest.pr_oracle SEQUENCES

Each disk has two paths. After each command both disks must have answered alike; in the end sg_persist and btw must read
the same from one disk, and btw the same from both.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from btw_scsi_pr import cdb, sense
from btw_scsi_pr.cdb import OF_ALL, In, Kind, Out, Registration, Reservation
from btw_scsi_pr.sgio import SgIo
from vm.guest.loops import set_up

KEYS = (0x1, 0xA, 0x882AB3CB00000007, 0xFFFFFFFFFFFFFFFF)
OPTIONS = {
    Out.REGISTER: "--register",
    Out.REGISTER_AND_IGNORE: "--register-ignore",
    Out.RESERVE: "--reserve",
    Out.RELEASE: "--release",
    Out.CLEAR: "--clear",
    Out.PREEMPT: "--preempt",
}
TYPES = {
    "Write Exclusive": 1,
    "Exclusive Access": 3,
    "Write Exclusive, registrants only": 5,
    "Exclusive Access, registrants only": 6,
    "Write Exclusive, all registrants": 7,
    "Exclusive Access, all registrants": 8,
}
#: What sg_persist's exit codes mean, as far as they can occur (sg3_utils(8)).
EXITS = {0: "good", 2: "not ready", 5: "illegal", 9: "illegal", 24: "conflict"}
SENSE = {sense.NOT_READY: "not ready", sense.ILLEGAL_REQUEST: "illegal"}

#: In place of a number: the key of this path, the key of the other one, the type of this sequence.
MINE, THEIRS, SAME = -1, -2, -3
steps = st.tuples(
    st.integers(0, 1),
    st.sampled_from((*sorted(OPTIONS), Out.REGISTER_AND_IGNORE, Out.RESERVE, Out.PREEMPT)),
    st.sampled_from((SAME, SAME, SAME, SAME, *sorted(Kind))),
    st.sampled_from((MINE, MINE, MINE, MINE, MINE, MINE, 0, *KEYS)),
    st.sampled_from((THEIRS, THEIRS, MINE, 0, *KEYS)),
)
#: What chance may leave out: both paths register, one reserves, the other preempts it, and it cannot do the same.
CONTEST = [
    (0, Out.REGISTER, SAME, 0, KEYS[0]),
    (1, Out.REGISTER_AND_IGNORE, SAME, 0, KEYS[2]),
    (0, Out.RESERVE, SAME, MINE, 0),
    (1, Out.PREEMPT, SAME, MINE, THEIRS),
    (0, Out.PREEMPT, SAME, KEYS[0], KEYS[2]),
]


class Disk:
    """Two paths."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.paths = [SgIo(Path("/dev", name)) for name in names]

    def reset(self) -> None:
        """Nobody is registered, and nobody has anything to be told."""
        command, listed = cdb.reserve_out(Out.REGISTER_AND_IGNORE, 0, 0, 1)
        self.attentions()
        assert sense.good(self.paths[0].execute(command, listed, 0, 5))
        command, listed = cdb.reserve_out(Out.CLEAR, 0, 1, 0)
        assert sense.good(self.paths[0].execute(command, listed, 0, 5))

    def attentions(self) -> list[int]:
        """How many unit attentions each path had to report."""
        found = []
        for path in self.paths:
            count = 0
            while not sense.good(path.execute(bytes(6), b"", 0, 5)):  # TEST UNIT READY
                count += 1
                assert count < 10, "it is never ready"
            found.append(count)
        return found

    def send(self, way: int, action: Out, kind: int, own: int, other: int) -> str:
        """By btw."""
        command, listed = cdb.reserve_out(action, kind, own, other)
        reply = self.paths[way].execute(command, listed, 0, 5)
        if sense.good(reply):
            return "good"
        decoded = sense.decode(reply.sense)
        return "conflict" if sense.conflict(reply) else SENSE.get(decoded.key if decoded else 0, sense.words(reply))

    def send_by_sg(self, way: int, action: Out, kind: int, own: int, other: int) -> str:
        words = ["--out", OPTIONS[action], f"--prout-type={kind:x}", f"--param-rk={own:x}", f"--param-sark={other:x}"]
        done = self._sg(way, *words)
        return EXITS.get(done.returncode, f"exit {done.returncode}: {done.stdout}{done.stderr}")

    def read(self, way: int) -> tuple[list[int], Reservation | None, list[Registration], int]:
        """By btw."""
        keys, held, full = map(self._ask, (way,) * 3, (In.READ_KEYS, In.READ_RESERVATION, In.READ_FULL_STATUS))
        found = cdb.keys(keys)
        return list(found.keys), cdb.reservation(held), sorted(cdb.full_status(full)), found.generation

    def _ask(self, way: int, action: In) -> bytes:
        reply = self.paths[way].execute(cdb.reserve_in(action), b"", cdb.ROOM, 5)
        assert sense.good(reply), f"{action.name}: {sense.words(reply)}"
        return reply.data

    def read_by_sg(self, way: int) -> tuple[list[int], Reservation | None, list[Registration], int]:
        said = self._in(way, "--read-keys")
        keys = [int(key, 16) for key in re.findall(r"^ +0x([0-9a-f]+)$", said, re.MULTILINE)]
        generation = re.search(r"PR generation=0x([0-9a-f]+)", said)
        assert generation is not None, said
        text = self._in(way, "--read-reservation")
        held = re.search(r"Key=0x([0-9a-f]+)\s+scope: LU_SCOPE,\s+type: (.+)", text)
        assert held is not None or "there is NO reservation held" in text, text
        reservation = Reservation(int(held[1], 16), TYPES[held[2].strip()]) if held else None
        full = []
        for part in re.split(r"^ *Key=", self._in(way, "--read-full-status"), flags=re.MULTILINE)[1:]:
            key = re.match(r"0x([0-9a-f]+)", part)
            kind = re.search(r"type: (.+)", part)
            port = re.search(r"Relative port address: 0x([0-9a-f]+)", part)
            who = re.search(r"SAS address: 0x([0-9a-f]+)", part)
            assert key is not None and port is not None and who is not None, part
            holder = "<< Reservation holder >>" in part
            number = TYPES[kind[1].strip()] if holder and kind else 0
            full.append(Registration(int(key[1], 16), holder, number, int(port[1], 16), f"sas {who[1]}"))
        return keys, reservation, sorted(full), int(generation[1], 16)

    def _in(self, way: int, option: str) -> str:
        done = self._sg(way, "--in", option)
        assert done.returncode == 0, f"{option}: exit {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def _sg(self, way: int, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["sg_persist", "--no-inquiry", *words, f"/dev/{self.names[way]}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def compare(ours: Disk, theirs: Disk, same: Kind, sequence: list[Any], seen: dict[str, int]) -> None:
    for disk in (ours, theirs):
        disk.reset()
        disk.attentions()
    first = ours.read(0)[3] - theirs.read(0)[3]
    mine = [0, 0]
    for way, action, kind, own, other in sequence:
        known = {MINE: mine[way], THEIRS: mine[1 - way], SAME: same}
        step = (way, action, known.get(kind, kind), known.get(own, own), known.get(other, other))
        one, two = ours.send(*step), theirs.send_by_sg(*step)
        assert one == two, f"{step}: btw {one}, sg_persist {two}"
        for name in (one, f"{action.words} {one}", f"{action.words} {one}, type {step[2]:d}"):
            seen[name] = seen.get(name, 0) + 1
        assert ours.attentions() == theirs.attentions(), step
        if one == "good" and action in (Out.REGISTER, Out.REGISTER_AND_IGNORE):
            mine[way] = step[4]
        elif one == "good" and action in (Out.CLEAR, Out.PREEMPT):
            there = ours.read(0)[0]
            mine = [key if key in there else 0 for key in mine]
    way = len(sequence) % 2
    said = ours.read(way)
    assert said == ours.read_by_sg(way), sequence
    assert (*said[:3], said[3] - first) == theirs.read(way), sequence
    if said[1] is not None:
        name = f"held, type {said[1].kind}"
        seen[name] = seen.get(name, 0) + 1
        assert (said[1].key == 0) == (said[1].kind in OF_ALL), said


def main() -> None:
    ours, theirs = map(Disk, set_up())
    seen: dict[str, int] = {}

    @settings(
        max_examples=int(sys.argv[1]),
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a sequence is short, and each takes a second of a busy machine
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(steps, min_size=1, max_size=8))
    def run(sequence: list[Any]) -> None:
        number = seen["sequences"] = seen.get("sequences", 0) + 1
        same = sorted(Kind)[number % len(Kind)]
        # most sequences begin with paths that are registered, and a holder: a command of who is not is only refused
        begin = [(0, Out.REGISTER, same, 0, KEYS[0]), (1, Out.REGISTER_AND_IGNORE, same, 0, KEYS[2])]
        begin.append((0, Out.RESERVE, same, MINE, 0))
        compare(ours, theirs, same, [*begin[: number // len(Kind) % 4], *sequence], seen)

    for kind in sorted(Kind):
        compare(ours, theirs, kind, CONTEST, seen)
    run()
    print(", ".join(f"{name}: {count}" for name, count in sorted(seen.items())))


if __name__ == "__main__":
    main()
