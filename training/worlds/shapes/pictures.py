"""The rendered, labelled pictures that every part of the base is trained on, and what a judge takes for a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor
from tqdm import tqdm

from ..pretrain.corpus import Pictures
from .captions import TEMPLATES, random_caption
from .render import Scene, random_scene, render
from .vocabulary import FACTORS, VALUES


def render_pictures(n: int, *, seed: int) -> Pictures:
    """Render ``n`` random scenes; equal seeds give equal pictures."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(n)]
    images = np.stack([render(scene, rng) for scene in tqdm(scenes, desc="render", disable=n < 5000)])
    labels = [[VALUES[factor].index(getattr(scene, factor)) for factor in FACTORS] for scene in scenes]
    return Pictures(torch.from_numpy(np.ascontiguousarray(images)), torch.tensor(labels))


def captions_of(labels: Tensor, generator: Generator, *, empty: float = 0.0) -> list[str]:
    """Return a random caption for each row of labels (n, 4); a share ``empty`` of the captions is "".

    Captions come from all templates and all words.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    return ["" if rng.random() < empty else _caption(row, rng) for row in labels.tolist()]


def _caption(row: Sequence[int], rng: np.random.Generator) -> str:
    scene = Scene(**{factor: VALUES[factor][i] for factor, i in zip(FACTORS, row, strict=True)})
    return random_caption(scene, rng, TEMPLATES["all"]).text


def as_pictures(images: Tensor) -> Tensor:
    """Return pictures (B, 3, 32, 32) in [0, 1] as float32 on the CPU.

    Raises:
        ValueError: If the pictures have another size, or values outside [0, 1].
    """
    if images.ndim != 4 or images.shape[1:] != (3, 32, 32):
        raise ValueError(f"expected pictures (B, 3, 32, 32), found {tuple(images.shape)}")
    if images.numel() and not 0 <= float(images.min()) <= float(images.max()) <= 1:
        raise ValueError(
            "expected pictures in [0, 1], found values outside; divide bytes by 255, or map [-1, 1] by x / 2 + 0.5"
        )
    return images.float().cpu()
