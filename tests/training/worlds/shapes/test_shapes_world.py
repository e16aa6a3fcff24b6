"""The shapes world as an embedded base: its pipeline, its concepts and what is retained beside them."""

from __future__ import annotations

import re

import pytest

from robust_encoders import embedded_pipeline
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.worlds import ShapesWorld
from robust_encoders.training.worlds.shapes.concepts import CONCEPTS, all_words, shapes_concept
from robust_encoders.training.worlds.shapes.retain import RETAIN_PROMPTS, retain_prompts, retain_prompts_of_all


def test_its_pipeline_is_the_embedded_one() -> None:
    made, embedded = ShapesWorld().pipeline(), embedded_pipeline()
    for part in ("text_encoder", "unet"):
        assert content_sha256(getattr(made, part).state_dict()) == content_sha256(getattr(embedded, part).state_dict())


@pytest.mark.parametrize("name", sorted(CONCEPTS))
def test_a_concept_has_the_anchor_of_the_shipped_encoders_where_one_is_wanted(name: str) -> None:
    world = ShapesWorld()
    assert world.concept(name, anchored=True) == CONCEPTS[name] == RECIPES[f"shapes/{name}-advunlearn"]().concept
    assert world.concept(name) == shapes_concept(name)
    assert world.concept(name).anchor == ""
    assert world.concept(name).prompts


def test_any_value_of_the_world_is_a_concept_and_nothing_else() -> None:
    assert ShapesWorld().concept("black", anchored=True) == shapes_concept("black")
    with pytest.raises(ValueError, match="giraffe"):
        ShapesWorld().concept("giraffe")


def test_what_is_retained_names_none_of_the_concepts() -> None:
    world = ShapesWorld()
    assert world.retain_prompts(["circle"]) == retain_prompts("circle")
    both = world.retain_prompts(["circle", "red"])
    assert both == retain_prompts_of_all(["circle", "red"])
    words = {*all_words("circle"), *all_words("red")}
    assert not [text for text in both if words & set(re.findall(r"\w+", text))]
    assert 0 < len(both) == len(set(both)) <= RETAIN_PROMPTS
    with pytest.raises(ValueError, match="giraffe"):
        world.retain_prompts(["giraffe"])
