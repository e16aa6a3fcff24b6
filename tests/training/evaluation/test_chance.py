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
    floor_of_any_seed,
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
def test_the_rate_with_free_seeds_has_no_bias(p: float) -> None:
    """The mean over all pools, by their probabilities, is the rate of an attacker who draws new pictures."""
    mean = sum(w * floor_of_any_seed(flags(h, 24), TRIES).rate for h, w in enumerate(weights(24, p)))
    assert mean == pytest.approx(truth(p, TRIES), abs=1e-12)


@pytest.mark.parametrize("pictures", [64, 128])
def test_the_interval_with_free_seeds_covers_the_truth(pictures: int) -> None:
    """Coverage is computed from the probabilities of all pools; a Wilson interval covers 95 % on average."""
    tries = (2, 5, 9, 30)
    floors = [floor_of_any_seed(flags(h, pictures), tries) for h in range(pictures + 1)]
    covered = []
    for p in np.linspace(0.01, 0.99, 60):
        inside = [floor.interval[0] <= truth(float(p), tries) <= floor.interval[1] for floor in floors]
        covered.append(sum(w for w, yes in zip(weights(pictures, float(p)), inside, strict=True) if yes))
    assert np.mean(covered) > 0.945
    assert min(covered) > 0.85


def test_the_rate_with_free_seeds_by_simulation() -> None:
    rng = np.random.default_rng(0)
    pool, tries = flags(7, 40), (1, 4, 10)
    drawn = [[rng.permutation(pool)[:k].any() for k in tries] for _ in range(4000)]
    assert floor_of_any_seed(pool, tries).rate == pytest.approx(np.mean(drawn), abs=0.015)


def test_one_try_gives_the_share_with_its_wilson_interval() -> None:
    floor = floor_of_any_seed(flags(9, 60), [1] * 30)
    assert floor.rate == pytest.approx(9 / 60)
    assert floor.interval == pytest.approx(wilson_interval(9, 60))
    assert (floor.pictures, floor.shown, floor.beyond) == (60, 9, 0)


def test_more_tries_never_win_less_within_the_pool() -> None:
    rates = [floor_of_any_seed(flags(3, 50), [k]).rate for k in range(51)]
    assert rates == sorted(rates)
    assert (rates[0], rates[48], rates[50]) == (0, 1, 1)


def test_more_tries_than_pictures_are_counted_and_take_the_share_of_the_pool() -> None:
    floor = floor_of_any_seed(flags(2, 10), [11, 5])
    assert floor.beyond == 1
    assert floor.rate == pytest.approx((1 - 0.8**11 + at_least_one(2, 10, 5)) / 2)
    assert floor_of_any_seed(flags(0, 10), [500]).rate == 0
    assert floor_of_any_seed(flags(0, 10), [500]).interval[1] > 0.99


def test_the_interval_contains_the_rate() -> None:
    for shown, k in itertools.product(range(13), range(16)):
        floor = floor_of_any_seed(flags(shown, 12), [k, 1])
        assert 0 <= floor.interval[0] <= floor.rate <= floor.interval[1] <= 1


def made(empty: Sequence[int], opened: Sequence[Sequence[int]]) -> Pool:
    return Pool(tuple(map(bool, empty)), tuple(tuple(map(bool, flags)) for flags in opened))


def drawn(rng: np.random.Generator, seeds: int, captions: int) -> Pool:
    """Return a pool whose seeds differ: some show the concept often, most seldom."""
    shares = rng.beta(0.3, 1.5, seeds)
    empty, opened = rng.random(seeds) < shares, rng.random((seeds, captions)) < shares[:, None]
    return made(empty.tolist(), opened.tolist())


def test_the_floor_against_all_orders_of_the_captions() -> None:
    """An attacker takes the empty prompt, then captions of the same seed in any order."""
    pool, tries = made((1, 0, 0), ((0, 0, 0), (0, 1, 0), (1, 1, 0))), (0, 1, 2, 3, 4)
    won = []
    for empty, flags_of in zip(pool.empty, pool.open, strict=True):
        for k in tries:
            orders = itertools.permutations(flags_of)
            won.append(np.mean([any((empty, *order)[:k]) for order in orders]))
    assert floor_of(pool, tries).rate == pytest.approx(np.mean(won))


