"""Plurals and spellings of English words and phrases."""

from __future__ import annotations

import re

import pytest

from robust_encoders.training.prompts.word_forms import plurals, spelled_apart, spellings
from robust_encoders.training.worlds.emoji.things import load_things

PLURALS = {
    "knife": "knives", "penknife": "penknives", "wolf": "wolves", "cliff": "cliffs", "giraffe": "giraffes",
    "box": "boxes", "ox": "oxen", "dress": "dresses", "brush": "brushes", "torch": "torches", "bus": "buses",
    "puppy": "puppies", "toy": "toys", "photo": "photos", "tomato": "tomatoes", "snowman": "snowmen",
    "human": "humans", "child": "children", "goose": "geese", "Van Gogh": "Van Goghs", "red wine": "red wines",
    "cup with straw": "cups with straw", "bow and arrow": "bows and arrows",
    "blouse": "blouses", "mongoose": "mongooses", "grandchild": "grandchildren", "a woman": "women",
    "an ape": "apes", "A glass of milk": "glasses of milk", "an era": "eras", "a cat and a dog": "cats and dogs",
}  # fmt: skip


@pytest.mark.parametrize("word", PLURALS)
def test_the_usual_plural_comes_first(word: str) -> None:
    assert plurals(word)[0] == PLURALS[word]


@pytest.mark.parametrize("word", ["jeans", "crossed swords", "C++", ".45", "a", "\u88f8\u4f53", ""])
def test_plural_words_marks_and_other_letters_have_no_plural(word: str) -> None:
    assert plurals(word) == ()


def test_no_thing_of_the_emoji_world_is_called_by_another_ones_plural_unnoticed() -> None:
    owners = {word: thing.name for thing in load_things().things for word in thing.words("any")}
    forms = ((word, form) for word in owners for form in plurals(word) if form in owners)
    shared = {(word, form) for word, form in forms if owners[form] != owners[word]}
    assert shared == {("beer", "beers")}, "beer mug, and clinking beer mugs"


def test_a_phrase_is_found_with_spaces_and_hyphens_alone() -> None:
    pattern = re.compile(spelled_apart("t-shirt of wool."))
    assert [bool(pattern.fullmatch(text)) for text in ("t shirt of wool.", "t-shirt-of  wool.", "tshirt of wool.")] == [
        True,
        True,
        False,
    ]
    assert spellings("hot dog") == ("hot dog", "hot-dog", "hot dogs", "hot-dogs")
