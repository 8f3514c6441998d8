"""The simulation: the real `Manager` in a world whose clock, store, processes and disks are imitated.

One true time line, one seed, one thread. The truth of effects is kept apart from what any manager believes, and only
the truth is judged. `python -m btw_core.testing.sim --seeds 100` runs it.
"""

from __future__ import annotations

from .world import Setting, Verdict, World

__all__ = ["Setting", "Verdict", "World"]
