"""The rendered, labelled pictures that every part of the base is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor
from tqdm import tqdm

from .captions import TEMPLATES, random_caption
from .render import Scene, random_scene, render
from .vocabulary import FACTORS, VALUES


@dataclass(frozen=True)
class Pictures:
    """Pictures (N, 3, 32, 32) uint8 and labels (N, 4), the indices of their values in the order of ``FACTORS``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, n: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``n`` pictures (n, 3, 32, 32) in [0, 1], their labels (n, 4) and their indices (n,)."""
        indices = torch.randint(len(self), (n,), generator=generator)
        return self.images[indices].float() / 255, self.labels[indices], indices


def render_pictures(n: int, *, seed: int) -> Pictures:
    """Render ``n`` random scenes; equal seeds give equal pictures."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(n)]
    images = np.stack([render(scene, rng) for scene in tqdm(scenes, desc="render", disable=n < 5000)])
    labels = [[VALUES[factor].index(getattr(scene, factor)) for factor in FACTORS] for scene in scenes]
    return Pictures(torch.from_numpy(np.ascontiguousarray(images)), torch.tensor(labels))


def cached_pictures(path: Path, n: int, *, seed: int) -> Pictures:
    """Load the pictures at ``path``, or render and store them there."""
    if not path.exists():
        made = render_pictures(n, seed=seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        save_file({"images": made.images, "labels": made.labels}, aside)
        aside.replace(path)
    stored = load_file(path)
    return Pictures(stored["images"], stored["labels"])


def captions_of(labels: Tensor, generator: Generator, *, empty: float = 0.0) -> list[str]:
    """Return a random caption per label row (n, 4), over all templates and words; a share ``empty`` of them is ""."""
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    return ["" if rng.random() < empty else _caption(row, rng) for row in labels.tolist()]


def _caption(row: Sequence[int], rng: np.random.Generator) -> str:
    scene = Scene(**{factor: VALUES[factor][i] for factor, i in zip(FACTORS, row, strict=True)})
    return random_caption(scene, rng, TEMPLATES["all"]).text
