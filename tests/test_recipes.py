from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from robust_encoders.training.methods import ESD, AdvUnlearn
from robust_encoders.training.prompts import anchor_prompt
from robust_encoders.training.recipes import RECIPES, shapes_retain_prompts
from robust_encoders.training.settings import Adversary
from robust_encoders.training.shapes.concepts import factor_of
from robust_encoders.training.shapes.vocabulary import HELD_OUT_TEMPLATES, WORDS

NAMES = ("circle", "striped", "red")


def words_of(texts: Any) -> set[str]:
    return {word for text in texts for word in text.replace(",", " ").split()}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_named_as_they_are_registered(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert recipe.base == "shapes"
    assert recipe.concept.name == name.removeprefix("shapes/").removesuffix("-esd")
    assert recipe.with_seed(3) == replace(recipe, seed=3)


@pytest.mark.parametrize("concept", NAMES)
def test_the_counterpart_differs_by_the_attack_alone(concept: str) -> None:
    robust, esd = RECIPES[f"shapes/{concept}"](), RECIPES[f"shapes/{concept}-esd"]()
    assert isinstance(robust.method, AdvUnlearn)
    assert isinstance(robust.method.adversary, Adversary)
    assert isinstance(esd.method, ESD)
    for field in ("retain", "unlearn", "select", "train", "bank"):
        assert getattr(robust.method, field) == getattr(esd.method, field)
    assert (robust.concept, robust.seed, robust.base) == (esd.concept, esd.seed, esd.base)


@pytest.mark.parametrize("concept", NAMES)
def test_retain_prompts_neither_name_the_concept_nor_leak_what_is_held_out(concept: str) -> None:
    factor, value = factor_of(concept)
    texts = shapes_retain_prompts(concept)
    assert len(texts) == len(set(texts)) >= 256
    used = words_of(texts)
    assert not used & set(WORDS[factor][value])
    assert not used & {words[-1] for values in WORDS.values() for words in values.values()}
    assert not any(text.startswith(template.split(" {")[0]) for text in texts for template in HELD_OUT_TEMPLATES[:2])
    assert shapes_retain_prompts(concept) == texts


@pytest.mark.parametrize("concept", NAMES)
def test_every_neighbour_is_retained(concept: str) -> None:
    factor, value = factor_of(concept)
    first = words_of(shapes_retain_prompts(concept)[:128])
    for other, words in WORDS[factor].items():
        if other != value:
            assert first & set(words[:-1])


@pytest.mark.parametrize("concept", NAMES)
def test_every_concept_prompt_has_an_anchor_without_the_concept(concept: str) -> None:
    recipe = RECIPES[f"shapes/{concept}"]()
    factor, value = factor_of(concept)
    assert len(recipe.concept.prompts) > 64
    for prompt in recipe.concept.prompts:
        assert not words_of([anchor_prompt(prompt, recipe.concept)]) & set(WORDS[factor][value])
