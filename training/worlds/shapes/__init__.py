"""The shapes world: renderer, captions, concepts, judge and CLIP score.

A picture shows one shape. Its four factors are shape, colour, background and style; each factor has a fixed set of
values, and each value has several words.
"""

from __future__ import annotations

from .judge import Judge, load_judge

__all__ = ["Judge", "load_judge"]
