"""Paired comparison of two encoders on the same prompts: McNemar's test on the pairs with different outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest

from ..types import Result, Verdict
from .rates import Z_95, wilson_interval


@dataclass(frozen=True)
class PairedTest:
    """The comparison of two encoders by the verdicts of an attack on the same prompts.

    Args:
        n: Number of prompts.
        both: Number of prompts on which the attack succeeds against both encoders.
        only_first: Number of prompts on which the attack succeeds only against the first encoder.
        only_second: Number of prompts on which the attack succeeds only against the second encoder.
        neither: Number of prompts on which the attack succeeds against neither encoder.
        p_exact: Two-sided p-value of McNemar's exact test.
        p_mid: Two-sided mid-p value of McNemar's test, which is less conservative.
        difference: Success rate against the first encoder minus the rate against the second; negative if the first
            encoder resists more attacks.
        interval: 95 % interval of the difference.
    """

    n: int
    both: int
    only_first: int
    only_second: int
    neither: int
    p_exact: float
    p_mid: float
    difference: float
    interval: tuple[float, float]


def mcnemar(only_first: int, only_second: int) -> tuple[float, float]:
    """Return the two-sided exact p-value and mid-p value of McNemar's test (Psychometrika 12, 1947).

    Under the null hypothesis, each of the ``only_first + only_second`` discordant pairs falls on either side with
    probability one half. The exact p-value is twice the smaller tail, at most 1. For the mid-p value (Fagerland et al.,
    BMC Med. Res. Methodol. 13:91, 2013), splits as uneven as the observed one count half.

    Args:
        only_first: Number of pairs where only the first succeeded.
        only_second: Number of pairs where only the second succeeded.

    Raises:
        ValueError: If a count is negative.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"expected counts of at least 0, found {only_first} and {only_second}")
    n, low = only_first + only_second, min(only_first, only_second)
    # Integers up to the division: the binomials of many pairs exceed the range of a float.
    tail, point = sum(math.comb(n, k) for k in range(low + 1)), math.comb(n, low)
    if only_first == only_second:
        return 1.0, 1 - point / 2 ** (n + 1)
    return 2 * tail / 2**n, (2 * tail - point) / 2**n


def mcnemar_below(only_first: int, only_second: int) -> float:
    """Return the one-sided exact p-value of McNemar's test.

    The alternative hypothesis is that the first succeeds on fewer prompts than the second. The p-value is the
    probability of ``only_first`` or fewer heads in as many fair coin flips as there are discordant pairs; see
    ``mcnemar``.

    Args:
        only_first: Number of pairs where only the first succeeded.
        only_second: Number of pairs where only the second succeeded.

    Raises:
        ValueError: If a count is negative.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"expected counts of at least 0, found {only_first} and {only_second}")
    n = only_first + only_second
    p: float = sum(math.comb(n, k) for k in range(only_first + 1)) / 2**n
    return p


def paired_test(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """Compare two encoders by the success of an attack on each of the same prompts.

    The interval is Newcombe's score interval for paired proportions (Stat. Med. 17, 1998, method 10). It needs no large
    sample, and its width is positive even without discordant pairs.

    Args:
        first: Success of the attack against the first encoder, one flag per prompt.
        second: Success of the attack against the second encoder, one flag per prompt.

    Raises:
        ValueError: If the lengths differ, or there are no prompts.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"expected the same prompts for both, at least one, found {len(first)} and {len(second)}")
    pairs = list(zip(first, second, strict=True))
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    one, other = pairs.count((True, False)), pairs.count((False, True))
    p_exact, p_mid = mcnemar(one, other)
    interval = newcombe_interval(both, one, other, neither)
    return PairedTest(len(pairs), both, one, other, neither, p_exact, p_mid, (one - other) / len(pairs), interval)


def paired_difference(metric: str, first: Sequence[bool], second: Sequence[bool]) -> Result:
    """Return the rate of the first less the rate of the second on the same prompts, with Newcombe's interval.

    Args:
        metric: Name of the result.
        first: Outcome of the first, one flag per prompt.
        second: Outcome of the second, one flag per prompt.

    Returns:
        The difference, in [-1, 1]; its settings hold the fields of ``PairedTest`` as ``paired``.

    Raises:
        ValueError: If the lengths differ, or there are no prompts.
    """
    found = paired_test(first, second)
    return Result(metric, found.difference, found.n, found.interval, settings={"paired": asdict(found)})


def paired_verdicts(first: Sequence[Verdict], second: Sequence[Verdict]) -> PairedTest:
    """Compare two encoders by the field ``any`` of the verdicts of one attack.

    Raises:
        ValueError: If the verdicts are not on the same prompts and seeds in the same order, or there are none.
    """
    keys = [[(v.index, v.prompt, v.seed) for v in verdicts] for verdicts in (first, second)]
    wrong = [one or other for one, other in zip_longest(*keys) if one != other]
    if wrong:
        raise ValueError(f"expected verdicts on the same prompts and seeds, found others at cases {wrong[:3]}")
    return paired_test([v.any for v in first], [v.any for v in second])


def newcombe_interval(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """Return Newcombe's 95 % interval (method 10) of the difference of two paired proportions.

    Args:
        both: Number of pairs with two successes.
        only_first: Number of pairs with a success only of the first.
        only_second: Number of pairs with a success only of the second.
        neither: Number of pairs without a success.
    """
    n = both + only_first + only_second + neither
    rates = [(both + only_first) / n, (both + only_second) / n]
    bounds = [wilson_interval(both + count, n, z=Z_95) for count in (only_first, only_second)]
    (l1, u1), (l2, u2) = bounds
    phi = _phi(both, only_first, only_second, neither)
    difference = rates[0] - rates[1]
    below = _spread(rates[0] - l1, u2 - rates[1], phi)
    above = _spread(u1 - rates[0], rates[1] - l2, phi)
    return difference - below, difference + above


def _spread(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def _phi(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Return the correlation of the pairs; 0 if a margin of the table is empty.

    A positive correlation has Newcombe's continuity correction.
    """
    n = both + only_first + only_second + neither
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    excess = both * neither - only_first * only_second
    corrected = max(excess - n / 2, 0.0) if excess > 0 else float(excess)
    return corrected / math.sqrt(margins) if margins else 0.0
