"""A trained judge's features of pictures, for distances between sets of pictures and between two pictures."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .pretrain.networks import PictureNet


class NetworkJudge(Protocol):
    """A judge that is one network."""

    version: str

    @property
    def network(self) -> PictureNet:
        """Network of the judge."""
        ...

    @property
    def name(self) -> str:
        """Name of the judge in results."""
        ...


class NetworkFeatures:
    """The features (B, C) that FID and KID compare on an embedded world: the judge's last stage, averaged over pixels.

    Args:
        judge: Judge whose network gives the features.
    """

    def __init__(self, judge: NetworkJudge) -> None:
        self.judge = judge
        self.name = f"{judge.name}/{judge.version}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features (B, C) of pictures (B, 3, H, W) in [0, 1]."""
        return self.layers(images)[-1].mean((2, 3))

    @torch.no_grad()
    def layers(self, images: Tensor) -> list[Tensor]:
        """Return the outputs (B, C, h, w) of the stages, finest first, for pictures (B, 3, H, W) in [0, 1]."""
        network = self.judge.network
        seen = network.stem(images.float().cpu() * 2 - 1)
        found = []
        for stage in network.stages:
            seen = stage(seen)
            found.append(seen)
        return found
