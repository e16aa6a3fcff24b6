"""Terms on retain prompts, the prompts that keep their meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ..distributed import Shard
from ..prompts.encoded import EncodedPrompts
from .config import RetainConfig
from .terms import Iteration, Points, TermRows, given_of, pulled, rows_of


@dataclass(frozen=True)
class RetainPredictions:
    """Term that keeps the base's predictions on the retain prompts.

    AdvUnlearn (Zhang et al. 2024), equation 5.

    Args:
        config: Weight and batch size.
        prompts: Retain prompts.
        points: Training points on ``prompts``, or on the first of them if the bank has a limit.
    """

    name: ClassVar[str] = "retain"
    preserves: ClassVar[Literal[True]] = True
    space: ClassVar[Literal["noise"]] = "noise"
    config: RetainConfig
    prompts: EncodedPrompts
    points: Points

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.config.weight

    @property
    def least(self) -> int:
        """Number of rows per iteration."""
        return self.config.batch

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        index, points = self.points.sample(self.config.batch, iteration.generator)
        rows, given = rows_of(self.prompts, points.prompt_index), given_of(self.prompts, points.prompt_index)
        return TermRows(len(index), *rows, points.pred_cond, points, given=given)


@dataclass(frozen=True)
class RetainConditionings:
    """Term that keeps the base's conditionings of the retain prompts, without UNet calls; a departure from the paper.

    Args:
        config: Weight and batch size.
        prompts: Retain prompts, with the base's conditionings as targets.
        shard: Share of this process.
    """

    name: ClassVar[str] = "retain_conditioning"
    preserves: ClassVar[Literal[True]] = True
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    least: ClassVar[None] = None
    config: RetainConfig
    prompts: EncodedPrompts
    shard: Shard = field(default_factory=Shard)

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.config.conditioning_weight

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration."""
        return pulled(self.name, self.prompts, self.config.conditioning_batch, iteration.generator, self.shard)
