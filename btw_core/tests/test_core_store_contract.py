"""The embedded store keeps the contract of stores; and the kit that says so bites."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from btw_core.store import Store
from btw_core.store_local import LocalStore
from btw_core.testing import LeaseContract, StoreContract

SLOW = 400.0  # seconds: generous bound for the contract tried on all broken stores


class LocalPlace:
    """A lock file of its own for each test."""

    path: Path

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[[], Store]:
        self.path = tmp_path / "local.db"
        return lambda: LocalStore(str(self.path), runtime=tmp_path / "run", patience=30.0)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """The file is somewhere else, and somebody hangs in the middle of a write: reads are refused, writes wait."""
        elsewhere = self.path.with_name("elsewhere.db")
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=30.0)) as db:
            db.execute("BEGIN IMMEDIATE")
            self.path.rename(elsewhere)
            try:
                yield
            finally:
                elsewhere.rename(self.path)

    def remove(self, key: str) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=30.0)) as db:
            db.execute("DROP TRIGGER IF EXISTS record_stays")
            db.execute("DELETE FROM record WHERE key = ?", (key,))


class TestLocalStore(LocalPlace, StoreContract):
    """Every rule of a store."""


class TestLocalLease(LocalPlace, LeaseContract):
    """Every rule of the lease."""


# ---- the kit bites
#: Broken store (tests/broken_stores.py) -> the rules it breaks.
BROKEN = {
    "CreatesTwice": "test_exactly_one_creator_wins",
    "LosesIncrements": "test_no_increment_is_lost",
    "ComparesValues": "test_put_writes_at_the_expected_revision_only test_a_conflict_writes_nothing",
    "WritesInConflict": "test_a_conflict_writes_nothing",
    "ReadsLate": "test_a_read_shows_all_that_was_answered_before",
    "ListsTwoInstants": "test_a_list_shows_one_instant",
    "FoldsCase": "test_prefixes_are_literal",
    "CutsValues": "test_values_are_any_bytes",
    "RepeatsRevisions": "test_revisions_only_grow",
    "ForgetsRevisions": "test_reopening_changes_nothing",
    "WatchesWithAGap": "test_a_watch_opened_again_has_no_gap test_a_watch_has_no_gap_across_an_outage",
    "WatchesInSilence": "test_an_idle_watch_yields",
    "WatchesBackwards": "test_a_watch_yields_what_is_newer",
    "SaysNoneInAnOutage": "test_an_outage_is_never_an_answer",
    "HangsPastTheDeadline": "test_deadlines_hold",
    "WritesLateWhateverComes": "test_a_lost_answer_is_told_by_a_read",
    "StaysDown": "test_it_answers_again_by_itself",
    "LeavesWatches": "test_close_ends_watches",
    "AnswersAfterClose": "test_calls_after_close_raise",
    "CloseWaits": "test_close_does_not_wait_for_the_engine",
    "Nameless": "test_it_says_what_it_is",
    "WritesAlways": "test_one_of_many_holds test_a_late_write_of_a_former_holder_is_refused",
    "ListsOldSessions": "test_a_holder_that_renews_keeps_it",
}
NOT_BROKEN = ("Sound", "SoundLease", "HooksMissing", "HooksExcused")
#: What cannot be kept either, or not always, once that rule is broken.
FOLLOWS = {
    "ReadsLate": "test_values_are_any_bytes test_a_conflict_writes_nothing test_keys_are_told_apart"
    " test_revisions_only_grow test_reopening_changes_nothing test_prefixes_are_literal"
    " test_a_watch_opened_again_has_no_gap",
    "WatchesInSilence": "test_prefixes_are_literal test_close_ends_watches",
    "WatchesBackwards": "test_a_watch_opened_again_has_no_gap",
    "StaysDown": "test_a_lost_answer_is_told_by_a_read",
    "WritesAlways": "test_lost_answers_and_frozen_managers_break_nothing",
    "ListsOldSessions": "test_lost_answers_and_frozen_managers_break_nothing"
    " test_a_silent_holder_is_followed_after_its_lease test_a_record_that_vanished_is_written_again"
    " test_a_node_adopts_what_its_former_manager_left",
}


class Results:
    """By class and test of tests/broken_stores.py: how it failed, "" where it passed, or "skipped"."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, str]] = {}

    def read(self, report: Path) -> None:
        for case in ElementTree.parse(report).iter("testcase"):
            name, test = case.get("classname", "").rpartition(".Test")[2], case.get("name", "")
            assert case.find("error") is None, f"{name} {test}: {ElementTree.tostring(case, 'unicode')}"
            broken, skipped = case.find("failure"), case.find("skipped")
            told = f"{broken.get('message')} {broken.text}" if broken is not None else ""
            self.of.setdefault(name, {})[test] = told or ("skipped" if skipped is not None else "")

    def failed(self, name: str) -> set[str]:
        return {test for test, message in self.of[name].items() if message not in ("", "skipped")}


def try_contract(names: list[str], report: Path) -> None:
    """The contract on these broken stores. Blocks for some tens of seconds: some of them hang for a while."""
    tests = [f"{Path(__file__).with_name('broken_stores.py')}::Test{name}" for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SLOW, check=False)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The contract tried on all stores in memory, in a few processes: they wait more than they compute."""
    directory, shares = tmp_path_factory.mktemp("broken"), 4
    names = [*BROKEN, *NOT_BROKEN]
    reports = [directory / f"{share}.xml" for share in range(shares)]
    with ThreadPoolExecutor(shares) as pool:
        list(pool.map(try_contract, [names[share::shares] for share in range(shares)], reports))
    found = Results()
    for report in reports:
        found.read(report)
    return found


@pytest.mark.timeout(SLOW)  # the first one waits for all
@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_rule_is_found(results: Results, name: str) -> None:
    """A store that breaks one rule fails the test of that rule, and no test of a rule that it keeps."""
    broken, follows = set(BROKEN[name].split()), set(FOLLOWS.get(name, "").split())
    found = results.failed(name)
    assert broken <= found <= broken | follows
    for test in broken:
        message = results.of[name][test]
        for words in ("rule broken: ", "found: ", "read: the docstrings of btw_core.store"):
            assert words in message


@pytest.mark.timeout(SLOW)
def test_a_sound_store_passes_and_hooks_are_asked_for(results: Results) -> None:
    """The store that the broken ones descend from passes whole; without the hook `outage` its rules fail, with a reason
    in `no_outage` they are skipped."""
    for name, least in (("Sound", 20), ("SoundLease", 10)):
        assert set(results.of[name].values()) == {""}
        assert len(results.of[name]) > least
    assert all("must override outage(), or say in no_outage" in text for text in results.of["HooksMissing"].values())
    assert set(results.of["HooksExcused"].values()) == {"skipped"}
