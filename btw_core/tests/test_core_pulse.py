"""The file through which keeper and manager know of each other: whatever happens to it is seen, or does no harm."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from btw_core.pulse import LARGEST, SIZE, Held, KeeperHalf, ManagerHalf, Pulse, content, place, start_of

OLD = ManagerHalf(pid=7, start=70, beat=1.5, stall=4.0, home="n1.x", leases={"web": (10.0, 20.0), "db": (11.0, 21.0)})
NEW = OLD._replace(beat=2.5, ready=True, leases={"web": (12.0, 22.0)})


def at(path: Path, boot: str = "boot") -> Pulse:
    return Pulse.keep(path / "run" / "web.pulse", boot)


def test_each_side_reads_what_the_other_wrote(tmp_path: Path) -> None:
    """Halves are independent, the last write counts, and a successor goes on with the numbers."""
    kept = at(tmp_path)
    other = Pulse.open(kept.path, "boot")
    assert (other.manager(), other.keeper()) == (None, None)
    for beat in range(5):
        other.write(OLD._replace(beat=float(beat)))
        kept.write(KeeperHalf(pid=1, beat=10.0 + beat))
        seen = kept.manager()
        assert seen == OLD._replace(beat=float(beat))
        assert other.keeper() == KeeperHalf(pid=1, beat=10.0 + beat)
    other.close()
    successor = Pulse.open(kept.path, "boot")
    assert successor.manager() == OLD._replace(beat=4.0)
    successor.write(NEW)
    assert kept.manager() == NEW
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert not os.get_inheritable(kept.descriptor)
    successor.close()
    kept.close()


def test_a_write_torn_at_any_byte_leaves_the_one_before(tmp_path: Path) -> None:
    """A writer may be killed anywhere in a write: what was said before it is still read, never a mixture."""
    kept = at(tmp_path)
    kept.write(NEW._replace(beat=0.5))
    kept.write(OLD)  # sequence number 2, in the first place; 3 goes to the second, over number 1
    new = place(3, NEW._asdict() | {"boot": "boot"})
    before = kept.path.read_bytes()
    for length in range(len(new) + 1):
        with kept.path.open("r+b") as file:
            file.write(before)
            file.seek(64 * 1024)
            file.write(new[:length])
        # what was there before may happen to end like the new one
        whole = kept.path.read_bytes()[64 * 1024 :].startswith(new)
        assert kept.manager() == (NEW if whole else OLD), length
    kept.close()


def test_a_flipped_bit_is_no_content() -> None:
    """The checksum covers number, length and text."""
    data = place(9, {"a": 1})
    assert content(data) == (9, {"a": 1})
    for byte in range(len(data)):
        assert content(data[:byte] + bytes([data[byte] ^ 4]) + data[byte + 1 :]) is None


def test_both_places_damaged_is_nothing(tmp_path: Path) -> None:
    """Then nobody invents what was said."""
    kept = at(tmp_path)
    kept.write(OLD)
    kept.write(NEW)
    with kept.path.open("r+b") as file:
        for number in (0, 1):
            file.seek(number * 64 * 1024 + 20)
            file.write(b"\xff")
    assert kept.manager() is None
    kept.write(NEW)
    assert kept.manager() == NEW
    kept.close()


def test_what_was_written_in_another_boot_is_nothing(tmp_path: Path) -> None:
    """Nothing is up after a reboot, whatever the file says."""
    first = at(tmp_path)
    first.write(OLD)
    first.write(KeeperHalf(pid=1))
    first.close()
    second = at(tmp_path, "next boot")
    assert (second.manager(), second.keeper()) == (None, None)
    second.write(NEW)
    assert second.manager() == NEW
    second.close()


def test_another_release_may_say_more_or_less(tmp_path: Path) -> None:
    """A new keeper reads an old manager's half during an upgrade, and the other way round."""
    kept = at(tmp_path)
    with kept.path.open("r+b") as file:
        file.seek(2 * 64 * 1024)
        file.write(place(1, {"boot": "boot", "pid": 5, "colour": "red"}))
    assert kept.keeper() == KeeperHalf(pid=5)
    kept.close()


