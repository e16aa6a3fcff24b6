"""Retention: the share of pictures that still show the attributes stated in their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from ..detectors.label_judge import LabelJudge
from ..types import Case, Result
from .rates import rate


class JudgeAccuracy:
    """Share of pictures in which the judge sees the value that the prompt states; higher is better.

    Cases whose prompt does not state the attribute do not count, since any value would be faithful.

    Args:
        judge: Judge of the pictures.
        attribute: Attribute to compare; empty to require all attributes that the prompt states.
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
        """Judge pictures (B, 3, H, W) in [0, 1] against the values that their ``cases`` expect."""
        seen = self.judge(images)
        for row, case in enumerate(cases):
            stated = [f for f in case.expected if self.attribute in ("", f)]
            if stated:
                self.flags.append(all(seen[f][row] == case.expected[f] for f in stated))

    def compute(self) -> Result:
        """Return the accuracy over all pictures added so far.

        Raises:
            ValueError: If no prompt stated the attribute.
        """
        result = rate(self.name, self.flags)
        return replace(result, detector=self.judge.name, detector_version=self.judge.version)


def not_as_asked(judge: LabelJudge, images: Tensor, cases: Sequence[Case]) -> list[str]:
    """Return, for each picture (B, 3, H, W) in [0, 1], the wrong values that the judge sees, joined by commas.

    A value is wrong if the case expects another one; a picture as expected gives an empty text.
    """
    seen = judge(images)
    wrong = (
        [seen[f][row] for f, value in case.expected.items() if seen[f][row] != value] for row, case in enumerate(cases)
    )
    return [", ".join(values) for values in wrong]
