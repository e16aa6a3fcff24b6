"""Terms on prompts that keep their meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ..distributed import Shard
from ..prompts.encoded import EncodedPrompts
from .config import RetainConfig
from .terms import Iteration, Points, TermRows, pulled, rows_of


@dataclass(frozen=True)
class RetainPredictions:
    """The student predicts what the base does on the retain set (AdvUnlearn, Zhang et al. 2024, equation 5).

    Args:
        config: Weight and batch.
        prompts: Retain set.
        points: Training points on the first of ``prompts``.
    """

    name: ClassVar[str] = "retain"
    space: ClassVar[Literal["noise"]] = "noise"
    config: RetainConfig
    prompts: EncodedPrompts
    points: Points

    @property
    def weight(self) -> float:
        """Factor of its mean loss."""
        return self.config.weight

    @property
    def least(self) -> int:
        """Rows per iteration."""
        return self.config.batch

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        index, points = self.points.sample(self.config.batch, iteration.generator)
        return TermRows(len(index), *rows_of(self.prompts, points.prompt_index), points.pred_cond, points)


@dataclass(frozen=True)
class RetainConditionings:
    """The conditionings of the retain set stay those of the base: a departure, at no UNet call.

    Args:
        config: Weight and batch.
        prompts: Retain set, with its frozen conditionings as targets.
        shard: Share of this process.
    """

    name: ClassVar[str] = "retain_conditioning"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    least: ClassVar[None] = None
    config: RetainConfig
    prompts: EncodedPrompts
    shard: Shard = field(default_factory=Shard)

    @property
    def weight(self) -> float:
        """Factor of its mean loss."""
        return self.config.conditioning_weight

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        return pulled(self.name, self.prompts, self.config.conditioning_batch, iteration.generator, self.shard)
