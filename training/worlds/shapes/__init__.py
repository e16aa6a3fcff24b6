"""The shapes world: renderer, captions, judge, CLIP score, and the build of the embedded base."""

from __future__ import annotations

from .judge import Judge, load_judge

__all__ = ["Judge", "load_judge"]
