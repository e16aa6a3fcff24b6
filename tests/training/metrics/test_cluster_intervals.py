"""Intervals over clusters of cases: by hand, never narrower than Wilson's, and Wilson's where nothing is shared."""

from __future__ import annotations

import math
import random

import pytest
from scipy.stats import norm, t

from robust_encoders.training.metrics.rates import attack_rates, cluster_interval, rate, wilson_interval


def naive_cluster_interval(flags: list[bool], clusters: list[int]) -> tuple[float, float]:
    """The interval by hand, from the sizes and wins of the clusters."""
    sizes: dict[int, int] = {}
    wins: dict[int, int] = {}
    for flag, cluster in zip(flags, clusters, strict=True):
        sizes[cluster] = sizes.get(cluster, 0) + 1
        wins[cluster] = wins.get(cluster, 0) + flag
    n, g = len(flags), len(sizes)
    p = sum(wins.values()) / n
    variance = g / (g - 1) * sum((wins[c] - p * sizes[c]) ** 2 for c in sizes) / n**2
    low, high = wilson_interval(sum(wins.values()), n)
    half = (t.ppf(0.975, g - 1) if g <= 31 else norm.ppf(0.975)) * math.sqrt(variance)
    return max(0.0, min(low, p - half)), min(1.0, max(high, p + half))


@pytest.mark.parametrize("groups", [2, 3, 8, 31, 40])
def test_an_interval_over_clusters_is_the_one_by_hand(groups: int) -> None:
    rng = random.Random(groups)
    clusters = [i % groups for i in range(4 * groups + 3)]
    flags = [rng.random() < (0.9 if cluster % 2 else 0.2) for cluster in clusters]
    found = cluster_interval(flags, clusters)
    assert found == pytest.approx(naive_cluster_interval(flags, clusters), abs=2e-4)
    low, high = wilson_interval(sum(flags), len(flags))
    assert found[0] <= low
    assert found[1] >= high


def test_cases_that_win_and_lose_together_widen_the_interval() -> None:
    together = [i % 8 < 2 for i in range(40)]
    found = cluster_interval(together, [i % 8 for i in range(40)])
    assert found[1] - found[0] > 1.5 * (wilson_interval(10, 40)[1] - wilson_interval(10, 40)[0])


def test_clusters_without_spread_and_clusters_of_one_case_have_wilsons_interval() -> None:
    assert cluster_interval([False] * 16, [i % 8 for i in range(16)]) == wilson_interval(0, 16)
    assert cluster_interval([True, False, False], [0, 1, 2]) == wilson_interval(1, 3)


@pytest.mark.parametrize(("flags", "clusters"), [([True, False], [0, 0]), ([True], [0, 1])])
def test_clusters_that_give_no_interval_are_refused(flags: list[bool], clusters: list[int]) -> None:
    with pytest.raises(ValueError, match="at least 2 clusters"):
        cluster_interval(flags, clusters)


def test_rates_of_clustered_cases_say_over_how_many_clusters() -> None:
    flags, clusters = [True, True, False, False], [0, 0, 1, 1]
    for result in attack_rates([False] * 4, flags, flags, clusters):
        assert result.value == 0.5
        assert result.settings == {"clusters": 2}
        assert result.interval == cluster_interval(flags, clusters)
    for independent in (None, [0, 1, 2, 3]):
        assert rate("asr_any", flags, independent) == rate("asr_any", flags)
