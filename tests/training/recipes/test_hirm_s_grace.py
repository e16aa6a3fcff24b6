"""Recipes of HiRM and S-GRACE."""

from __future__ import annotations

import pytest

from robust_encoders.hub.catalog import CATALOG
from robust_encoders.training.methods import SGRACE, HiRM
from robust_encoders.training.prompts.retain import object_prompts
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.stable_diffusion import LICENSES, PUBLISHED_CONCEPTS
from robust_encoders.training.worlds.shapes.retain import retain_prompts

NAMES = ("circle", "striped", "red")


@pytest.mark.parametrize("family", LICENSES)
@pytest.mark.parametrize("concept", PUBLISHED_CONCEPTS)
def test_hirm_for_stable_diffusion_has_bare_words_and_a_target_that_fits(concept: str, family: str) -> None:
    for variant in ("hirm", "hirm-s"):
        recipe = RECIPES[f"{family}/{concept}-{variant}"]()
        method = recipe.method
        assert isinstance(method, HiRM)
        assert (method.texts, method.scale, method.retained, recipe.license) == ("words", None, (), LICENSES[family])
        semantic = "anchor" if recipe.concept.anchor else "subtracted"
        assert method.target == (semantic if variant == "hirm-s" else "random")
        assert (method.train.rate == 1e-4) is (concept == "nudity")
    assert bool(recipe.concept.anchor) is (concept != "nudity")


@pytest.mark.parametrize("family", LICENSES)
@pytest.mark.parametrize("concept", PUBLISHED_CONCEPTS)
def test_s_grace_for_stable_diffusion_has_the_papers_settings(concept: str, family: str) -> None:
    recipe = RECIPES[f"{family}/{concept}-s-grace"]()
    method, nudity = recipe.method, concept == "nudity"
    assert isinstance(method, SGRACE)
    assert (recipe.concept, method.retained) == (CATALOG[concept].erased(), object_prompts(CATALOG[concept].erased()))
    assert (method.attack.words, method.attack.refresh) == (((3, 10), 0.8) if nudity else ((3, 20), 0.15))
    assert (method.retain_batch, method.near_weight) == ((16, 0.3) if nudity else (8, 0.2))
    assert (method.rounds, method.round_length, method.train.rate) == (4, 50, 1e-5)


@pytest.mark.parametrize("concept", NAMES)
def test_the_embedded_base_turns_captions_and_retains_others(concept: str) -> None:
    for variant, target in (("hirm", "random"), ("hirm-s", "anchor")):
        recipe = RECIPES[f"shapes/{concept}-{variant}"]()
        assert isinstance(recipe.method, HiRM)
        assert (recipe.method.target, recipe.method.texts) == (target, "prompts")
        assert recipe.method.retained == retain_prompts(concept)
        assert recipe.concept.anchor
    grace = RECIPES[f"shapes/{concept}-s-grace"]()
    assert isinstance(grace.method, SGRACE)
    assert (grace.method.related, grace.method.retained) == (grace.concept.prompts, retain_prompts(concept))
