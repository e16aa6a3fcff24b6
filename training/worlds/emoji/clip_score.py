"""CLIP score on the emoji world; see ``worlds.clip_scorer``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from torch import Tensor

from robust_encoders.hub.embedded import embedded_file

from ..clip_scorer import ClipScorer
from ..pretrain.config import NetworkConfig
from ..pretrain.networks import new_tower
from .settings import NETWORKS


def load_clip_scorer(folder: Path | None = None, *, networks: NetworkConfig = NETWORKS) -> ClipScorer:
    """Load the packaged image tower and the base's text encoder, or those in ``folder``.

    Args:
        folder: Folder that a build wrote; None takes the packaged one.
        networks: Sizes of the networks of the base.

    Raises:
        AssetsMissingError: If the package was installed without the base.
    """
    return _load(folder or embedded_file("emoji", "image_tower.safetensors").parent, networks)


@cache
def _load(folder: Path, networks: NetworkConfig) -> ClipScorer:
    return ClipScorer.read(folder, new_tower(networks))


def clip_score(images: Tensor, texts: Sequence[str]) -> Tensor:
    """Return the cosines (B,) of pictures (B, 3, 64, 64) in [0, 1] and their captions, by the packaged scorer."""
    return load_clip_scorer()(images, texts)