@pytest.mark.parametrize("how", ["deleted", "replaced", "cut"])
def test_a_pulse_that_is_gone_is_seen_by_both(tmp_path: Path, how: str) -> None:
    """Deleted, replaced or cut short: nothing is read from it, writing does no harm, and its keeper makes another."""
    kept = at(tmp_path)
    other = Pulse.open(kept.path, "boot")
    other.write(OLD)
    assert not kept.gone() and not other.gone()
    match how:
        case "deleted":
            kept.path.unlink()
        case "replaced":
            kept.path.rename(tmp_path / "elsewhere")
            kept.path.write_bytes(bytes(SIZE))
        case _:
            os.truncate(kept.path, 4096)
            assert kept.manager() is None
    assert kept.gone() and other.gone()
    other.write(NEW)
    kept = kept.renewed()
    assert not kept.gone() and kept.manager() is None
    assert other.gone() == (how != "cut")
    again = Pulse.open(kept.path, "boot")
    again.write(NEW)
    assert kept.manager() == NEW
    with pytest.raises(Held):
        at(tmp_path)
    for pulse in (kept, other, again):
        pulse.close()


def test_one_keeper_for_each_slot(tmp_path: Path) -> None:
    """The second is refused with the pid of the first while that lives; a child of the first does not hold the lock."""
    kept = at(tmp_path)
    kept.write(KeeperHalf(pid=os.getpid(), start=start_of(os.getpid())))
    with pytest.raises(Held, match=f"pid {os.getpid()}"):
        at(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        kept.close()
        at(tmp_path).close()
        child.communicate(b"\n", timeout=60)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Nobody makes a keeper write into another file."""
    (tmp_path / "run").mkdir()
    (tmp_path / "target").write_bytes(bytes(SIZE))
    (tmp_path / "run" / "web.pulse").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        at(tmp_path)


def test_a_short_file_is_no_pulse_for_a_manager(tmp_path: Path) -> None:
    """It says so instead of dying by SIGBUS later."""
    (tmp_path / "web.pulse").write_bytes(b"half")
    with pytest.raises(ValueError, match="too short"):
        Pulse.open(tmp_path / "web.pulse", "boot")


def test_room_for_many_packages(tmp_path: Path) -> None:
    """150 packages with the longest names fit several times over; what does not fit is refused, not cut."""
    kept = at(tmp_path)
    leases = {f"{n:039}": (123456789.123456, 123456799.123456) for n in range(450)}
    kept.write(OLD._replace(leases=leases))
    assert kept.manager() == OLD._replace(leases=leases)
    with pytest.raises(ValueError, match="run fewer packages"):
        kept.write(OLD._replace(said="x" * LARGEST))
    kept.close()


def test_a_reader_beside_a_writer_sees_whole_halves_in_order(tmp_path: Path) -> None:
    """Without any lock between the two."""
    kept = at(tmp_path)
    program = """
import sys
from pathlib import Path
from btw_core.pulse import ManagerHalf, Pulse
pulse = Pulse.open(Path(sys.argv[1]), "boot")
for n in range(1, 3001):
    pulse.write(ManagerHalf(pid=n, beat=float(n), leases={f"p{i}": (n, n) for i in range(n % 50)}))
"""
    with subprocess.Popen([sys.executable, "-P", "-c", program, str(kept.path)]) as writer:
        last, seen = 0.0, 0
        while last < 3000 and (writer.poll() is None or seen < 10 or kept.manager() is not None):
            half = kept.manager()
            if half is None:
                assert last == 0, "what was there has vanished"
                continue
            assert half.beat == half.pid >= last
            assert set(half.leases.values()) <= {(half.beat, half.beat)} and len(half.leases) == half.pid % 50
            last, seen = half.beat, seen + 1
        assert writer.wait(60) == 0
    assert last == 3000
    kept.close()


def test_two_writes_while_it_reads_do_not_take_a_reader_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older place is read, both are written anew, and the writer is in the midst of the second: what was seen
    before is not forgotten."""
    kept = at(tmp_path)
    writer = Pulse.open(kept.path, "boot")
    for n in (1, 2, 3):
        writer.write(ManagerHalf(pid=n))
    seen = kept.manager()
    assert seen is not None and seen.pid == 3
    original, read = kept._place, []

    def meanwhile(number: int) -> bytes:
        data = original(number)
        read.append(number)
        if len(read) == 1:
            for n in (4, 5):
                writer.write(ManagerHalf(pid=n))
            begin = (1 - number) * SIZE // 4
            writer._map[begin + 20] ^= 1
            assert content(original(1 - number)) is None
        return data

    monkeypatch.setattr(kept, "_place", meanwhile)
    half = kept.manager()
    assert half is not None and half.pid == 4
    writer.close()
    kept.close()


def test_a_process_is_named_by_its_start() -> None:
    """0 for whoever has ended, a zombie too."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_of(os.getpid()) > 0 and start_of(child.pid) == 0
    child.wait(60)
    assert start_of(child.pid) == 0
