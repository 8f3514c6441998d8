"""What the authors of plugins need for their tests: `ResourceContract`, `Bench` and `FakeContext` for resource types,
`StoreContract`, `OutageContract` and `LeaseContract` for stores. The contracts need pytest: `pip install
btw-core[testing]`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .bench import Bench
from .context import FakeContext

if TYPE_CHECKING:
    from .lease_contract import LeaseContract
    from .outage_contract import OutageContract
    from .resource_contract import ResourceContract
    from .store_contract import StoreContract

__all__ = ["Bench", "FakeContext", "LeaseContract", "OutageContract", "ResourceContract", "StoreContract"]

_CONTRACTS = {
    "LeaseContract": "lease_contract",
    "OutageContract": "outage_contract",
    "ResourceContract": "resource_contract",
    "StoreContract": "store_contract",
}


def __getattr__(name: str) -> Any:
    """The contracts are loaded when they are asked for: nothing else needs pytest."""
    if name not in _CONTRACTS:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f".{_CONTRACTS[name]}", __name__), name)
