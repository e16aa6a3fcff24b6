"""The judge's features of pictures, for distances between sets of pictures and between two pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from .judge import Judge, load_judge


class JudgeFeatures:
    """The features (B, 96) that FID and KID compare on the shapes world: the judge's last stage, averaged over pixels.

    Args:
        judge: Judge whose network gives the features; None takes the packaged judge.
    """

    def __init__(self, judge: Judge | None = None) -> None:
        self.judge = judge or load_judge()
        self.name = f"{self.judge.name}/{self.judge.version}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features (B, 96) of pictures (B, 3, 32, 32) in [0, 1]."""
        return self.layers(images)[-1].mean((2, 3))

    @torch.no_grad()
    def layers(self, images: Tensor) -> list[Tensor]:
        """Return the outputs (B, C, h, w) of the three stages, finest first, for pictures (B, 3, 32, 32) in [0, 1]."""
        network = self.judge.network
        seen = network.stem(images.float().cpu() * 2 - 1)
        found = []
        for stage in network.stages:
            seen = stage(seen)
            found.append(seen)
        return found
