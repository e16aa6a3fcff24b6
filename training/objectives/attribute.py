"""Term that removes an attribute from another concept: ESD's newer code with a concept to erase from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..losses import attribute_target
from ..prompts.encoded import EncodedPrompts
from .config import UnlearnConfig
from .terms import Iteration, Points, TermRows, given_of, rows_of


@dataclass(frozen=True)
class EraseFrom:
    """Term that trains the student to predict another concept without the erased one.

    With the other concept f, the erased concept c and the empty prompt 0, the student's prediction for f shall be
    ``e(f) - eta (e(c) - e(0))`` on latents of f.

    Args:
        config: Batch size and negative guidance.
        prompts: Prompt f, once for each name of the erased concept.
        points: Training points on ``prompts``, whose anchors are the names of the erased concept.
    """

    name: ClassVar[str] = "unlearn"
    space: ClassVar[Literal["noise"]] = "noise"
    weight: ClassVar[float] = 1.0
    config: UnlearnConfig
    prompts: EncodedPrompts
    points: Points

    @property
    def least(self) -> int:
        """Number of rows per iteration."""
        return self.config.batch

    def rows(self, iteration: Iteration) -> TermRows:
        """Return this process's rows of one iteration.

        Raises:
            ValueError: If the points have no predictions for the erased concept.
        """
        index, points = self.points.sample(self.config.batch, iteration.generator)
        if points.pred_anchor is None:
            raise ValueError(
                "expected points with predictions for the erased concept, found none: open the source with anchors"
            )
        target = attribute_target(points.pred_cond, points.pred_anchor, points.pred_null, self.config.eta)
        rows, given = rows_of(self.prompts, points.prompt_index), given_of(self.prompts, points.prompt_index)
        return TermRows(len(index), *rows, target, points, given=given)
