"""One package on one node, with everything around it in a test's hand."""

from __future__ import annotations

import msgspec

from btw_core import lease
from btw_core.controller import Controller
from btw_core.lease import PackageRecord
from btw_core.ports import Looked, ResourceHealth
from btw_core.testing.fakes import Bench
from btw_core.timing import Timing
from btw_core.types import Incarnation, PackageSpec, ResourceSpec, Saved, State, Status, Verb

ME = Incarnation(node="a", machine="m", boot="b", nonce="me", slot="web", home="a.1")
ME_BEFORE = msgspec.structs.replace(ME, nonce="before")
OTHER = Incarnation(node="b", machine="m", boot="b", nonce="other", slot="web", home="b.1")
RESOURCES = tuple(ResourceSpec(name=name, type="flag") for name in ("disk", "ip", "web"))
SPEC = PackageSpec(name="web", timing=Timing(), resources=RESOURCES)
FREE = lease.first(SPEC.timing.lease, "cluster created")


class Case(Bench):
    """The controller of one package, whose record is in the store."""

    def __init__(
        self,
        record: PackageRecord,
        saved: Saved | None = None,
        *,
        reads: bool = True,
        spec: PackageSpec = SPEC,
        ready: bool = False,
    ) -> None:
        super().__init__()
        if saved is not None:
            self.disk.saved["web"] = saved
        self.write(record)
        self.controller = Controller(self.desk, spec, ME)
        self.controller.work.prompt = ready
        self.controller.begin()
        if reads:
            self.read()

    def write(self, record: PackageRecord) -> None:
        self.store.write("packages/web", lease.encode(record))

    def read(self) -> None:
        """One reading of all records; everything that follows from it is answered."""
        self.controller.seen(self.view())
        self.answers()

    def answers(self) -> None:
        while self.store.calls:
            self.store.answer()

    def record(self) -> PackageRecord:
        return self.view().packages["web"][1]

    @property
    def state(self) -> State:
        return self.controller.situation.state

    def looks(self, *answers: Status | None) -> None:
        """The answer to the last look."""
        results = tuple(
            ResourceHealth(resource=spec.name, status=status) for spec, status in zip(RESOURCES, answers, strict=True)
        )
        self.controller.looked(Looked(id=self.executor.looks[-1].id, package="web", results=results))

    def ends(self, *, ok: bool = True) -> None:
        """The operation that was begun last is gone."""
        self.executor.end(self.executor.operations[-1], ok=ok)

    def stops(self) -> list[str]:
        return [each.resource for each in self.executor.operations if each.verb is Verb.STOP]
