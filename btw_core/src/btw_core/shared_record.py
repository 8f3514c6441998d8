"""Changing records that are nobody's alone: read, edit, compare and swap, again while somebody else was faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from .desk import Desk
from .lease import DamagedRecord, decode, encode
from .ports import StoreAnswered
from .switches import Refused
from .timing import Timing

Edit = Callable[[Any], Any]


class _Wanted(NamedTuple):
    edit: Edit
    then: Callable[[], None] | None
    refused: Callable[[str], None] | None


class SharedRecord:
    """One key. An edit is a function record -> record (None: absent) and may be applied again; `stands(record)` is said
    of what is known to be there. What an edit raises as ValueError or Refused goes to its `refused`, and it is dropped.
    An outage is journalled once."""

    def __init__(
        self, desk: Desk, key: str, kind: type[msgspec.Struct], timing: Timing, stands: Callable[[Any], None]
    ) -> None:
        self.desk, self.key, self._kind = desk, key, kind
        self._timing, self._stands = timing, stands
        self._edits: list[_Wanted] = []
        self._busy = False
        self.trouble = ""  # why what is wanted is not known to be written

    def edit(
        self,
        edit: Edit,
        then: Callable[[], None] | None = None,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        """As soon as possible; `then` once the record is as the edit leaves it."""
        self._edits.append(_Wanted(edit, then, refused))
        self._read()

    @property
    def waits(self) -> str:
        """Why what is wanted is not known to be written; "" when nothing is."""
        return self.trouble or ("no answer yet" if self._edits else "")

    def _read(self) -> None:
        if not self._busy and self._edits:
            self._busy = True
            self.desk.ask(self.key, self._answered, deadline=self._timing.renewal_deadline)

    def _answered(self, answer: StoreAnswered) -> None:
        if answer.records is None:
            self._later(answer.unavailable)
            return
        revision, record = None, None
        if answer.records:
            revision = answer.records[0].revision
            try:
                record = decode(self._kind, self.key, answer.records[0].value)
            except DamagedRecord as damage:
                self.desk.journal.write("store_trouble", cause=f"{damage}; written anew")
        wanted, done = record, []
        for each in self._edits:
            try:
                wanted = each.edit(wanted)
            except (ValueError, Refused) as error:
                if each.refused is not None:
                    each.refused(str(error))
                continue
            done.append(each)
        self._edits = list(done)  # what comes while the answer is under way is not done
        if wanted == record or wanted is None:
            self._settle(done, wanted)
            return
        self.desk.ask(
            self.key,
            lambda put: self._put_answered(put, done, wanted),
            value=encode(wanted),
            expected=revision,
            deadline=self._timing.renewal_deadline,
        )

    def _put_answered(self, answer: StoreAnswered, done: list[_Wanted], record: Any) -> None:
        if answer.revision is not None:
            self._settle(done, record)
        elif answer.conflict:
            self._busy = False
            self._read()
        else:  # cannot tell: read again; the edits are applied to whatever is there
            self._later(answer.unavailable)

    def _settle(self, done: list[_Wanted], record: Any) -> None:
        self._busy, self.trouble = False, ""
        if record is not None:
            self._stands(record)
        self._edits = [each for each in self._edits if each not in done]
        for each in done:
            if each.then is not None:
                each.then()
        self._read()

    def _later(self, trouble: str) -> None:
        if not self.trouble:
            self.trouble = trouble
            cause = f"{self.key} is not known to be written: {trouble}; trying again"
            self.desk.journal.write("store_trouble", cause=cause)
        self._busy = False
        self.desk.at(self.desk.now() + self._timing.retry, ("shared", self.key), self._read)
