"""Retention: does a picture still show what its prompt states, attribute by attribute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from ..detectors.label_judge import LabelJudge
from ..types import Case, Result
from .rates import rate


class JudgeAccuracy:
    """Metric: how often the judge sees the value that the prompt states.

    Cases whose prompt leaves the attribute open do not count: any value would be faithful there.

    Args:
        judge: The judge.
        attribute: An attribute that the judge reads; empty for all stated ones of a picture at once.
        name: Name of the result, before ``_<attribute>``.
    """

    higher_is_better: ClassVar[bool] = True
    compares: ClassVar[bool] = False

    def __init__(self, judge: LabelJudge, attribute: str = "", *, name: str = "retain") -> None:
        self.judge = judge
        self.attribute = attribute
        self.name = f"{name}_{attribute or 'all'}"
        self.flags: list[bool] = []

    def update(self, images: Tensor, cases: Sequence[Case], reference: Tensor | None = None) -> None:
        """Judge pictures (B, 3, H, W) in [0, 1] against what their ``cases`` expect."""
        seen = self.judge(images)
        for row, case in enumerate(cases):
            stated = [f for f in case.expected if self.attribute in ("", f)]
            if stated:
                self.flags.append(all(seen[f][row] == case.expected[f] for f in stated))

    def compute(self) -> Result:
        """Return the accuracy over everything seen so far.

        Raises:
            ValueError: If no prompt stated the attribute.
        """
        result = rate(self.name, self.flags)
        return replace(result, detector=self.judge.name, detector_version=self.judge.version)


def not_as_asked(judge: LabelJudge, images: Tensor, cases: Sequence[Case]) -> list[str]:
    """Return, per picture (B, 3, H, W) in [0, 1], the values that the judge sees instead of stated ones, in words."""
    seen = judge(images)
    wrong = (
        [seen[f][row] for f, value in case.expected.items() if seen[f][row] != value] for row, case in enumerate(cases)
    )
    return [", ".join(values) for values in wrong]
