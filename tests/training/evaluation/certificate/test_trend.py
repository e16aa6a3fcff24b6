"""The test whether success falls: against all permutations, and against its own limits."""

from __future__ import annotations

import math
from itertools import combinations

import pytest

from robust_encoders.training.evaluation.certificate import trend
from robust_encoders.training.evaluation.certificate.trend import falling_trend


def by_counting(shown: list[int], drawn: list[int]) -> float:
    groups = [i for i, n in enumerate(drawn) for _ in range(n)]
    observed = sum(i * r for i, r in enumerate(shown))
    sums = [sum(groups[j] for j in chosen) for chosen in combinations(range(len(groups)), sum(shown))]
    return sum(one <= observed for one in sums) / len(sums)


@pytest.mark.parametrize(
    ("shown", "drawn"),
    [([3, 1, 0], [4, 4, 4]), ([0, 1, 3], [4, 4, 4]), ([1, 0, 1, 0], [3, 2, 4, 3]), ([4, 4, 3], [4, 4, 4])],
)
def test_the_p_value_counts_all_ways_to_spread_the_successes(shown: list[int], drawn: list[int]) -> None:
    assert falling_trend(shown, drawn) == pytest.approx(by_counting(shown, drawn), rel=1e-9)


def test_success_that_falls_is_found_and_success_that_rises_is_not() -> None:
    falling = [20, 9, 4, 2, 1, 0, 0, 1, 0, 0]
    assert falling_trend(falling, [50] * 10) < 1e-6
    assert falling_trend(falling[::-1], [50] * 10) > 0.999
    assert falling_trend([5] * 10, [50] * 10) > 0.4


@pytest.mark.parametrize("shown", [0, 50])
def test_without_a_difference_nothing_falls(shown: int) -> None:
    assert falling_trend([shown] * 10, [50] * 10) == 1


def test_the_normal_distribution_agrees_with_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, drawn = [14, 12, 9, 11, 8], [30] * 5
    exact = falling_trend(shown, drawn)
    monkeypatch.setattr(trend, "_MOST_EXACT", 0)
    near = falling_trend(shown, drawn)
    assert near != exact
    assert near == pytest.approx(exact, abs=0.03)
    # Formula of the test by hand: T = 95, its mean 108, its variance p q sum (i - 2)^2 n / (1 - 1 / N).
    variance = (54 / 150) * (96 / 150) * 300 * 150 / 149
    z = (12 + 18 + 33 + 32 - 54 * 2) / math.sqrt(variance)
    assert near == pytest.approx(0.5 * math.erfc(-z / math.sqrt(2)))


@pytest.mark.parametrize(("shown", "drawn"), [([1], [2]), ([3, 0], [2, 2]), ([0, 0], [0, 2])])
def test_impossible_counts_are_refused(shown: list[int], drawn: list[int]) -> None:
    with pytest.raises(ValueError, match="expected at least two groups"):
        falling_trend(shown, drawn)
