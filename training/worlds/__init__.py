"""Embedded bases, small worlds with a pipeline of their own, by name; and how they are made."""

from __future__ import annotations

from collections.abc import Mapping

from ..plugins import Registry
from ..protocols import EmbeddedBase
from .shapes.world import ShapesWorld

_OURS: Mapping[str, type[EmbeddedBase]] = {"shapes": ShapesWorld}
BASES: Registry[type[EmbeddedBase]] = Registry("robust_encoders.bases", _OURS)
DEFAULT_BASE = "shapes"

__all__ = ["BASES", "DEFAULT_BASE", "ShapesWorld"]
