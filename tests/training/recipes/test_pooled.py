"""Recipes that need no list of a world's words."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

import pytest
import torch

from robust_encoders import embedded_pipeline
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods import AdvUnlearn
from robust_encoders.training.objectives.config import OutlierConfig
from robust_encoders.training.prompts.concept_words import anchor_prompts, naming
from robust_encoders.training.recipes.recipe import Recipe
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.recipes.stable_diffusion import LICENSES, PUBLISHED_CONCEPTS
from robust_encoders.training.workspace import Workspace
from robust_encoders.training.worlds.shapes import vocabulary
from robust_encoders.training.worlds.shapes.concepts import all_words
from robust_encoders.training.worlds.shapes.everyday_frames import REPORTED
from robust_encoders.training.worlds.shapes.vocabulary import WORDS

CONCEPTS = ("circle", "red", "striped")


class Unreadable(Mapping[str, Any]):
    """A vocabulary that nobody may read."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise AssertionError("the vocabulary of the world was read")

    __getitem__ = __iter__ = __len__ = __contains__ = _refuse


def short(recipe: Recipe) -> AdvUnlearn:
    """Return the recipe's method with three iterations, a warm-up of one, and small batches."""
    method = recipe.method
    assert isinstance(method, AdvUnlearn)
    sizes: dict[str, Any] = {"pairs_batch": 4, "pool": 8, "pool_batch": 4, "context_batch": 4, "negative_batch": 4}
    return replace(
        method,
        retain=replace(method.retain, conditioning_batch=4, batch=2),
        unlearn=replace(method.unlearn, plain_batch=4, batch=2),
        adversary=replace(method.adversary, warmup=1),
        hardening=replace(method.hardening, batch=2),
        language=replace(method.language, **sizes),
        train=replace(method.train, iterations=3),
        bank=replace(method.bank, steps=2, limit=4),
    )


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the words, values, factors and templates of the world unreadable in every module that holds them."""
    hidden = {id(value) for name, value in vars(vocabulary).items() if name.isupper()}
    for name, module in list(sys.modules.items()):
        if name.startswith("robust_encoders"):
            for attribute, value in list(vars(module).items()):
                if id(value) in hidden and not isinstance(value, str):
                    monkeypatch.setattr(module, attribute, Unreadable())


@pytest.mark.parametrize("variant", ["pooled-fast", "pooled"])
def test_training_never_reads_the_vocabulary_of_the_world(variant: str, request: pytest.FixtureRequest) -> None:
    recipe, base = RECIPES[f"shapes/circle-{variant}"](), Backbone.from_pipeline(embedded_pipeline())
    request.getfixturevalue("unreadable")
    with pytest.raises(AssertionError, match="was read"):
        all_words("circle")
    draw = torch.Generator().manual_seed(0)
    edit = short(recipe).erase(base, recipe.concept, generator=draw, workspace=Workspace(progress=False))
    terms = {"pairs", "pool", "context", "negative", "empty_prompt", "plain", "retain_conditioning", "attacked"}
    assert set(edit.log["losses"]) == terms | ({"retain", "unlearn"} if variant == "pooled" else set())
    assert (edit.log["unet_calls"] > 0) == (variant == "pooled")


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("variant", ["pooled-fast", "pooled"])
def test_settings_list_no_words_and_prompts_only_what_training_may_see(concept: str, variant: str) -> None:
    recipe = RECIPES[f"shapes/{concept}-{variant}"]()
    method = recipe.method
    assert isinstance(method, AdvUnlearn)
    assert method.outliers == OutlierConfig()
    assert method.hardening.eta == 0, "targets beyond the anchor turn negative prompts round"
    assert set(method.language.batches()) == {"pairs", "pool", "context", "negative"}
    assert 0 < method.train.average < 1
    texts = (*method.retained, *recipe.concept.prompts)
    assert not any(naming(all_words(concept)).search(text) for text in method.retained)
    said = {word.strip(".,;:").lower() for text in texts for word in text.split()}
    assert not said & {words[-1] for values in WORDS.values() for words in values.values()}, "held-out words"
    distinctive = {"please", "masterpiece", "wiht", "bakcground", "coloured", "show", "want", "4k", "hd", "my"}
    assert distinctive <= {word.strip(".,").lower() for kind in REPORTED.values() for t in kind for word in t.split()}
    assert not said & distinctive, "wordings that are only reported"
    assert "thanks" in said, "everyday wordings are trained"
    anchored = anchor_prompts(recipe.concept.prompts, recipe.concept)
    assert not any(naming(recipe.concept.words()).search(text) for text in anchored)


def test_the_fast_variant_runs_the_unet_for_nothing() -> None:
    method = RECIPES["shapes/circle-pooled-fast"]().method
    assert isinstance(method, AdvUnlearn)
    assert not method.terms.predicts
    other = RECIPES["shapes/circle-pooled"]().method
    assert isinstance(other, AdvUnlearn)
    assert other.terms.predicts
    assert other.unlearn.eta == 0, "a noise target beyond the anchor contradicts the term on negative prompts"
    assert method.train.iterations < other.train.iterations
    assert method.language == other.language


@pytest.mark.parametrize("family", LICENSES)
@pytest.mark.parametrize("concept", PUBLISHED_CONCEPTS)
def test_stable_diffusion_gets_the_same_terms_with_other_sizes(concept: str, family: str) -> None:
    recipe, paper = (RECIPES[f"{family}/{concept}{end}"]() for end in ("-pooled", ""))
    assert isinstance(recipe.method, AdvUnlearn)
    assert isinstance(paper.method, AdvUnlearn)
    shapes = RECIPES["shapes/circle-pooled"]().method
    assert isinstance(shapes, AdvUnlearn)
    ours, theirs = recipe.method.language, shapes.language
    assert ours.batches().keys() == theirs.batches().keys() - {"pairs"}
    assert not recipe.concept.prompts or recipe.concept.prompts == (recipe.concept.name,), "why there are no pairs"
    assert recipe.method.unlearn == replace(paper.method.unlearn, eta=0.0)
    assert all(ours.batches()[name] <= theirs.batches()[name] for name in ours.batches())
    assert (ours.pool_tokens, ours.pool_steps, ours.context_tokens) == (
        theirs.pool_tokens,
        theirs.pool_steps,
        theirs.context_tokens,
    )
    assert (recipe.concept, recipe.method.retained) == (paper.concept, paper.method.retained)


@pytest.mark.base
@pytest.mark.parametrize("name", [f"shapes/{concept}-pooled-fast" for concept in CONCEPTS])
def test_the_recipe_of_every_concept_begins(name: str) -> None:
    """Captions of some concepts have more tokens than others."""
    recipe = RECIPES[name]()
    backbone = Backbone.from_pipeline(embedded_pipeline())
    edit = short(recipe).erase(
        backbone, recipe.concept, generator=torch.Generator().manual_seed(0), workspace=Workspace(progress=False)
    )
    assert edit.log["losses"]["pairs"]
