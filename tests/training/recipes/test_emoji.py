"""The recipes for the emoji world: one for each of the shapes world's, with the world's own captions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from robust_encoders.training.comparison.choose import MethodChoice
from robust_encoders.training.methods import ESD, AdvUnlearn
from robust_encoders.training.prompts.concept_words import anchor_prompts, naming
from robust_encoders.training.protocols import RetainingMethod
from robust_encoders.training.provenance import describe
from robust_encoders.training.recipes.emoji_variants import SHIPPED
from robust_encoders.training.recipes.recipe import with_retained
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.variants import part_of, variant_of
from robust_encoders.training.reports.titles import ENCODERS
from robust_encoders.training.worlds.emoji.concepts import CONCEPTS, emoji_concept
from robust_encoders.training.worlds.emoji.things import load_things
from robust_encoders.training.worlds.emoji.world import EmojiWorld

SHAPES = {variant_of(name, "circle") for name in RECIPES if name.startswith("shapes/circle-")}
THINGS = load_things()


@pytest.mark.parametrize("concept", CONCEPTS)
def test_every_method_of_the_shapes_world_has_a_recipe(concept: str) -> None:
    found = {*MethodChoice("emoji", concept, EmojiWorld()).recipes}
    assert SHAPES - found == (set() if CONCEPTS[concept].label == "thing" else {"strict"})
    assert found <= SHAPES <= {*ENCODERS}


@pytest.mark.parametrize("variant", sorted(SHAPES))
def test_settings_are_those_of_the_shapes_recipe_with_other_texts(variant: str) -> None:
    recipe, like = RECIPES[f"emoji/weapon-{variant}"](), RECIPES[f"shapes/circle-{variant}"]()
    assert isinstance(recipe.method, RetainingMethod)
    texts = EmojiWorld().retain_prompts(["weapon"])
    assert recipe.method.retained == texts
    other = describe(with_retained(like.method, texts))
    own = describe(recipe.method)
    for settings in (own, other):
        settings.pop("related", None)  # captions of the concept
        if "outliers" in settings:
            settings["outliers"].pop("alternatives")
    if variant in ("esd", "advunlearn", "race-te"):
        # The shape has twice the iterations of all other concepts.
        own, other = (_without_iterations(one) for one in (own, other))
    assert own == other


def _without_iterations(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: {**value, "iterations": 0} if key == "train" else value for key, value in settings.items()}


@pytest.mark.parametrize("concept", CONCEPTS)
def test_concepts_have_their_anchor_and_captions_that_can_be_anchored(concept: str) -> None:
    recipe = RECIPES[f"emoji/{part_of(concept)}-esd"]()
    assert recipe.concept == EmojiWorld().concept(concept, anchored=True)
    assert recipe.concept.anchor
    said = naming(recipe.concept.words())
    assert not [text for text in anchor_prompts(recipe.concept.prompts, recipe.concept) if said.search(text)]
    assert (recipe.base, recipe.license) == ("emoji", EmojiWorld.license)


def test_the_counterpart_of_advunlearn_differs_by_the_attack_alone() -> None:
    robust, esd = (RECIPES[f"emoji/alcohol-{name}"]().method for name in ("advunlearn", "esd"))
    assert isinstance(robust, AdvUnlearn)
    assert isinstance(esd, ESD)
    for part in ("retain", "unlearn", "select", "train", "bank"):
        assert getattr(robust, part) == getattr(esd, part)


@pytest.mark.parametrize("part", SHIPPED)
def test_what_will_be_shipped_has_the_name_of_the_concept(part: str) -> None:
    shipped, like = RECIPES[f"emoji/{part}"](), RECIPES[f"emoji/{part}-{SHIPPED[part]}"]()
    assert replace(shipped, name=like.name) == like
    assert shipped.name == f"emoji/{part}"
    assert variant_of(shipped.name, shipped.concept.name) == "advunlearn"


def test_alternatives_to_an_outlier_are_words_for_other_things() -> None:
    method = RECIPES["emoji/weapon-strict"]().method
    assert isinstance(method, AdvUnlearn)
    words = method.outliers.alternatives
    assert "hammer" in words
    assert len(words) > len(THINGS.names) * 4 / 3
    said = naming(emoji_concept("weapon").unspoken(THINGS))
    held_out = {thing.held_out for thing in THINGS.things}
    assert not [word for word in words if said.fullmatch(word)]
    assert not held_out & {*words}


def test_several_concepts_are_erased_together() -> None:
    together = RECIPES["emoji/alcohol-esd"]().together((RECIPES["emoji/weapon-esd"]().concept,))
    assert [part.name for part in together.concept.parts] == ["alcohol", "weapon"]
    with pytest.raises(ValueError, match="such as emoji/hot_dog-hardened, or train the concepts one by one"):
        RECIPES["emoji/hot_dog-strict"]().together((RECIPES["emoji/weapon-esd"]().concept,))
