"""Comparison of sub-groups of prompts: Fisher's exact test, an interval of the difference, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .rates import wilson_interval

ALPHA = 0.05


@dataclass(frozen=True)
class GroupTest:
    """The comparison of a group of prompts with the rest of the prompts.

    Args:
        n: Number of prompts of the group.
        won: Number of successes in the group.
        rest_n: Number of the other prompts.
        rest_won: Number of successes among the other prompts.
        p: Two-sided p-value of Fisher's exact test.
        least_p: Smallest p-value that groups of these sizes can have, whatever their successes are.
        interval: 95 % interval of the difference.
    """

    n: int
    won: int
    rest_n: int
    rest_won: int
    p: float
    least_p: float
    interval: tuple[float, float]

    @property
    def difference(self) -> float:
        """Success rate of the group minus that of the rest, in [-1, 1]."""
        return self.won / self.n - self.rest_won / self.rest_n


def group_test(flags: Sequence[bool], members: Sequence[bool]) -> GroupTest:
    """Compare the success on a group of prompts with the success on the rest.

    Args:
        flags: Success on each prompt.
        members: True for each prompt of the group.

    Raises:
        ValueError: If the lengths differ, or the group or the rest is empty.
    """
    if len(flags) != len(members) or all(members) or not any(members):
        raise ValueError(
            f"expected one flag for each of {len(members)} prompts, some in the group and some not, found {len(flags)} "
            f"flags and a group of {sum(members)}"
        )
    inside = [flag for flag, member in zip(flags, members, strict=True) if member]
    outside = [flag for flag, member in zip(flags, members, strict=True) if not member]
    counts = (sum(inside), len(inside), sum(outside), len(outside))
    return GroupTest(
        n=len(inside),
        won=sum(inside),
        rest_n=len(outside),
        rest_won=sum(outside),
        p=fisher_exact(*counts),
        least_p=fisher_exact(len(inside), len(inside), 0, len(outside)),
        interval=difference_interval(*counts),
    )


def fisher_exact(won: int, n: int, rest_won: int, rest_n: int) -> float:
    """Return the two-sided p-value of Fisher's exact test (J. R. Stat. Soc. 85, 1922).

    Both margins are fixed. The p-value is the probability of all tables that are at most as probable as the observed
    one.

    Args:
        won: Number of successes of the first group.
        n: Size of the first group.
        rest_won: Number of successes of the second group.
        rest_n: Size of the second group.

    Raises:
        ValueError: If a count is negative or exceeds its group.
    """
    if not (0 <= won <= n and 0 <= rest_won <= rest_n):
        raise ValueError(f"expected successes from 0 to the size of the group, found {won}/{n} and {rest_won}/{rest_n}")
    total = won + rest_won
    # Integers up to the division, so that equal probabilities compare as equal.
    ways = {k: math.comb(n, k) * math.comb(rest_n, total - k) for k in range(max(0, total - rest_n), min(n, total) + 1)}
    return sum(way for way in ways.values() if way <= ways[won]) / math.comb(n + rest_n, total)


def difference_interval(won: int, n: int, rest_won: int, rest_n: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two independent rates (Newcombe, Stat. Med. 17, 1998, method 10).

    It combines Wilson's intervals of both rates, so it needs no large sample.

    Args:
        won: Number of successes of the first group.
        n: Size of the first group.
        rest_won: Number of successes of the second group.
        rest_n: Size of the second group.
    """
    rate, rest = won / n, rest_won / rest_n
    (low, high), (rest_low, rest_high) = wilson_interval(won, n), wilson_interval(rest_won, rest_n)
    below, above = math.hypot(rate - low, rest_high - rest), math.hypot(high - rate, rest - rest_low)
    return rate - rest - below, rate - rest + above


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values after Holm's correction for several tests (Scand. J. Stat. 6, 1979), in the same order.

    The i-th smallest of m values, counted from 0, is multiplied by m - i. No value is smaller than one before it, and
    none exceeds 1. The probability of any false difference stays below the level, however the tests depend on each
    other.

    Args:
        p_values: p-values of the single tests.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for i, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - i) * p_values[place]))
        corrected[place] = largest
    return corrected
