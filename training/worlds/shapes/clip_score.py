"""CLIP score on the shapes world; see ``worlds.clip_scorer``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from torch import Tensor

from robust_encoders.hub.embedded import shapes_folder

from ..clip_scorer import ClipScorer
from ..pretrain.networks import ImageTower

__all__ = ["ClipScorer", "clip_score", "load_clip_scorer"]


def load_clip_scorer(folder: Path | None = None) -> ClipScorer:
    """Load the packaged image tower and the base's text encoder, or those in ``folder``.

    Raises:
        FileNotFoundError: If the package was installed without its assets.
    """
    return _load(folder or shapes_folder())


@cache
def _load(folder: Path) -> ClipScorer:
    return ClipScorer.read(folder, ImageTower())


def clip_score(images: Tensor, texts: Sequence[str]) -> Tensor:
    """Return the cosines (B,) of pictures (B, 3, 32, 32) in [0, 1] and their captions, by the packaged scorer."""
    return load_clip_scorer()(images, texts)
