"""What the authors of plugins need for their tests."""

from __future__ import annotations

from .context import FakeContext

__all__ = ["FakeContext"]
