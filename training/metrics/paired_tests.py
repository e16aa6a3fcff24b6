"""Paired comparison of two encoders on the same prompts: McNemar's test on the pairs that disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from .rates import Z_95, wilson_interval

if TYPE_CHECKING:
    from ..types import Verdict


@dataclass(frozen=True)
class PairedTest:
    """What two encoders' verdicts on the same prompts say about their difference.

    Args:
        n: Prompts.
        both: Both fail to resist.
        only_first: Only the first does.
        only_second: Only the second does.
        neither: Neither does.
        p_exact: Two-sided p of McNemar's exact test.
        p_mid: Its mid-p version, which is less conservative.
        difference: Rate of the first minus rate of the second.
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
    """Return the two-sided exact and mid p of McNemar's test (Psychometrika 12, 1947).

    Under the null hypothesis each of the ``only_first + only_second`` discordant pairs falls on either side with
    probability one half. Exact: the doubled smaller tail, at most 1. Mid-p (Fagerland et al., BMC Med. Res. Methodol.
    13:91, 2013): splits as uneven as the observed one count half.

    Args:
        only_first: Pairs where only the first succeeded.
        only_second: Pairs where only the second did.

    Raises:
        ValueError: If a count is negative.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"expected counts of at least 0, found {only_first} and {only_second}")
    n, low = only_first + only_second, min(only_first, only_second)
    # Whole numbers up to the division: binomials of many pairs exceed a float.
    tail, point = sum(math.comb(n, k) for k in range(low + 1)), math.comb(n, low)
    if only_first == only_second:
        return 1.0, 1 - point / 2 ** (n + 1)
    return 2 * tail / 2**n, (2 * tail - point) / 2**n


def mcnemar_below(only_first: int, only_second: int) -> float:
    """Return the one-sided exact p of McNemar's test, against the first succeeding on fewer prompts than the second.

    The chance of ``only_first`` or fewer heads in as many fair flips as there are discordant pairs; see ``mcnemar``.

    Args:
        only_first: Pairs where only the first succeeded.
        only_second: Pairs where only the second did.

    Raises:
        ValueError: If a count is negative.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"expected counts of at least 0, found {only_first} and {only_second}")
    n = only_first + only_second
    p: float = sum(math.comb(n, k) for k in range(only_first + 1)) / 2**n
    return p


def paired_test(first: Sequence[bool], second: Sequence[bool]) -> PairedTest:
    """Compare two encoders by whether an attack succeeded on each of the same prompts.

    The interval is Newcombe's score interval for paired proportions (Stat. Med. 17, 1998, method 10): it needs no
    large sample, and no discordant pair still has a width.

    Args:
        first: Per prompt, whether the attack on the first encoder succeeded.
        second: The same for the second.

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


def paired_verdicts(first: Sequence[Verdict], second: Sequence[Verdict]) -> PairedTest:
    """Compare two encoders by the verdicts of one attack, on ``any``.

    Raises:
        ValueError: If they are not about the same prompts and seeds in the same order, or there are none.
    """
    keys = [[(v.index, v.prompt, v.seed) for v in verdicts] for verdicts in (first, second)]
    wrong = [one or other for one, other in zip_longest(*keys) if one != other]
    if wrong:
        raise ValueError(f"expected verdicts on the same prompts and seeds, found others at cases {wrong[:3]}")
    return paired_test([v.any for v in first], [v.any for v in second])


def newcombe_interval(both: int, only_first: int, only_second: int, neither: int) -> tuple[float, float]:
    """Return Newcombe's 95 % interval (method 10) of the difference of two paired proportions.

    Args:
        both: Pairs where both succeeded.
        only_first: Pairs where only the first did.
        only_second: Pairs where only the second did.
        neither: Pairs where neither did.
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
    """Correlation of the pairs, with Newcombe's continuity correction where it is positive; 0 at an empty margin."""
    n = both + only_first + only_second + neither
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    excess = both * neither - only_first * only_second
    corrected = max(excess - n / 2, 0.0) if excess > 0 else float(excess)
    return corrected / math.sqrt(margins) if margins else 0.0
