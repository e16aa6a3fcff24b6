"""The rendered, labelled pictures that every part of the base is trained on."""

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
