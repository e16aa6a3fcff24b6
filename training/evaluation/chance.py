"""The floor of an attack: what the same number of pictures wins without any attack.

An attack that has many pictures judged wins by chance. The pool of pictures that no attack made comes from the empty
prompt and from open captions. An attack changes the text of a case and keeps its seed, so the pool does the same: for
each of several seeds it holds one picture of the empty prompt and pictures of several open captions. The floor is the
expected success rate of an attacker who asks for such pictures, as many for each case as the attack had judged.
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
        beyond: Number of cases with more tries than the pool has pictures to draw from.
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
        empty: Picture of the empty prompt, for each seed.
        open: Pictures of captions that name no value of the concept's factor, for each seed.

    Raises:
        ValueError: If there is no seed, or the seeds differ in number.
    """

    empty: tuple[bool, ...]
    open: tuple[tuple[bool, ...], ...]

    def __post_init__(self) -> None:
        if not self.empty or len(self.empty) != len(self.open) or not all(self.open):
            raise ValueError(
                f"expected a picture of the empty prompt and some of open captions for each seed, found "
                f"{len(self.empty)} of the empty prompt and captions for {len(self.open)} seeds"
            )

    @property
    def flags(self) -> tuple[bool, ...]:
        """Flags of all pictures."""
        return (*self.empty, *(flag for flags in self.open for flag in flags))


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


def floor_of(pool: Pool, tries: Sequence[int]) -> Floor:
    """Return the rate at which the pictures of a pool win by chance, over cases with given numbers of tries.

    The attacker keeps the seed of a case. With k tries he takes the empty prompt and k - 1 open captions. The rate is
    the mean over cases and seeds, and has no bias while k - 1 is at most the number of captions of a seed. Beyond that,
    no unbiased estimate exists; the captions then win with probability ``1 - (1 - p)^(k - 1)``, where p is their share.

    The interval is Wilson's for the mean over seeds, whose values lie in [0, 1]; so it is conservative.

    Args:
        pool: Pictures for several seeds.
        tries: Number of pictures that the attack had judged, one number for each case.

    Raises:
        ValueError: If there is no case, or a number of tries is negative.
    """
    _require_cases(tries)
    values = [_won(*row, tries) for row in zip(pool.empty, pool.open, strict=True)]
    n, fewest = len(values), min(map(len, pool.open))
    rate = sum(values) / n
    low, high = wilson_interval(sum(values), n)
    return Floor(rate, (min(low, rate), max(high, rate)), len(pool.flags), sum(pool.flags), _beyond(tries, fewest + 1))


def floor_of_any_seed(flags: Sequence[bool], tries: Sequence[int]) -> Floor:
    """Return the rate at which pictures win by chance if an attacker may also choose the seed of every picture.

    The rate is the mean of ``at_least_one`` over the cases, and has no bias. For a case with more tries than there are
    pictures no unbiased estimate exists; its term is ``1 - (1 - p)^tries`` with the share p of the pictures.

    The expected rate rises with p, so the interval maps the bounds of the Wilson interval of p. It is widened to
    contain the rate.

    Args:
        flags: Flags of independent pictures, True if the picture shows the concept.
        tries: Number of pictures that the attack had judged, one number for each case.

    Raises:
        ValueError: If there is no picture or no case, or a number of tries is negative.
    """
    _require_cases(tries)
    n, shown = len(flags), sum(flags)
    if not n:
        raise ValueError("expected a pool of pictures, found none: draw some")
    rate = sum(_some(shown, n, k) for k in tries) / len(tries)
    low, high = (sum(_independent(p, k) for k in tries) / len(tries) for p in wilson_interval(shown, n))
    return Floor(rate, (min(low, rate), max(high, rate)), n, shown, _beyond(tries, n))


def chance_of(encoder: Pool, base: Pool, tries: Sequence[int]) -> Chance:
    """Return the floors of an attack on the encoder and on the base; see ``floor_of``.

    Args:
        encoder: Pool drawn with the encoder.
        base: Pool drawn by the base.
        tries: Number of pictures that the attack had judged, one number for each case.

    Raises:
        ValueError: If there is no case, or a number of tries is negative.
    """
    return Chance(floor_of(encoder, tries), floor_of(base, tries))


def pools_of(records: Iterable[Mapping[str, Any]]) -> tuple[Pool, Pool]:
    """Return the pools of the encoder and of the base from the results of the probe ``chance``.

    Args:
        records: Results of an evaluation as JSON values.

    Raises:
        ValueError: If a part of a pool is missing.
    """
    found = {r["metric"]: r["settings"] for r in records if r["metric"] in CHANCE_METRICS}
    if missing := [name for name in CHANCE_METRICS if name not in found]:
        raise ValueError(
            f"expected results of the probe chance, found no {', '.join(missing)}: evaluate with the metric chance"
        )
    empty, opened, base_empty, base_open = (found[name] for name in CHANCE_METRICS)
    return _pool(empty, opened), _pool(base_empty, base_open)


def _pool(empty: Mapping[str, Any], opened: Mapping[str, Any]) -> Pool:
    flags, each = opened["shown"], int(opened["captions_per_seed"])
    return Pool(tuple(empty["shown"]), tuple(tuple(flags[i : i + each]) for i in range(0, len(flags), each)))


def _won(empty: bool, opened: Sequence[bool], tries: Sequence[int]) -> float:
    """Return the expected share of the cases that the pictures of one seed win."""
    won = 1.0 if empty else 0.0
    return sum(max(won, _some(sum(opened), len(opened), k - 1)) if k else 0.0 for k in tries) / len(tries)


def _some(shown: int, pictures: int, tries: int) -> float:
    """Return ``at_least_one``, or beyond the number of pictures the probability for independent pictures."""
    return at_least_one(shown, pictures, tries) if tries <= pictures else _independent(shown / pictures, tries)


def _independent(p: float, tries: int) -> float:
    """Return the probability that some of independent pictures show the concept, each with probability p."""
    return 1 - (1 - p) ** tries


def _beyond(tries: Sequence[int], pictures: int) -> int:
    return sum(k > pictures for k in tries)


def _require_cases(tries: Sequence[int]) -> None:
    if not tries or min(tries) < 0:
        raise ValueError(f"expected at least 0 tries for each of some cases, found {list(tries)[:5]}")


CHANCE_METRICS = tuple(f"chance_{source}{of}" for of in ("", "_base") for source in (EMPTY, OPEN))