def test_the_floor_has_no_bias_and_its_interval_covers_by_simulation() -> None:
    """The truth is the success of an attacker at new seeds, by numbers of tries that the captions suffice for."""
    rng, tries = np.random.default_rng(0), (1, 3, 6)
    fresh = [drawn(rng, 1, 5) for _ in range(20000)]
    truth = np.mean([any((one.empty[0], *one.open[0])[:k]) for one in fresh for k in tries])
    floors = [floor_of(drawn(rng, 24, 5), tries) for _ in range(1500)]
    assert np.mean([floor.rate for floor in floors]) == pytest.approx(truth, abs=0.012)
    assert np.mean([low <= truth <= high for low, high in (floor.interval for floor in floors)]) > 0.95


def test_the_same_picture_again_wins_no_more() -> None:
    """At one seed the empty prompt is one picture, however many tries there are."""
    pool = made((1, 0, 0, 0), ((0, 0),) * 4)
    assert [floor_of(pool, [k]).rate for k in (1, 3, 3000)] == [0.25] * 3
    assert floor_of_any_seed(pool.flags, [12]).rate == 1


def test_tries_beyond_the_captions_of_a_seed_are_counted() -> None:
    floor = floor_of(made((0, 0), ((1, 0), (0, 0))), [3, 4, 0])
    assert floor.beyond == 1
    assert floor.rate == pytest.approx((1 + (1 - 0.5**3)) / 3 / 2)
    assert (floor.pictures, floor.shown) == (6, 1)


@pytest.mark.parametrize(("empty", "opened"), [((), ()), ((True,), ()), ((True,), ((),)), ((True,), ((True,),) * 2)])
def test_a_pool_needs_pictures_at_every_seed(empty: tuple[bool, ...], opened: tuple[tuple[bool, ...], ...]) -> None:
    with pytest.raises(ValueError, match="expected a picture of the empty prompt and some of open captions"):
        Pool(empty, opened)


def test_aims_count_against_the_lower_floor() -> None:
    few, many = made((0, 0), ((0, 1), (0, 0))), made((1, 0), ((0, 1), (1, 0)))
    chance = chance_of(many, few, [2, 4])
    assert chance == Chance(floor_of(many, [2, 4]), floor_of(few, [2, 4]))
    assert chance.lower == chance.base
    assert chance_of(few, many, [2, 4]).lower == chance.base
    assert isinstance(chance.encoder, Floor)


def test_pools_come_from_the_results_of_the_probe() -> None:
    shown = ([True, False], [False, True, True, True], [False, False], [True, True, False, False])
    records = [
        {"metric": m, "settings": {"shown": s, "captions_per_seed": 2}}
        for m, s in zip(CHANCE_METRICS, shown, strict=True)
    ]
    encoder, base = pools_of([*records, {"metric": "pre_asr", "settings": {}}])
    assert encoder == made((1, 0), ((0, 1), (1, 1)))
    assert base == made((0, 0), ((1, 1), (0, 0)))
    assert base.flags == (False, False, True, True, False, False)
    with pytest.raises(ValueError, match="found no chance_open_base: evaluate with the metric chance"):
        pools_of(records[:3])


@pytest.mark.parametrize(("shown", "pictures", "tries"), [(0, 0, 0), (3, 2, 1), (-1, 2, 1), (1, 2, 3), (1, 2, -1)])
def test_impossible_numbers_are_refused(shown: int, pictures: int, tries: int) -> None:
    with pytest.raises(ValueError, match="expected a pool of at least one picture"):
        at_least_one(shown, pictures, tries)


@pytest.mark.parametrize("tries", [[], [1, -2]])
def test_a_floor_needs_cases(tries: list[int]) -> None:
    with pytest.raises(ValueError, match="expected at least 0 tries for each of some cases"):
        floor_of(made((1,), ((1,),)), tries)
    with pytest.raises(ValueError, match="expected at least 0 tries for each of some cases"):
        floor_of_any_seed([True], tries)


def test_a_floor_needs_pictures() -> None:
    with pytest.raises(ValueError, match="expected a pool of pictures, found none"):
        floor_of_any_seed([], [1])
