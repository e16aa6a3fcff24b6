"""The paired test of two encoders, against libraries, published figures and enumeration."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats.contingency import odds_ratio

from robust_encoders.training.metrics.paired_tests import (
    mcnemar,
    mcnemar_below,
    newcombe_interval,
    paired_difference,
    paired_test,
    paired_verdicts,
)
from robust_encoders.training.types import Verdict


@pytest.mark.parametrize(("b", "c"), [(0, 1), (1, 8), (10, 3), (25, 40), (6, 6), (0, 0), (700, 640)])
def test_the_exact_p_is_scipys_binomial_test(b: int, c: int) -> None:
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar(b, c)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (1, 0), (1, 8), (10, 3), (25, 40), (6, 6), (700, 640)])
def test_the_one_sided_p_is_scipys_too(b: int, c: int) -> None:
    expected = binomtest(b, b + c, 0.5, alternative="less").pvalue if b + c else 1.0
    assert mcnemar_below(b, c) == pytest.approx(expected, rel=1e-9)


def test_negative_counts_have_no_one_sided_p() -> None:
    with pytest.raises(ValueError, match="expected counts of at least 0, found -1 and 2"):
        mcnemar_below(-1, 2)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_both_p_against_the_enumeration_of_all_coin_flips(n: int) -> None:
    flips = [abs(2 * sum(one) - n) for one in itertools.product((0, 1), repeat=n)]
    for b in range(n + 1):
        seen = abs(2 * b - n)
        beyond = sum(uneven > seen for uneven in flips) / 2**n
        equal = sum(uneven == seen for uneven in flips) / 2**n
        assert mcnemar(b, n - b) == pytest.approx((beyond + equal, beyond + equal / 2))


def test_figures_in_print() -> None:
    # Fagerland et al. 2013, table 2 (airway hyper-responsiveness, 1 against 7 pairs): exact 0.0703, mid-p 0.0391.
    assert mcnemar(1, 7) == pytest.approx((0.0703, 0.0391), abs=5e-5)
    # Newcombe 1998, table II, method 10, (a, b, c, d) = (36, 12, 2, 0).
    assert newcombe_interval(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_the_test_is_symmetric() -> None:
    one, other = [True] * 9 + [False] * 11, [False, True] * 10
    forth, back = paired_test(one, other), paired_test(other, one)
    assert (forth.p_exact, forth.p_mid) == (back.p_exact, back.p_mid)
    assert forth.difference == -back.difference
    assert forth.interval == pytest.approx(tuple(-bound for bound in reversed(back.interval)))


def test_pairs_are_counted_prompt_by_prompt() -> None:
    found = paired_test([True, True, True, False, False], [True, False, False, True, False])
    assert (found.n, found.both, found.only_first, found.only_second, found.neither) == (5, 1, 2, 1, 1)
    assert found.difference == pytest.approx(0.2)
    assert found.interval[0] < 0.2 < found.interval[1]


def test_pairing_sees_what_two_separate_rates_do_not() -> None:
    # 30 of 100 against 21 of 100, and every success of the second is one of the first.
    first, second = [i < 30 for i in range(100)], [i < 21 for i in range(100)]
    found = paired_test(first, second)
    assert found.p_mid < 0.01
    assert found.interval[0] > 0
    separate = odds_ratio([[30, 70], [21, 79]]).confidence_interval(0.95)
    assert separate.low < 1 < separate.high


def test_equal_encoders_differ_by_nothing_but_not_with_certainty() -> None:
    found = paired_test([False] * 50, [False] * 50)
    assert (found.p_exact, found.difference) == (1.0, 0.0)
    assert found.interval[0] < 0 < found.interval[1]


def verdicts(*hits: bool) -> list[Verdict]:
    return [Verdict(i, f"prompt {i}", 10 + i, False, hit, False, None) for i, hit in enumerate(hits)]


def test_verdicts_are_paired_by_prompt_and_seed() -> None:
    one, other = verdicts(True, False, True), verdicts(False, False, True)
    assert paired_verdicts(one, other) == paired_test([True, False, True], [False, False, True])
    with pytest.raises(ValueError, match="same prompts and seeds"):
        paired_verdicts(one, [replace(v, seed=99) for v in other])
    with pytest.raises(ValueError, match="others at cases"):
        paired_verdicts(one, other[:2])


@pytest.mark.parametrize(("first", "second"), [([], []), ([True], [True, False])])
def test_what_cannot_be_paired_is_refused(first: list[bool], second: list[bool]) -> None:
    with pytest.raises(ValueError, match="expected the same prompts for both"):
        paired_test(first, second)


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="found -1 and 3"):
        mcnemar(-1, 3)


def restated(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    """Newcombe's method 10 from his formulas: bounds of each rate as roots of a quadratic, then square and add."""
    n, z = a + b + c + d, 1.959963984540054
    (l1, u1), (l2, u2) = (np.sort(np.roots([n + z**2, -(2 * x + z**2), x**2 / n]).real) for x in (a + b, a + c))
    p1, p2 = (a + b) / n, (a + c) / n
    product = (a + b) * (c + d) * (a + c) * (b + d)
    surplus = a * d - b * c
    corrected = max(surplus - n / 2, 0) if surplus > 0 else surplus
    phi = 0.0 if product == 0 else corrected / np.sqrt(product)
    below = (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2
    above = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    return float(p1 - p2 - np.sqrt(below)), float(p1 - p2 + np.sqrt(above))


def test_the_interval_against_a_naive_restatement_on_all_tables_of_nine_pairs() -> None:
    for a, b, c in itertools.product(range(10), repeat=3):
        if a + b + c <= 9:
            d = 9 - a - b - c
            assert newcombe_interval(a, b, c, d) == pytest.approx(restated(a, b, c, d), abs=1e-7)


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.05, 0.05), (0.4, 0.55, 0.02, 0.03), (0.25, 0.25, 0.25, 0.25)])
def test_the_interval_covers_the_difference_by_simulation(shares: tuple[float, float, float, float]) -> None:
    rng = np.random.default_rng(0)
    tables = rng.multinomial(80, shares, size=1500)
    bounds = [newcombe_interval(*map(int, table)) for table in tables]
    covered = np.mean([low <= shares[1] - shares[2] <= high for low, high in bounds])
    assert 0.93 < covered < 0.99


def test_a_difference_is_a_result_with_its_test() -> None:
    first, second = [True, True, True, False], [True, False, False, False]
    found, test = paired_difference("kept_difference", first, second), paired_test(first, second)
    assert (found.metric, found.value, found.n, found.interval) == ("kept_difference", 0.5, 4, test.interval)
    assert found.settings["paired"]["only_first"] == 2
    with pytest.raises(ValueError, match="same prompts"):
        paired_difference("kept_difference", [True], [])
