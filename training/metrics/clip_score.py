"""CLIP score: cosine of picture and prompt in the space of the base's own image tower (Hessel et al., EMNLP 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..protocols import Case, Result
from .rates import Z_95

Scorer = Callable[[Tensor, Sequence[str]], Tensor]


class ClipScore:
    """Metric: mean cosine of pictures and their prompts, without CLIPScore's factor 2.5; interval of the mean.

    Args:
        scorer: Maps pictures (B, 3, H, W) in [0, 1] and texts to cosines (B,); its text side must be the frozen base's.
    """

    higher_is_better: ClassVar[bool] = True
    compares: ClassVar[bool] = False

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.scores: list[float] = []

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Score pictures (B, 3, H, W) in [0, 1] against the prompts of their ``cases``."""
        self.scores += self.scorer(images, [case.prompt for case in cases]).double().tolist()

    def compute(self) -> Result:
        """Return the mean with its normal 95 % interval.

        Raises:
            ValueError: If fewer than two pictures were seen: there is no interval then.
        """
        n = len(self.scores)
        if n < 2:
            raise ValueError(f"expected at least 2 scored pictures, found {n}; call update() first")
        scores = torch.tensor(self.scores, dtype=torch.float64)
        mean, half = float(scores.mean()), Z_95 * float(scores.std()) / math.sqrt(n)
        return Result(metric="clip_score", value=mean, n=n, interval=(mean - half, mean + half))
