"""A concept's nearest words: found in the text encoder, added as targets, dropped from what is retained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from robust_encoders import Concept, embedded_pipeline
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.prompts.concept_words import naming
from robust_encoders.training.prompts.synonyms import (
    Neighbour,
    SynonymConfig,
    nearest_words,
    with_synonyms,
    with_synonyms_of_parts,
    without_words,
)
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.worlds.shapes.concepts import CONCEPTS, all_words
from robust_encoders.training.worlds.shapes.vocabulary import WORDS


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.from_pipeline(embedded_pipeline())


def naive(backbone: Backbone, name: str, word: str) -> float:
    """Return the cosine of two words' token embeddings, each the mean of its tokens."""
    table = backbone.text_encoder.get_input_embeddings().weight
    a, b = (table[backbone.tokenizer(text, add_special_tokens=False).input_ids].mean(0) for text in (name, word))
    return float(a @ b / (a.norm() * b.norm()))


def test_the_nearest_words_are_those_of_a_naive_search(backbone: Backbone) -> None:
    concept = CONCEPTS["circle"]
    found = nearest_words(backbone, concept, SynonymConfig(k=6, threshold=-1))
    known = {word for values in WORDS.values() for words in values.values() for word in words}
    single = [w for w in known if len(backbone.tokenizer(w, add_special_tokens=False).input_ids) == 1]
    usable = [w for w in single if w not in {*concept.words(), concept.anchor}]
    cosines = {one.word: one.cosine for one in found}
    assert list(cosines.values()) == sorted(cosines.values(), reverse=True)
    for word, cosine in cosines.items():
        assert cosine == pytest.approx(naive(backbone, "circle", word), abs=1e-5)
    best = max(usable, key=lambda word: naive(backbone, "circle", word))
    assert found[0].word == best


@pytest.mark.parametrize("space", ["embedding", "conditioning"])
@pytest.mark.parametrize("name", ["circle", "striped"])
def test_they_find_the_synonym_that_no_training_was_told(backbone: Backbone, name: str, space: Any) -> None:
    found = nearest_words(backbone, CONCEPTS[name], SynonymConfig(k=1, space=space))
    assert [one.word for one in found] == [all_words(name)[-1]]
    assert found[0].cosine > 0.8


def test_own_words_the_anchor_endings_and_special_tokens_are_left_out(backbone: Backbone) -> None:
    concept = replace(CONCEPTS["circle"], anchor="green square")
    found = {one.word for one in nearest_words(backbone, concept, SynonymConfig(k=1000, threshold=-1))}
    assert not found & {*concept.words(), "green", "square"}
    assert not {word for word in found if any(own.endswith(word) for own in concept.words())}
    assert {"round", "ring", "blue"} <= found
    assert all(word.isalpha() and len(word) > 2 for word in found)
    without = nearest_words(backbone, concept, SynonymConfig(k=1000, threshold=-1), excluded=["ring"])
    assert found - {one.word for one in without} == {"ring"}


def test_number_and_threshold_limit_them(backbone: Backbone) -> None:
    concept = CONCEPTS["red"]
    assert len(nearest_words(backbone, concept, SynonymConfig(k=3, threshold=-1))) == 3
    assert nearest_words(backbone, concept, SynonymConfig(k=3, threshold=1)) == ()
    some = nearest_words(backbone, concept, SynonymConfig(k=50, threshold=0.2))
    assert some
    assert min(one.cosine for one in some) >= 0.2


def test_a_name_of_several_tokens_is_their_mean(backbone: Backbone) -> None:
    concept = Concept(name="red circle", kind="object")
    (first, *_) = nearest_words(backbone, concept, SynonymConfig(k=1, threshold=-1))
    assert first.cosine == pytest.approx(naive(backbone, "red circle", first.word), abs=1e-5)


@pytest.mark.parametrize("fields", [{"k": 0}, {"threshold": 1.5}, {"space": "pixel"}])
def test_bad_settings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected k of at least 1, a threshold in"):
        SynonymConfig(**fields)


