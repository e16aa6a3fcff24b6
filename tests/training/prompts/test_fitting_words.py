"""The words that fit the concept's place are read off the retain prompts."""

from __future__ import annotations

from typing import Any

import pytest

from robust_encoders.training.prompts.fitting_words import every_word, fitting_words, words_of
from robust_encoders.training.prompts.vocabulary_words import tokens_like
from robust_encoders.training.recipes.registry import RECIPES
from robust_encoders.training.worlds.shapes.concepts import beside


def test_a_word_fits_where_a_retain_prompt_differs_by_it_alone() -> None:
    retained = ("a red star", "a red square on white", "an annulus", "a blue disc", "one star, red and plain", "a red")
    said = ("a red circle", "a circle", "a disc on white", "one circle, red and plain")
    assert fitting_words(said, ("circle", "disc"), retained) == ("star", "annulus")
    assert fitting_words(("circle, red",), ("circle",), ("star , red", "ring, green")) == ("star",)


@pytest.mark.parametrize(
    ("said", "retained", "fits"),
    [
        ("A Red Circle", "a red STAR", "star"),
        ("a circle-shaped box", "a star-shaped box", "star"),
        ("a picture of a (circle)!", "a picture of a (star)!", "star"),
        ("the circle's edge", "the star's edge", "star"),
        ("a hot dog", "a t-shirt", "t-shirt"),
        ("a 'Hot Dog', please", "an 'apple', please", "apple"),
    ],
)
def test_capital_letters_marks_and_hyphens_do_not_hide_a_word(said: str, retained: str, fits: str) -> None:
    assert fitting_words((said,), ("circle", "hot dog"), (retained,)) == (fits,)


def test_words_beside_the_concept_do_not_take_its_place() -> None:
    retained = ("a dotted star", "a green star")
    assert fitting_words(("a red star", "a dotted red ring"), ("red",), retained) == ("green",)


def test_a_word_that_fits_by_chance_is_left_out() -> None:
    said = tuple(f"a striped {colour} box" for colour in map(str, range(11)))
    retained = tuple(text.replace("striped", "plain") for text in said)
    assert fitting_words(said, ("striped",), (*retained, "a nice 3 box")) == ("plain",)
    assert fitting_words(said[:10], ("striped",), (*retained[:10], "a nice 3 box")) == ("plain", "nice")


def test_plurals_and_hyphen_spellings_of_the_concept_do_not_fit() -> None:
    retained = ("a red star", "a red circles", "a red hot-dog")
    assert fitting_words(("a red circle",), ("circle", "hot dog"), retained) == ("star",)


def test_without_such_a_prompt_every_word_counts_that_another_prompt_replaces() -> None:
    retained = ("a photo of a dog", "a photo of a cat", "a photo of an owl", "the sea")
    assert fitting_words(("church",), ("church",), retained) == ("dog", "cat", "owl")
    assert fitting_words(("church",), ("church",), ("a photo of a dog",)) == ()


@pytest.mark.parametrize("concept", ["circle", "red", "striped"])
def test_captions_of_the_shapes_world_give_its_words_and_hardly_any_other(concept: str) -> None:
    recipe = RECIPES[f"shapes/{concept}-pooled-fast"]()
    method: object = recipe.method
    found = fitting_words(recipe.concept.prompts, recipe.concept.words(), method.retained)  # type: ignore[attr-defined]
    listed = set(beside(concept))
    assert len(set(found) & listed) >= 0.8 * len(listed) - 2
    assert not set(found) - listed


def test_words_of_texts_are_without_marks_and_each_once() -> None:
    assert words_of(("a star, red", "red star.")) == ("a", "star", "red")
    assert words_of(('A "Red" star-shaped (box)', "the star's")) == ("a", "red", "star-shaped", "box", "the", "star's")
    assert every_word(("A star-shaped box",)) == {"a", "star-shaped", "star", "shaped", "box"}


def test_tokens_that_spell_a_word_are_found_at_its_end_and_before_more_of_it(tiny_pipe: Any) -> None:
    tokenizer = tiny_pipe.tokenizer
    found = tokenizer.convert_ids_to_tokens(tokens_like(tokenizer, ["Star", "xyzxyz"]))
    assert "star</w>" in found
    assert {token.removesuffix("</w>") for token in found} <= {"star", "stars", "stares", "xyzxyz"}
    letter = tokenizer("é", add_special_tokens=False).input_ids
    assert tokens_like(tokenizer, ["é"]) == (letter if len(letter) == 1 else [])
    assert tokens_like(tokenizer, []) == []
    assert set(tokenizer.convert_ids_to_tokens(tokens_like(tokenizer, ["a"]))) >= {"a", "a</w>"}
