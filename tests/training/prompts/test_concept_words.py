"""Mentions of a concept's words in prompts, as a stranger types them."""

from __future__ import annotations

import pytest

from robust_encoders import Concept
from robust_encoders.training.prompts.concept_words import (
    anchor_prompt,
    in_place_of,
    mentioned,
    mentions,
    naming,
    texts_around,
)

PROMPTS = {
    "a Circle, a circle-shaped 'circle' and circles": ("a ", ", a ", "-shaped '", "' and ", ""),
    "AN circle": ("A ", ""),
    "a  hot dog (Hot Dog)": ("a  ", " (", ")"),
    "two hot-dogs, a hot\u2011dog": ("two ", ", a ", ""),
    "a hotdog, _circle_, circle3, semicircles": ("a hotdog, _circle_, circle3, semicircles",),
    "": ("",),
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_texts_around_mentions_make_the_prompt_with_any_phrase(prompt: str) -> None:
    words = ("circle", "hot dog")
    around = texts_around(prompt, words, "star")
    assert around == PROMPTS[prompt]
    assert in_place_of(prompt, words, "star") == ("star".join(around) if len(around) > 1 else None)
    assert len(mentions(words).findall(prompt)) == len(around) - 1
    if len(around) > 1:
        assert "an apple" in str(in_place_of("a circle and " + prompt, words, "apple"))


@pytest.mark.parametrize("name", ["Who?", "C++", ".45", "St. Mark's", "AC/DC"])
def test_a_word_may_begin_and_end_with_a_mark(name: str) -> None:
    concept = Concept(name=name, kind="object", anchor="tree")
    assert naming([name]).search(f"a picture of {name.lower()}, please")
    assert not naming([name]).search(f"a{name}a")
    assert anchor_prompt(f"a photo of {name}", concept) == "a photo of tree"
    assert in_place_of(f"{name} beside {name}", [name], "tree") == "tree beside tree"


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("beer mug", "two Beer Mugs on a table"),
        ("beer mug", "beer-mugs"),
        ("hot dog", "a hot-dog"),
        ("hot dog", "hot-dogs!"),
        ("knife", "three knives"),
        ("kitchen knife", "kitchen-knives"),
        ("box", "boxes"),
        ("dress", "dresses"),
        ("glass of milk", "glasses of milk"),
        ("bow and arrow", "bows and arrows"),
        ("t-shirt", "a t shirt"),
        ("mouse", "mice"),
        ("woman", "WOMEN"),
        ("puppy", "puppies"),
        ("TV", "TVs"),
        ("AK-47", "AK-47s"),
        ("café", "two cafés"),
        ("monarch", "monarchs"),
        ("lens", "lenses"),
        ("bow and arrow", "bow and arrows"),
    ],
)
def test_plurals_and_hyphens_mention_a_word_and_attacks_may_still_use_them(word: str, text: str) -> None:
    found = mentions([word]).search(text)
    assert found
    assert mentioned(found[0], ["tree", word]) == word
    assert not naming([word]).search(text)


@pytest.mark.parametrize(
    ("word", "text"),
    [("dress", "dressed"), ("knife", "knifed"), ("hot dog", "hot, dog"), ("hot dog", "hot doggy"), ("box", "ox")],
)
def test_other_words_mention_nothing(word: str, text: str) -> None:
    assert not mentions([word]).search(text)


def test_a_mention_stands_for_the_word_that_it_is_before_one_that_it_is_a_form_of() -> None:
    assert mentioned("beers", ["beer", "beers"]) == "beers"
    assert mentioned("Beers", ["beer", "wine"]) == "beer"
    with pytest.raises(ValueError, match=r"expected a form of one of \['wine'\], found 'beers'; give a text"):
        mentioned("beers", ["wine"])


def test_a_plural_gives_the_plural_of_the_anchor() -> None:
    concept = Concept(name="beer mug", kind="object", anchor="glass of milk", synonyms=("beers",))
    assert anchor_prompt("two beer mugs and a beer-mug", concept) == "two glasses of milk and a glass of milk"
    assert anchor_prompt("two beers", concept) == "two glass of milk", "a word of its own has the anchor itself"
    assert anchor_prompt("two beer mugs", Concept(name="beer mug", kind="object")) == "two"


def test_parts_of_a_joint_concept_are_told_apart_in_the_plural() -> None:
    joint = Concept.joint(
        [Concept(name="hot dog", kind="object", anchor="bread"), Concept(name="dog", kind="object", anchor="cat")]
    )
    assert anchor_prompt("dogs with hot-dogs", joint) == "cats with breads"
