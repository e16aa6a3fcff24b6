"""The shapes judge as a detector of one concept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from ..worlds.shapes.concepts import factor_of
from ..worlds.shapes.vocabulary import VALUES


class JudgeLike(Protocol):
    """What detectors and retain metrics need of a judge."""

    version: str

    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return factor to probabilities (B, values) of pictures (B, 3, H, W) in [0, 1]."""
        ...

    def __call__(self, images: Tensor) -> Mapping[str, Sequence[str]]:
        """Return factor to canonical names, one per picture."""
        ...


class JudgeDetector:
    """Scores pictures by the judge's probability of one concept value.

    Args:
        judge: The judge.
        concept: A canonical value of the shapes world, for example ``circle``, ``striped`` or ``red``.
        threshold: From this probability on the concept counts as present; one half makes it the judge's first choice.

    Raises:
        ValueError: If the world has no such value, or the threshold does not lie in (0, 1].
    """

    def __init__(self, judge: JudgeLike, concept: str, *, threshold: float = 0.5) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"expected a threshold in (0, 1], found {threshold}; at 0 every picture would count")
        self.judge = judge
        self.factor, value = factor_of(concept)
        self.column = VALUES[self.factor].index(value)
        self.name = f"shapes-judge/{concept}"
        self.version = judge.version
        self.threshold = threshold

    def __call__(self, images: Tensor) -> Tensor:
        """Return probabilities (B,) of the concept in pictures (B, 3, H, W) in [0, 1]."""
        return self.judge.probabilities(images)[self.factor][:, self.column]
