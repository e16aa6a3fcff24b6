"""CLIP score on the shapes world; see ``worlds.clip_scorer``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from torch import Tensor

from robust_encoders.hub.embedded import embedded_file

from ..clip_scorer import ClipScorer
from ..pretrain.networks import ImageTower

__all__ = ["ClipScorer", "clip_score", "load_clip_scorer"]


def load_clip_scorer(folder: Path | None = None) -> ClipScorer:
    """Load the packaged image tower and the base's text encoder, or those in ``folder``.

    Raises:
        AssetsMissingError: If the package was installed without it.
    """
    return _load(folder or embedded_file("shapes", "image_tower.safetensors").parent)


@cache
def _load(folder: Path) -> ClipScorer:
    return ClipScorer.read(folder, ImageTower())


def clip_score(images: Tensor, texts: Sequence[str]) -> Tensor:
    """Return the cosines (B,) of pictures (B, 3, 32, 32) in [0, 1] and their captions, by the packaged scorer."""
    return load_clip_scorer()(images, texts)
