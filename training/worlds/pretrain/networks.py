"""The two small picture networks of an embedded base: a classifier of labels, and the contrastive image tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .config import NetworkConfig

_CHANNELS = (48, 96, 96)


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
    """Network of strided stages and a linear head, from pictures (B, 3, H, W) to features (B, outputs).

    Args:
        outputs: Number of features.
        channels: Number of channels of each stage; each stage halves the side.
        side: Side of the pictures in pixels.
    """

    def __init__(self, outputs: int, channels: Sequence[int] = _CHANNELS, side: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels[0] // 2, 3, padding=1)
        inputs = (channels[0] // 2, *channels[:-1])
        self.stages = nn.Sequential(*(_stage(i, o) for i, o in zip(inputs, channels, strict=True)))
        self.head = nn.Linear(channels[-1] * (side // 2 ** len(channels)) ** 2, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, outputs) of pictures (B, 3, H, W) in [0, 1]."""
        features: Tensor = self.head(self.stages(self.stem(images * 2 - 1)).flatten(1))
        return features


class LabelNet(PictureNet):
    """Network with one classifier for each label, over shared features.

    Args:
        labels: Number of values, by label.
        channels: Number of channels of each stage; each stage halves the side.
        side: Side of the pictures in pixels.
    """

    def __init__(self, labels: Mapping[str, int], channels: Sequence[int] = _CHANNELS, side: int = 32) -> None:
        super().__init__(sum(labels.values()), channels, side)
        self.labels = dict(labels)

    def logits(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return logits (B, values of the label), by label, for pictures (B, 3, H, W) in [0, 1]."""
        return dict(zip(self.labels, self(images).split([*self.labels.values()], dim=1), strict=True))


class ImageTower(PictureNet):
    """Network that maps pictures and captions to one shared space, as CLIP does.

    ``text_projection`` maps the text encoder's pooled state to that space.

    Args:
        text_width: Width D of the text encoder.
        dimension: Width of the shared space.
        channels: Number of channels of each stage; each stage halves the side.
        side: Side of the pictures in pixels.
    """

    def __init__(
        self, text_width: int = 96, dimension: int = 64, *, channels: Sequence[int] = _CHANNELS, side: int = 32
    ) -> None:
        super().__init__(dimension, channels, side)
        self.text_projection = nn.Linear(text_width, dimension, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.66))

    def embed_images(self, images: Tensor) -> Tensor:
        """Return unit vectors (B, dimension) of pictures (B, 3, H, W) in [0, 1]."""
        return nn.functional.normalize(self(images), dim=-1)

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        """Return unit vectors (B, dimension) of the text encoder's pooled states (B, D)."""
        return nn.functional.normalize(self.text_projection(pooled), dim=-1)


def new_tower(config: NetworkConfig) -> ImageTower:
    """Return an untrained image tower for the text encoder."""
    return ImageTower(config.text_width, config.shared_width, channels=config.tower_channels, side=config.side)
