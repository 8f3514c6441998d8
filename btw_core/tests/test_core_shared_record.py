"""Records that several write: what another wrote meanwhile counts, and what it forbids is said, not died of."""

from __future__ import annotations

import pytest

from btw_core.cluster import Switch
from btw_core.lease import decode, encode
from btw_core.records import DrainRecord
from btw_core.shared_record import SharedRecord
from btw_core.switches import Refused
from btw_core.testing.fakes import Bench
from btw_core.timing import Timing

KEY = "drains/a"


def _shared(bench: Bench) -> SharedRecord:
    return SharedRecord(bench.desk, KEY, DrainRecord, Timing(pace=1.0, timeout=4.0), lambda _record: None)


def _drained(why: str) -> DrainRecord:
    return DrainRecord(drained=Switch(why=why))


def _answers(bench: Bench) -> None:
    while bench.store.calls:
        bench.store.answer()


def test_who_was_slower_edits_what_the_other_wrote() -> None:
    bench = Bench()
    seen: list[DrainRecord | None] = []

    def edit(record: DrainRecord | None) -> DrainRecord:
        seen.append(record)
        return _drained("mine")

    done: list[str] = []
    _shared(bench).edit(edit, lambda: done.append("done"))
    bench.store.answer()  # read: nothing is there
    bench.store.write(KEY, encode(_drained("theirs")))
    _answers(bench)
    assert seen == [None, _drained("theirs")]
    assert done == ["done"]
    assert decode(DrainRecord, KEY, bench.store.records[KEY].value) == _drained("mine")


def test_what_the_other_forbids_is_said_and_the_rest_is_written() -> None:
    bench = Bench()

    def forbidden(record: DrainRecord | None) -> DrainRecord:
        raise Refused("not now")

    refused: list[str] = []
    done: list[str] = []
    shared = _shared(bench)
    shared.edit(forbidden, lambda: done.append("forbidden"), refused.append)
    shared.edit(lambda _: _drained("mine"), lambda: done.append("mine"))
    _answers(bench)
    assert (refused, done) == (["not now"], ["mine"])
    assert decode(DrainRecord, KEY, bench.store.records[KEY].value) == _drained("mine")


@pytest.mark.parametrize("committed", [False, True])
def test_in_doubt_it_is_written_again(committed: bool) -> None:
    bench = Bench()
    done: list[str] = []
    _shared(bench).edit(lambda _: _drained("mine"), lambda: done.append("done"))
    bench.store.answer()
    bench.store.lose(committed=committed)
    assert not done
    bench.wait(1.0, prompt=True)
    assert done == ["done"]
    assert decode(DrainRecord, KEY, bench.store.records[KEY].value) == _drained("mine")


def test_a_store_that_takes_no_writes_is_said_once() -> None:
    """A full disk: reading works all the time, writing does not, twice a second."""
    bench = Bench()
    shared = _shared(bench)
    done: list[str] = []
    shared.edit(lambda _: _drained("mine"), lambda: done.append("mine"))
    for _ in range(5):
        bench.store.answer()
        bench.store.lose(committed=False)
        bench.wait(0.5)
    assert bench.journal.events() == ["store_trouble"]
    _answers(bench)
    assert done == ["mine"]
