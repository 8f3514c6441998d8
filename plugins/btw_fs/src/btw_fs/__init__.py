"""btw-fs: file systems.

Only the hook. Commands import what they need when a method needs it; the zygote does so at once, for each of its
operations is a fork of it.
"""

from __future__ import annotations

import sys

from btw_core import Resource, hookimpl


@hookimpl
def btw_resource_types() -> list[type[Resource]]:
    from .fs import Fs

    if getattr(sys.modules["__main__"].__spec__, "name", "") == "btw_core.zygote":
        from . import doing, looking, stopping  # noqa: F401 - for the forks
    return [Fs]
