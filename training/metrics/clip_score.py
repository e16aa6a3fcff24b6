"""CLIP score: cosine similarity of picture and prompt in CLIP's joint space (Hessel et al., EMNLP 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..types import Case, Result
from .rates import Z_95

Scorer = Callable[[Tensor, Sequence[str]], Tensor]


class ClipScore:
    """Mean cosine similarity of pictures and their prompts, without CLIPScore's factor 2.5; higher is better.

    Args:
        scorer: Function from pictures (B, 3, H, W) in [0, 1] and texts to cosine similarities (B,). It must not use the
            hardened text encoder, but the frozen base's or that of a published CLIP model.
        settings: Description of the scorer, recorded in the settings of the result.
    """

    higher_is_better: ClassVar[bool] = True
    compares: ClassVar[bool] = False

    def __init__(self, scorer: Scorer, *, settings: Mapping[str, Any] | None = None) -> None:
        self.scorer = scorer
        self.settings = dict(settings or {})
        self.scores: list[float] = []

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Score pictures (B, 3, H, W) in [0, 1] against the prompts of their ``cases``."""
        self.scores += self.scorer(images, [case.prompt for case in cases]).double().tolist()

    def compute(self) -> Result:
        """Return the mean score with its 95 % interval under a normal distribution.

        Raises:
            ValueError: If fewer than two pictures were added, since no interval exists then.
        """
        return mean_score("clip_score", self.scores, self.settings)


def mean_score(metric: str, scores: Sequence[float], settings: Mapping[str, Any]) -> Result:
    """Return the mean of the scores of pictures with its 95 % interval under a normal distribution.

    Raises:
        ValueError: If there are fewer than two scores, since no interval exists then.
    """
    n = len(scores)
    if n < 2:
        raise ValueError(f"expected at least 2 scored pictures, found {n}; call update() first")
    values = torch.tensor(scores, dtype=torch.float64)
    mean, half = float(values.mean()), Z_95 * float(values.std()) / math.sqrt(n)
    return Result(metric=metric, value=mean, n=n, interval=(mean - half, mean + half), settings=dict(settings))
