"""Comparison of sub-groups: Fisher's test against a list of all tables, intervals, and Holm's correction."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations

import pytest

from robust_encoders.training.metrics.group_tests import difference_interval, fisher_exact, group_test, holm


def by_enumeration(won: int, n: int, rest_won: int, rest_n: int) -> float:
    """Fisher's p-value by every way to place the successes among the cases."""
    total, cases = won + rest_won, range(n + rest_n)
    ways = [sum(case < n for case in chosen) for chosen in combinations(cases, total)]
    shares = {k: Fraction(ways.count(k), len(ways)) for k in set(ways)}
    return float(sum(share for share in shares.values() if share <= shares[won]))


@pytest.mark.parametrize("counts", [(3, 4, 1, 5), (0, 3, 4, 6), (2, 2, 0, 7), (0, 4, 0, 5), (5, 5, 4, 4), (1, 6, 5, 6)])
def test_fishers_test_counts_all_tables_that_are_no_more_probable(counts: tuple[int, int, int, int]) -> None:
    assert fisher_exact(*counts) == pytest.approx(by_enumeration(*counts), abs=1e-12)


def test_fishers_test_on_the_lady_who_tastes_tea() -> None:
    assert fisher_exact(3, 4, 1, 4) == pytest.approx(34 / 70)
    with pytest.raises(ValueError, match="from 0 to the size of the group, found 5/4"):
        fisher_exact(5, 4, 1, 4)


def test_the_interval_of_a_difference_is_newcombes() -> None:
    low, high = difference_interval(56, 70, 48, 80)  # example (a) of Newcombe's Table II
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)
    low, high = difference_interval(0, 10, 0, 20)
    assert low < 0 < high


def test_holm_keeps_the_order_and_multiplies_by_what_is_left() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_group_is_compared_with_the_rest() -> None:
    found = group_test([True, True, True, False, False, False, False], [True, True, True, False, False, False, False])
    assert (found.n, found.won, found.rest_n, found.rest_won) == (3, 3, 4, 0)
    assert found.difference == 1
    assert found.p == found.least_p == 1 / math.comb(7, 3)
    with pytest.raises(ValueError, match="some in the group and some not"):
        group_test([True, False], [True, True])
