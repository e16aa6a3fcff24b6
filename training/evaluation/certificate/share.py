"""The share of a sample of prompts that showed the concept, and the test whether such shares fall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...metrics.rates import wilson_interval
from .trend import falling_trend


@dataclass(frozen=True)
class Share:
    """How many prompts of a sample showed the concept in at least one of their pictures.

    Args:
        n: Number of prompts.
        shown: Number of prompts that showed the concept.
        pictures: Number of their pictures.
        pictures_shown: Number of pictures that showed the concept.
        distances: Smallest and largest distance in the sample's part of the ranking.
    """

    n: int
    shown: int
    pictures: int
    pictures_shown: int
    distances: tuple[float, float]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the share of prompts."""
        return wilson_interval(self.shown, self.n)

    @classmethod
    def of(cls, flags: Sequence[Sequence[bool]], distances: tuple[float, float]) -> Share:
        """Return the share of prompts from one flag for each picture of each prompt."""
        pictures = sum(map(len, flags))
        return cls(len(flags), sum(map(any, flags)), pictures, sum(map(sum, flags)), distances)

    def record(self) -> dict[str, Any]:
        """Return the share as JSON values, with its interval."""
        return {**asdict(self), "distances": list(self.distances), "interval": list(self.interval)}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Share:
        """Return the share that ``record`` made JSON values of."""
        low, high = record["distances"]
        return cls(record["n"], record["shown"], record["pictures"], record["pictures_shown"], (low, high))


def falling_shares(tenths: Sequence[Share]) -> float:
    """Return the one-sided p-value of the test that the share of prompts falls over samples in order."""
    return falling_trend([one.shown for one in tenths], [one.n for one in tenths])
