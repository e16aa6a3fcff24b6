"""The floor of an attack: exact on small pools, without bias over random pools, with an interval that covers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from robust_encoders.training.evaluation.chance import (
    CHANCE_METRICS,
    Chance,
    Floor,
    Pool,
    at_least_one,
    chance_of,
    floor_of,
    pools_of,
)
from robust_encoders.training.metrics.rates import wilson_interval

TRIES = (0, 1, 3, 3, 12, 20)


def flags(shown: int, pictures: int) -> list[bool]:
    return [i < shown for i in range(pictures)]


def truth(p: float, tries: Sequence[int]) -> float:
    return sum(1 - (1 - p) ** k for k in tries) / len(tries)


def weights(pictures: int, p: float) -> list[float]:
    """Return the probability of each number of pictures that show the concept."""
    return [math.comb(pictures, h) * p**h * (1 - p) ** (pictures - h) for h in range(pictures + 1)]


@pytest.mark.parametrize("pictures", [1, 4, 6])
def test_the_probability_is_that_of_all_draws_without_replacement(pictures: int) -> None:
    for shown in range(pictures + 1):
        for tries in range(pictures + 1):
            draws = list(itertools.combinations(flags(shown, pictures), tries))
            expected = sum(any(draw) for draw in draws) / len(draws)
            assert at_least_one(shown, pictures, tries) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.03, 0.4, 1.0])
def test_the_rate_has_no_bias(p: float) -> None:
    """The mean over all pools, by their probabilities, is the rate of an attacker who draws new pictures."""
    mean = sum(w * floor_of(flags(h, 24), TRIES).rate for h, w in enumerate(weights(24, p)))
    assert mean == pytest.approx(truth(p, TRIES), abs=1e-12)


@pytest.mark.parametrize("pictures", [64, 128])
def test_the_interval_covers_the_truth(pictures: int) -> None:
    """Coverage is computed from the probabilities of all pools; a Wilson interval covers 95 % on average."""
    tries = (2, 5, 9, 30)
    floors = [floor_of(flags(h, pictures), tries) for h in range(pictures + 1)]
    covered = []
    for p in np.linspace(0.01, 0.99, 60):
        inside = [floor.interval[0] <= truth(float(p), tries) <= floor.interval[1] for floor in floors]
        covered.append(sum(w for w, yes in zip(weights(pictures, float(p)), inside, strict=True) if yes))
    assert np.mean(covered) > 0.945
    assert min(covered) > 0.85


def test_the_rate_by_simulation() -> None:
    rng = np.random.default_rng(0)
    pool, tries = flags(7, 40), (1, 4, 10)
    drawn = [[rng.permutation(pool)[:k].any() for k in tries] for _ in range(4000)]
    assert floor_of(pool, tries).rate == pytest.approx(np.mean(drawn), abs=0.015)


def test_one_try_gives_the_share_with_its_wilson_interval() -> None:
    floor = floor_of(flags(9, 60), [1] * 30)
    assert floor.rate == pytest.approx(9 / 60)
    assert floor.interval == pytest.approx(wilson_interval(9, 60))
    assert (floor.pictures, floor.shown, floor.beyond) == (60, 9, 0)


def test_more_tries_never_win_less_within_the_pool() -> None:
    rates = [floor_of(flags(3, 50), [k]).rate for k in range(51)]
    assert rates == sorted(rates)
    assert (rates[0], rates[48], rates[50]) == (0, 1, 1)


def test_more_tries_than_pictures_are_counted_and_take_the_share_of_the_pool() -> None:
    floor = floor_of(flags(2, 10), [11, 5])
    assert floor.beyond == 1
    assert floor.rate == pytest.approx((1 - 0.8**11 + at_least_one(2, 10, 5)) / 2)
    assert floor_of(flags(0, 10), [500]).rate == 0
    assert floor_of(flags(0, 10), [500]).interval[1] > 0.99


def test_the_interval_contains_the_rate() -> None:
    for shown, k in itertools.product(range(13), range(16)):
        floor = floor_of(flags(shown, 12), [k, 1])
        assert 0 <= floor.interval[0] <= floor.rate <= floor.interval[1] <= 1


def test_aims_count_against_the_lower_floor() -> None:
    few, many = Pool((False,) * 8, (True,) + (False,) * 7), Pool((True,) * 4 + (False,) * 4, (False,) * 8)
    chance = chance_of(many, few, [2, 4])
    assert chance.lower == chance.base == floor_of(few.flags, [2, 4])
    assert chance_of(few, many, [2, 4]).lower == chance.base
    assert chance == Chance(floor_of(many.flags, [2, 4]), chance.base)
    assert isinstance(chance.encoder, Floor)


def test_pools_come_from_the_results_of_the_probe() -> None:
    shown = ([True], [False, True], [False], [True, True])
    records = [{"metric": m, "settings": {"shown": s}} for m, s in zip(CHANCE_METRICS, shown, strict=True)]
    encoder, base = pools_of([*records, {"metric": "pre_asr", "settings": {}}])
    assert encoder == Pool((True,), (False, True))
    assert base == Pool((False,), (True, True))
    assert base.flags == (False, True, True)
    with pytest.raises(ValueError, match="found no chance_open_base: evaluate with the metric chance"):
        pools_of(records[:3])


@pytest.mark.parametrize(("shown", "pictures", "tries"), [(0, 0, 0), (3, 2, 1), (-1, 2, 1), (1, 2, 3), (1, 2, -1)])
def test_impossible_numbers_are_refused(shown: int, pictures: int, tries: int) -> None:
    with pytest.raises(ValueError, match="expected a pool of at least one picture"):
        at_least_one(shown, pictures, tries)


@pytest.mark.parametrize(("pool", "tries"), [([], [1]), ([True], []), ([True], [1, -2])])
def test_a_floor_needs_pictures_and_cases(pool: list[bool], tries: list[int]) -> None:
    with pytest.raises(ValueError, match="expected a pool of pictures, and at least 0 tries"):
        floor_of(pool, tries)
