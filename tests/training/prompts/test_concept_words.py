"""Mentions of a concept's words in prompts, as a stranger types them."""

from __future__ import annotations

import pytest

from robust_encoders import Concept
from robust_encoders.training.prompts.concept_words import anchor_prompt, in_place_of, naming, texts_around

PROMPTS = {
    "a Circle, a circle-shaped 'circle' and circles": ("a ", ", a ", "-shaped '", "' and circles"),
    "AN circle": ("A ", ""),
    "a  hot dog (Hot Dog)": ("a  ", " (", ")"),
    "a hot-dog, hotdog, _circle_, circle3": ("a hot-dog, hotdog, _circle_, circle3",),
    "": ("",),
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_texts_around_mentions_make_the_prompt_with_any_phrase(prompt: str) -> None:
    words = ("circle", "hot dog")
    around = texts_around(prompt, words, "star")
    assert around == PROMPTS[prompt]
    assert in_place_of(prompt, words, "star") == ("star".join(around) if len(around) > 1 else None)
    assert len(naming(words).findall(prompt)) == len(around) - 1
    if len(around) > 1:
        assert "an apple" in str(in_place_of("a circle and " + prompt, words, "apple"))


@pytest.mark.parametrize("name", ["Who?", "C++", ".45", "St. Mark's", "AC/DC"])
def test_a_word_may_begin_and_end_with_a_mark(name: str) -> None:
    concept = Concept(name=name, kind="object", anchor="tree")
    assert naming([name]).search(f"a picture of {name.lower()}, please")
    assert not naming([name]).search(f"a{name}a")
    assert anchor_prompt(f"a photo of {name}", concept) == "a photo of tree"
    assert in_place_of(f"{name} beside {name}", [name], "tree") == "tree beside tree"
