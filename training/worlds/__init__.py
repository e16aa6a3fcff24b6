"""Embedded bases by name, and their training.

An embedded base is a small diffusion pipeline that comes with the package, for a world of simple pictures.
"""

from __future__ import annotations

from collections.abc import Mapping

from robust_encoders.hub.embedded import EMBEDDED_FAMILY

from ..plugins import Registry
from ..protocols import EmbeddedBase
from .emoji.world import EmojiWorld
from .shapes.world import ShapesWorld

_OURS: Mapping[str, type[EmbeddedBase]] = {"shapes": ShapesWorld, "emoji": EmojiWorld}
BASES: Registry[type[EmbeddedBase]] = Registry("robust_encoders.bases", _OURS)
DEFAULT_BASE = EMBEDDED_FAMILY

__all__ = ["BASES", "DEFAULT_BASE", "EmojiWorld", "ShapesWorld"]
