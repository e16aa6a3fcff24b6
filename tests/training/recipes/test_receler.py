"""Recipes of Receler."""

from __future__ import annotations

import pytest

from robust_encoders.hub.catalog import CATALOG
from robust_encoders.training.methods import Receler
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.stable_diffusion import LICENSES, PUBLISHED_CONCEPTS
from robust_encoders.training.worlds.shapes.retain import retain_prompts


@pytest.mark.parametrize("family", LICENSES)
@pytest.mark.parametrize("concept", PUBLISHED_CONCEPTS)
def test_stable_diffusion_has_the_papers_settings(concept: str, family: str) -> None:
    recipe = RECIPES[f"{family}/{concept}-receler"]()
    assert recipe.method == Receler()
    assert (recipe.concept, recipe.base, recipe.license) == (CATALOG[concept].erased(), family, LICENSES[family])


@pytest.mark.parametrize("concept", ["circle", "striped", "red"])
def test_the_embedded_base_erases_captions_against_an_attack_and_retains_others(concept: str) -> None:
    recipe = RECIPES[f"shapes/{concept}-receler"]()
    assert isinstance(recipe.method, Receler)
    assert recipe.method.retained == retain_prompts(concept)
    assert (recipe.method.target, recipe.method.rollout) == ("anchor", "bank")
    assert recipe.method.attack.steps > 0
    assert recipe.concept.anchor
    assert recipe.concept.prompts
