"""btw-vip: virtual IP addresses.

Only the hook. pyroute2 takes 70 ms and more to import: commands import it when a method needs it. Only the zygote does
so at once, for each of its operations is a fork of it, and a fail-over must not wait for that import.
"""

from __future__ import annotations

import contextlib
import sys

from btw_core import Resource, hookimpl


@hookimpl
def btw_resource_types() -> list[type[Resource]]:
    from .vip import Vip

    if getattr(sys.modules["__main__"].__spec__, "name", "") == "btw_core.zygote":
        _prepare()
    return [Vip]


def _prepare() -> None:
    from . import doing, looking  # noqa: F401 - for the forks
    from .kernel import warm_up

    with contextlib.suppress(OSError):  # operations will say what the kernel refuses
        warm_up()
