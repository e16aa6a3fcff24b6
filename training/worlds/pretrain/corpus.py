"""What an embedded base is trained on: labelled pictures and their captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from .networks import LabelNet


@dataclass(frozen=True)
class Pictures:
    """Pictures (N, 3, 32, 32) uint8 and labels (N, K), the indices of their values."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, n: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``n`` pictures (n, 3, 32, 32) in [0, 1], their labels (n, K) and their indices (n,)."""
        indices = torch.randint(len(self), (n,), generator=generator)
        return self.images[indices].float() / 255, self.labels[indices], indices


class Prompt(Protocol):
    """A caption, and what a picture of it shall show."""

    @property
    def text(self) -> str:
        """The caption."""
        ...

    @property
    def expected(self) -> Mapping[str, str]:
        """Label to value, of the labels that the caption states."""
        ...


class Reader(Protocol):
    """Names what a picture shows, label by label."""

    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return label to probabilities (B, values) of pictures (B, 3, H, W) in [0, 1]."""
        ...

    def __call__(self, images: Tensor) -> Mapping[str, Sequence[str]]:
        """Return label to values, one per picture (B, 3, H, W) in [0, 1]."""
        ...


class Corpus(Protocol):
    """A world as the build of its base sees it."""

    @property
    def labels(self) -> Mapping[str, int]:
        """Label of a picture to the number of its values, in the order of ``Pictures.labels``."""
        ...

    def pictures(self, n: int, *, seed: int) -> Pictures:
        """Return n pictures; equal seeds give equal pictures."""
        ...

    def captions(self, labels: Tensor, generator: Generator, *, empty: float = 0.0) -> list[str]:
        """Return a random caption per row of labels (n, K); a share ``empty`` of them is ""."""
        ...

    def prompts(self, n: int, *, seed: int) -> Sequence[Prompt]:
        """Return captions that no training sees, to measure the base by."""
        ...

    def reader(self, network: LabelNet, version: str) -> Reader:
        """Return the judge of a trained network."""
        ...


def random_labels(corpus: Corpus, n: int, generator: Generator) -> Tensor:
    """Return labels (n, K), each value with equal chance."""
    return torch.stack([torch.randint(size, (n,), generator=generator) for size in corpus.labels.values()], dim=1)


def cached_pictures(path: Path, make: Callable[[], Pictures]) -> Pictures:
    """Load the pictures at ``path``, or make and store them there."""
    if not path.exists():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".tmp")
        save_file({"images": made.images, "labels": made.labels}, aside)
        aside.replace(path)
    stored = load_file(path)
    return Pictures(stored["images"], stored["labels"])
