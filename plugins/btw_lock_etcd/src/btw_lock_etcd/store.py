"""The store on etcd: what the core asks, as transactions, ranges and watches of etcd.

Keys are PREFIX/KEY, revisions are etcd's mod_revision. Leases of etcd are not used: a frozen leader lets them end
early (docs/design.md, "The lease").
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

from btw_core.store import Conflict, Record, StoreUnavailable

from .address import Address
from .cluster import Answer, Cluster
from .memory import Mark, Memory
from .settings import Settings
from .stream import Stream
from .trouble import Trouble

#: Seconds that the list before a watch may take, and then the opening of the stream.
BEGIN, OPEN = 3.0, 1.0
#: Seconds after which a watch yields, changes or not.
BEAT = 0.5
#: Seconds that a watch may be behind what is known from other answers.
BEHIND = 2.0


class EtcdStore:
    """`store.Store` on the members of `address`. Making it does no I/O: see `opening.open_store`."""

    creates_itself = False

    def __init__(self, address: Address, settings: Settings) -> None:
        self.description = str(address)
        self.cluster = Cluster(address, settings)
        self._top = f"{address.prefix}/"
        self._memory = Memory()
        self._streams: set[Stream] = set()

    def get(self, key: str, *, deadline: float) -> Record | None:
        """The record, or None when there certainly is none: the answer of a quorum."""
        found = self._read({"key": self._wire(key)}, deadline)[0]
        return found[0] if found else None

    def put(self, key: str, value: bytes, *, expected: int | None, deadline: float) -> int | Conflict:
        """Compare and swap in one transaction. The content is compared too where it is remembered: after a restore
        from a snapshot the revision alone may mean another one.

        Repeating it at the next member cannot write twice: both attempts want the key at `expected`, and only one can
        find it there. But when the later one does not, the earlier may be why: then nobody can tell.
        """
        wire = self._wire(key)
        # mod_revision is 0 for a key that does not exist; int64 are text in JSON
        compare = [{"key": wire, "target": "MOD", "result": "EQUAL", "mod_revision": str(expected or 0)}]
        known = self._memory.content(key, expected)
        if known is not None:
            compare.append({"key": wire, "target": "VALUE", "result": "EQUAL", "value": _encode(known)})
        success = [{"request_put": {"key": wire, "value": _encode(value)}}]
        answer, mark = self._ask("/kv/txn", {"compare": compare, "success": success}, deadline)
        header = answer.said["header"]
        if answer.said.get("succeeded"):
            revision = int(header["revision"])
            self._memory.learn(mark, header, [Record(key, value, revision)])
            return revision
        self._memory.learn(mark, header, [])
        if answer.doubt:
            raise StoreUnavailable(
                f"{self.description}: {key} has changed, perhaps by an attempt of this very put that was not answered"
            )
        return Conflict()

    def watch(self, prefix: str, since: int) -> Iterator[list[Record]]:
        """First all records that are newer than `since`, then changes as they happen. Deletions are not reported.

        Nothing is missed: the stream begins where the list ends, so that compaction does not matter either. The whole
        prefix of the store is on the wire, so that a stream which does not deliver what other answers have shown
        (frozen member, dead path) is noticed; then, and when the cluster was set back, it raises StoreUnavailable, and
        the next watch goes to another member.
        """
        everything = self._range("")
        records, answer = self._read(everything, BEGIN)
        life, revision = self._memory.life, int(answer.said["header"]["revision"])
        if since > revision:
            since = 0  # of a time that was undone by a restore
        # not before the first list was delivered: a stream that cannot be opened must not keep that back
        news = [record for record in records if record.revision > since and record.key.startswith(prefix)]
        yield sorted(news, key=lambda record: record.revision)
        request = everything | {"start_revision": str(revision + 1)}
        endpoint, token = answer.endpoint, self.cluster.login.known
        try:
            stream = Stream(endpoint, request, self._record, time.monotonic() + OPEN, token)
            self._streams.add(stream)
            try:
                for records in self._follow(stream, life):
                    yield [record for record in records if record.key.startswith(prefix)]
            finally:
                self._streams.discard(stream)
                stream.close()
        except Trouble as trouble:
            self.cluster.refuse_closed()
            self.cluster.demote(endpoint)
            raise StoreUnavailable(f"{self.description}: watch at {endpoint.name}: {trouble}") from trouble

    def try_rights(self, deadline: float) -> None:
        """Asks for a transaction that is never carried out: etcd checks the rights for all of it before. Raises
        NoAnswer when the user may not read and write everything below the prefix, and as every call."""
        wire = self._wire("rights")
        never = {"key": wire, "target": "VERSION", "result": "LESS", "version": "0"}
        success = [{"request_put": {"key": wire}}, {"request_range": self._range("")}]
        self._ask("/kv/txn", {"compare": [never], "success": success}, deadline)

    def close(self) -> None:
        """Calls and watches end soon, idle connections at once. Does not block, may be repeated."""
        self.cluster.close()
        for stream in list(self._streams):
            stream.close()

    def _follow(self, stream: Stream, life: int) -> Iterator[list[Record]]:
        """Raises Trouble."""
        goal, since = 0, 0.0
        while True:
            records = stream.take(BEAT)
            self._memory.note(life, records)
            yield records
            self.cluster.refuse_closed()
            if self._memory.life != life:
                raise Trouble("the store was set back (restored from a snapshot?)")
            now = time.monotonic()
            if goal <= stream.position:
                goal, since = self._memory.newest, now
            elif now - since > BEHIND:
                raise Trouble(f"it is behind: at revision {stream.position}, while {goal} is known for {BEHIND:g} s")

    def _read(self, request: dict[str, Any], deadline: float) -> tuple[list[Record], Answer]:
        """Never with serializable=true: a member that is cut off must not answer from its memory."""
        answer, mark = self._ask("/kv/range", request, deadline)
        records = [self._record(kv) for kv in answer.said.get("kvs", [])]
        self._memory.learn(mark, answer.said["header"], records)
        return records, answer

    def _ask(self, path: str, body: dict[str, Any], deadline: float) -> tuple[Answer, Mark]:
        mark = self._memory.mark()
        return self.cluster.ask(path, body, deadline), mark

    def _range(self, prefix: str) -> dict[str, str]:
        """All keys that begin so; 0xff is in no key (UTF-8)."""
        first = (self._top + prefix).encode()
        return {"key": _encode(first), "range_end": _encode(first + b"\xff")}

    def _wire(self, key: str) -> str:
        return _encode((self._top + key).encode())

    def _record(self, kv: dict[str, Any]) -> Record:
        key = base64.b64decode(kv["key"]).decode().removeprefix(self._top)
        return Record(key, base64.b64decode(kv.get("value", "")), int(kv["mod_revision"]))

    def list(self, prefix: str, *, deadline: float) -> list[Record]:
        """All records below `prefix` by key: one range, so one instant, read by a quorum."""
        return self._read(self._range(prefix), deadline)[0]


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
