"""Shared disks that refuse the writes of whoever is not registered, as SCSI reservations do: the truth of them."""

from __future__ import annotations

from collections.abc import Mapping

from ...types import PackageSpec

OVER = "the lock has run out, or its term is over: no further effect may begin here"


class Disks:
    """One for each package with a resource that fences. A registration outlives everything but who preempts it."""

    def __init__(self, specs: Mapping[str, PackageSpec]) -> None:
        self._specs = specs
        self._registered: dict[str, dict[str, int]] = {}  # package -> node -> term

    def fences(self, package: str, resource: str) -> bool:
        return resource in self._specs[package].fences

    def seize(self, package: str, node: str, term: int, *, heals: bool) -> str:
        """Register, and preempt every lower term; why not, "" when done. `heals`: only who is registered still."""
        there = self._registered.setdefault(package, {})
        if heals and there.get(node) != term:
            return "preempted"
        highest = max(there.values(), default=0)
        if highest > term:
            there.pop(node, None)
            return f"superseded by term {highest}"
        self._registered[package] = {node: term}
        return ""

    def preempted(self, node: str, package: str, resource: str) -> bool:
        """The resource that fences finds its key gone."""
        return self.fences(package, resource) and self.shut_out(node, package)

    def refuses(self, node: str, package: str, resource: str) -> bool:
        """The disk takes no write of this resource on that node, or the resource is the fence itself."""
        spec = self._specs[package]
        if not spec.fences or resource in spec.beyond_the_disk:
            return False
        return self.fences(package, resource) or self.shut_out(node, package)

    def shut_out(self, node: str, package: str) -> bool:
        """Somebody has the disk, and that node is not registered."""
        there = self._registered.get(package)
        return bool(there) and node not in (there or {})