def test_a_random_encoder_has_nearest_words_too(tiny_pipe: Any) -> None:
    found = nearest_words(
        Backbone.from_pipeline(tiny_pipe), Concept(name="circle", kind="object"), SynonymConfig(threshold=-1)
    )
    assert all(-1 <= one.cosine <= 1 for one in found)


def test_prompts_state_the_synonyms_in_the_concepts_place_with_an_article_that_fits() -> None:
    prompts = ("a red circle", "a circle on white", "the disc", "A Circle")
    concept = Concept(name="circle", kind="object", anchor="star", synonyms=("disc",), prompts=prompts)
    wider = with_synonyms(concept, ("orb", "ball"))
    assert wider.synonyms == ("disc", "orb", "ball")
    assert set(prompts) <= set(wider.prompts)
    added = [prompt for prompt in wider.prompts if prompt not in prompts]
    assert len(added) == 4  # two for each, as each of the concept's own words has on average
    possible = {
        "a red orb",
        "an orb on white",
        "the orb",
        "an orb",
        "a red ball",
        "a ball on white",
        "the ball",
        "a ball",
    }
    assert set(added) <= possible
    assert wider.anchor == "star"
    assert with_synonyms(concept, ()) == concept


def test_plurals_and_hyphens_give_way_to_a_synonym_too() -> None:
    concept = Concept(name="hot dog", kind="object", prompts=("two hot-dogs", "a hot-dog"))
    assert {*with_synonyms(concept, ("wiener",)).prompts} == {*concept.prompts, "two wiener", "a wiener"}


def test_the_first_prompts_have_a_share_of_every_word() -> None:
    wider = with_synonyms(CONCEPTS["circle"], ("orb", "sphere"))
    first = wider.prompts[:64]
    for word in ("orb", "sphere"):
        named = naming([word])
        assert 8 <= sum(bool(named.search(prompt)) for prompt in first) <= 24
    assert len(set(wider.prompts)) == len(wider.prompts)


def test_a_concept_without_prompts_gets_its_words() -> None:
    wider = with_synonyms(Concept(name="church", kind="object"), ("chapel",))
    assert wider.prompts == ("church", "chapel")


def test_the_parts_of_a_joint_concept_get_their_own() -> None:
    parts = [Concept(name="church", kind="object", anchor="hut"), Concept(name="tench", kind="object", anchor="dog")]
    joint = with_synonyms_of_parts(Concept.joint(parts), [("chapel",), ()])
    assert [part.synonyms for part in joint.parts] == [("chapel",), ()]
    with pytest.raises(ValueError, match="expected anchors that are not erased"):
        with_synonyms_of_parts(Concept.joint(parts), [("dog",), ()])


def test_prompts_that_name_a_synonym_are_not_retained() -> None:
    assert without_words(("a ring", "a Ring on white", "two rings", "it is ringing"), ("ring",)) == ("it is ringing",)
    assert without_words(("a ring",), ()) == ("a ring",)


def test_a_recipe_takes_them_and_records_them() -> None:
    recipe = RECIPES["shapes/circle-esd"]()
    method: Any = recipe.method
    assert any("ring" in prompt for prompt in method.retained)
    wider = recipe.with_synonyms([[Neighbour("ring", 0.5)]])
    changed: Any = wider.method
    assert "ring" in wider.concept.synonyms
    assert not [prompt for prompt in changed.retained if naming(["ring"]).search(prompt)]
    assert wider.found_synonyms == {"ring": 0.5}
    assert recipe.with_synonyms([[]]) == recipe


def test_looking_for_them_changes_nothing(backbone: Backbone) -> None:
    before = torch.get_rng_state()
    state = {name: one.clone() for name, one in backbone.text_encoder.state_dict().items()}
    nearest_words(backbone, CONCEPTS["circle"], SynonymConfig(space="conditioning"))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one, state[name]) for name, one in backbone.text_encoder.state_dict().items())
