"""The two small picture networks of an embedded base: a classifier of labels, and the contrastive image tower."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
    )


class PictureNet(nn.Module):
    """Network of three strided stages and a linear head, from pictures (B, 3, 32, 32) to features (B, outputs).

    Args:
        outputs: Number of features.
        width: Number of channels of the first stage; the other two have twice as many.
    """

    def __init__(self, outputs: int, width: int = 48) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width // 2, 3, padding=1)
        self.stages = nn.Sequential(_stage(width // 2, width), _stage(width, 2 * width), _stage(2 * width, 2 * width))
        self.head = nn.Linear(2 * width * 16, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, outputs) of pictures (B, 3, 32, 32) in [0, 1]."""
        features: Tensor = self.head(self.stages(self.stem(images * 2 - 1)).flatten(1))
        return features


class LabelNet(PictureNet):
    """Network with one classifier for each label, over shared features.

    Args:
        labels: Number of values, by label.
    """

    def __init__(self, labels: Mapping[str, int]) -> None:
        super().__init__(sum(labels.values()))
        self.labels = dict(labels)

    def logits(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return logits (B, values of the label), by label, for pictures (B, 3, 32, 32) in [0, 1]."""
        return dict(zip(self.labels, self(images).split([*self.labels.values()], dim=1), strict=True))


class ImageTower(PictureNet):
    """Network that maps pictures and captions to one shared space, as CLIP does.

    ``text_projection`` maps the text encoder's pooled state to that space.

    Args:
        text_width: Width D of the text encoder.
        dimension: Width of the shared space.
    """

    def __init__(self, text_width: int = 96, dimension: int = 64) -> None:
        super().__init__(dimension)
        self.text_projection = nn.Linear(text_width, dimension, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.66))

    def embed_images(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, dimension) of pictures (B, 3, 32, 32) in [0, 1]."""
        return nn.functional.normalize(self(images), dim=-1)

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        """Return unit vectors (B, dimension) of the text encoder's pooled states (B, D)."""
        return nn.functional.normalize(self.text_projection(pooled), dim=-1)
