"""Short runs: no registered recipe's bank shrinks, and every method has a shorter run for a first look."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.short import quick, with_fitting_banks
from robust_encoders.training.trajectories.config import BankConfig


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_keeps_its_banks_and_has_a_quick_run(name: str) -> None:
    recipe = RECIPES[name]()
    assert with_fitting_banks(recipe.method, recipe.concept) == recipe.method
    shorter: Any = with_fitting_banks(quick(recipe.method), recipe.concept)
    train: Any = getattr(recipe.method, "train", None)
    if train is None:  # a closed form has nothing to shorten
        assert shorter == recipe.method
        return
    assert shorter.train.iterations == train.iterations // 10
    bank = getattr(shorter, "bank", None)
    assert bank is None or (bank.limit is not None and bank.limit <= 16) or hasattr(shorter, "pictures")


@pytest.mark.parametrize(
    ("seeds", "limit", "n_concept", "n_retain", "expected"),
    [
        (1, None, 5, 5, (1, None)),  # enough iterations for all
        (1, None, 50, 5, (1, 20)),  # prompts of the concept
        (1, None, 5, 50, (1, 20)),  # retain prompts
        (8, None, 5, 5, (4, None)),
        ((128, 1), None, 1, 282, ((20, 1), 20)),  # a single word has many trajectories
        (1, 8, 50, 50, (1, 8)),  # the user's own limit
        (4, 8, 50, 50, (2, 8)),
        (3, None, 0, 0, (3, None)),
    ],
)
def test_a_bank_has_at_most_one_trajectory_for_each_of_20_iterations(
    seeds: Any, limit: int | None, n_concept: int, n_retain: int, expected: tuple[Any, int | None]
) -> None:
    found = BankConfig(seeds=seeds, limit=limit).for_run(20, n_concept, n_retain)
    assert (found.seeds, found.limit) == expected
    for settings, n in ((found.for_concept(), n_concept), (found.for_retain(), n_retain)):
        assert isinstance(settings.seeds, int)
        assert settings.seeds * min(n, settings.limit or n) <= 20


def test_the_start_of_race_shrinks_with_its_own_iterations() -> None:
    recipe: Any = RECIPES["shapes/circle-race"]()
    method = recipe.method
    short = replace(method, start=replace(method.start, train=replace(method.start.train, iterations=6)))
    found: Any = with_fitting_banks(short, recipe.concept)
    assert found.start.bank.limit == 6


def test_pictures_shrink_with_the_iterations() -> None:
    recipe: Any = RECIPES["shapes/circle-ablation"]()
    short = replace(recipe.method, train=replace(recipe.method.train, iterations=2))
    found: Any = with_fitting_banks(short, recipe.concept)
    assert found.pictures == 32


def test_settings_of_the_inner_attack_stay() -> None:
    method: Any = RECIPES["shapes/circle-advunlearn"]().method
    assert quick(method).attack == method.attack
    assert quick(method).train.rate == method.train.rate
