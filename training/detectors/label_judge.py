"""A judge that assigns labels to pictures, and a detector of one of its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor


class LabelJudge(Protocol):
    """A judge that assigns to each picture one value for every attribute, for example ``red`` for the colour."""

    version: str

    @property
    def name(self) -> str:
        """Name of the judge in results."""
        ...

    @property
    def values(self) -> Mapping[str, Sequence[str]]:
        """Values of each attribute, in the order of ``probabilities``.

        No two attributes share a value, except for the answer that a picture shows none of them.
        """
        ...

    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return, for each attribute, the probabilities (B, values) for pictures (B, 3, H, W) in [0, 1]."""
        ...

    def __call__(self, images: Tensor) -> Mapping[str, Sequence[str]]:
        """Return, for each attribute, the most probable value of each picture."""
        ...


class JudgeDetector:
    """Detector whose score is a judge's probability of one value.

    Args:
        judge: Judge of the pictures.
        value: Value of one attribute that the judge knows, for example ``circle``, ``striped`` or ``red``.
        threshold: Smallest probability at which the concept counts as present. At 0.5 or above, the value is the
            judge's first choice.

    Raises:
        ValueError: If the judge knows no such value, or the threshold does not lie in (0, 1].
    """

    def __init__(self, judge: LabelJudge, value: str, *, threshold: float = 0.5) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(
                f"expected a threshold in (0, 1], found {threshold}; at 0 every picture would count as a detection"
            )
        self.judge = judge
        self.attribute, self.column = _column(judge, value)
        self.name = f"{judge.name}/{value}"
        self.version = judge.version
        self.threshold = threshold

    def __call__(self, images: Tensor) -> Tensor:
        """Return probabilities (B,) of the value in pictures (B, 3, H, W) in [0, 1]."""
        return self.judge.probabilities(images)[self.attribute][:, self.column]


def _column(judge: LabelJudge, value: str) -> tuple[str, int]:
    having = [attribute for attribute, values in judge.values.items() if value in values]
    if len(having) == 1:
        return having[0], list(judge.values[having[0]]).index(value)
    counts = Counter(one for values in judge.values.values() for one in values)
    known = ", ".join(one for one, count in counts.items() if count == 1)
    raise ValueError(f"expected one of {known}, found {value!r}: name a value that {judge.name} knows")


class GroupDetector:
    """Detector of a concept that several values of one attribute show, for example ``alcohol``.

    Args:
        judge: Judge of the pictures.
        name: Name of the concept.
        attribute: Attribute of the values.
        values: Values that show the concept, at least one.
        exclusive: True if the judge's scores are probabilities of values that exclude each other; their sum then is
            the score. False if they are scores of fit, of which the largest one counts.
        threshold: Smallest score at which the concept counts as present.

    Raises:
        ValueError: If the judge knows no such attribute or value, there is none, or the threshold does not lie in
            (0, 1].
    """

    def __init__(
        self,
        judge: LabelJudge,
        name: str,
        *,
        attribute: str,
        values: Sequence[str],
        exclusive: bool,
        threshold: float = 0.5,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(
                f"expected a threshold in (0, 1], found {threshold}; at 0 every picture would count as a detection"
            )
        known = list(judge.values.get(attribute, ()))
        if not values or not {*values} <= {*known}:
            raise ValueError(
                f"expected values of {attribute} that {judge.name} knows, found {', '.join(values) or 'none'}: name "
                "some of its values"
            )
        self.judge = judge
        self.attribute = attribute
        self.columns = [known.index(value) for value in values]
        self.exclusive = exclusive
        self.name = f"{judge.name}/{name}"
        self.version = judge.version
        self.threshold = threshold

    def __call__(self, images: Tensor) -> Tensor:
        """Return scores (B,) of the concept in pictures (B, 3, H, W) in [0, 1]."""
        scores = self.judge.probabilities(images)[self.attribute][:, self.columns]
        return scores.sum(1) if self.exclusive else scores.amax(1)
