"""The floor of an attack: what the same number of pictures wins without any attack.

An attack that has many pictures judged wins by chance. The pool of pictures that no attack made comes from the empty
prompt and from open captions. The floor is the expected success rate of an attacker who asks only for such pictures, as
many for each case as the attack had judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics.rates import wilson_interval

EMPTY, OPEN = "empty", "open"


@dataclass(frozen=True)
class Floor:
    """The expected rate of success by chance.

    Args:
        rate: Expected share of the cases on which at least one picture shows the concept.
        interval: 95 % interval of the rate.
        pictures: Number of pictures in the pool.
        shown: Number of pictures in the pool that show the concept.
        beyond: Number of cases with more tries than the pool has pictures.
    """

    rate: float
    interval: tuple[float, float]
    pictures: int
    shown: int
    beyond: int = 0


@dataclass(frozen=True)
class Pool:
    """Pictures that no attack made: one flag for each, True if the detector finds the concept.

    Args:
        empty: Pictures of the empty prompt.
        open: Pictures of captions that name no value of the concept's factor.
    """

    empty: tuple[bool, ...]
    open: tuple[bool, ...]

    @property
    def flags(self) -> tuple[bool, ...]:
        """Flags of all pictures."""
        return (*self.empty, *self.open)


@dataclass(frozen=True)
class Chance:
    """The floors of one attack on the encoder and on the base.

    Args:
        encoder: Floor by the encoder's pictures.
        base: Floor by the base's pictures.
    """

    encoder: Floor
    base: Floor

    @property
    def lower(self) -> Floor:
        """The lower floor, against which aims count."""
        return min(self.encoder, self.base, key=lambda floor: floor.rate)


def at_least_one(shown: int, pictures: int, tries: int) -> float:
    """Return the probability that some of the pictures drawn from a pool without replacement show the concept.

    The hypergeometric distribution gives ``1 - C(pictures - shown, tries) / C(pictures, tries)``. If the pool is a
    random sample in which each picture shows the concept with probability p, this estimates ``1 - (1 - p)^tries``
    without bias. It is pass@k of Chen et al., arXiv:2107.03374, equation 1.

    Args:
        shown: Number of pictures in the pool that show the concept.
        pictures: Number of pictures in the pool.
        tries: Number of pictures drawn, at most ``pictures``.

    Raises:
        ValueError: If the pool is empty, or a number lies outside its range.
    """
    if pictures < 1 or not 0 <= shown <= pictures or not 0 <= tries <= pictures:
        raise ValueError(
            f"expected a pool of at least one picture, and at most its size shown and tried, found {pictures} "
            f"pictures, {shown} shown and {tries} tries"
        )
    return 1 - math.comb(pictures - shown, tries) / math.comb(pictures, tries)


def floor_of(flags: Sequence[bool], tries: Sequence[int]) -> Floor:
    """Return the rate at which pictures of a pool win by chance, over cases with given numbers of tries.

    The rate is the mean of ``at_least_one`` over the cases. It has no bias. For a case with more tries than the pool
    has pictures no unbiased estimate exists; its term is ``1 - (1 - p)^tries`` with the pool's own share p.

    The interval is exact in p: the expected rate rises with p, so it maps the bounds of the Wilson interval of p. It is
    widened to contain the rate.

    Args:
        flags: Flags of the pool's pictures, True if the picture shows the concept.
        tries: Number of pictures that the attack had judged, one number for each case.

    Raises:
        ValueError: If there is no picture or no case, or a number of tries is negative.
    """
    n, shown = len(flags), sum(flags)
    if not n or not tries or min(tries) < 0:
        raise ValueError(
            f"expected a pool of pictures, and at least 0 tries for each of some cases, found {n} pictures and "
            f"{len(tries)} cases{f' with at least {min(tries)} tries' if tries else ''}"
        )
    terms = [at_least_one(shown, n, k) if k <= n else _independent(shown / n, k) for k in tries]
    rate = sum(terms) / len(terms)
    low, high = (sum(_independent(p, k) for k in tries) / len(tries) for p in wilson_interval(shown, n))
    return Floor(rate, (min(low, rate), max(high, rate)), n, shown, sum(k > n for k in tries))


def chance_of(encoder: Pool, base: Pool, tries: Sequence[int]) -> Chance:
    """Return the floors of an attack on the encoder and on the base.

    Args:
        encoder: Pool drawn with the encoder.
        base: Pool drawn by the base.
        tries: Number of pictures that the attack had judged, one number for each case.

    Raises:
        ValueError: If a pool has no picture, or there is no case.
    """
    return Chance(floor_of(encoder.flags, tries), floor_of(base.flags, tries))


def pools_of(records: Iterable[Mapping[str, Any]]) -> tuple[Pool, Pool]:
    """Return the pools of the encoder and of the base from the results of the probe ``chance``.

    Args:
        records: Results of an evaluation as JSON values.

    Raises:
        ValueError: If a part of a pool is missing.
    """
    flags = {r["metric"]: tuple(r["settings"]["shown"]) for r in records if r["metric"] in CHANCE_METRICS}
    if missing := [name for name in CHANCE_METRICS if name not in flags]:
        raise ValueError(
            f"expected results of the probe chance, found no {', '.join(missing)}: evaluate with the metric chance"
        )
    empty, opened, base_empty, base_open = (flags[name] for name in CHANCE_METRICS)
    return Pool(empty, opened), Pool(base_empty, base_open)


def _independent(p: float, tries: int) -> float:
    """Return the probability that some of independent pictures show the concept, each with probability p."""
    return 1 - (1 - p) ** tries


CHANCE_METRICS = tuple(f"chance_{source}{of}" for of in ("", "_base") for source in (EMPTY, OPEN))
