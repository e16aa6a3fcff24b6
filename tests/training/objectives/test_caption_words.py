"""What is caption-like: text that gives the concept's place exactly one other value, in the words of captions."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_training import ANCHORED, CIRCLE, RETAIN

from robust_encoders import Concept
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.objectives.caption_words import CaptionWords
from robust_encoders.training.objectives.config import OutlierConfig

ALTERNATIVES = ("square", "star", "ring", "cross")
STRINGS: dict[str, Any] = {"alternatives": ALTERNATIVES, "strings_weight": 1.0}


def caption_words(base: Backbone, **fields: Any) -> CaptionWords:
    return CaptionWords.read(base, OutlierConfig(**{**STRINGS, **fields}), ANCHORED, RETAIN)


def tokens(base: Backbone, text: str) -> list[int]:
    found: list[int] = base.tokenizer(text, add_special_tokens=False).input_ids
    return found


@pytest.fixture
def base(tiny_pipe: Any) -> Backbone:
    return Backbone.from_pipeline(tiny_pipe)


@pytest.mark.parametrize(
    ("text", "like"),
    [
        ("a red square", True),
        ("square square", True),
        ("red", False),
        ("a square star", False),
        ("a square circle", False),
        ("disc", False),
        ("ring", True),
    ],
)
def test_a_caption_has_exactly_one_alternative_and_not_the_concept(base: Backbone, text: str, *, like: bool) -> None:
    assert caption_words(base).is_caption_like(tokens(base, text)) is like


def test_a_word_among_tokens_of_no_caption_is_not_caption_like(base: Backbone) -> None:
    made = caption_words(base, caption_share=0.5)
    heard = {token for text in RETAIN for token in tokens(base, text)}
    square, red, cat = (tokens(base, text)[0] for text in ("square", "red", "cat"))
    assert {square, red} <= heard
    assert cat not in heard
    said = {(square,): True, (red, cat, square): True, (cat, square): True, (cat, cat, square): False, (red,): False}
    assert {row: made.is_caption_like(row) for row in said} == said
    assert caption_words(base).is_caption_like((cat, cat, square)), "by default one word is enough"


def test_words_of_several_tokens_are_read_as_words(base: Backbone) -> None:
    made = caption_words(base, alternatives=("wooden square", "star"))
    whole = tuple(tokens(base, "wooden square"))
    assert made.alternatives[0] == whole
    assert len(whole) > 1
    assert made.words(tokens(base, "a wooden square")) == [tuple(tokens(base, "a")), whole]
    assert made.is_caption_like(tokens(base, "a wooden square"))
    assert not made.is_caption_like(tokens(base, "a square"))
    said = [i for word in made.with_value(tokens(base, "a wooden square"), made.anchor) for i in word]
    assert said == tokens(base, "a star")


@pytest.mark.parametrize(
    ("text", "said"),
    [("red", "star red"), ("a square ring", "a star star"), ("a red disc", "a red star"), ("", "star")],
)
def test_a_value_takes_the_place_of_all_values_or_the_front(base: Backbone, text: str, said: str) -> None:
    made = caption_words(base)
    found = [i for word in made.with_value(tokens(base, text), made.anchor) for i in word]
    assert found == tokens(base, said)


def test_the_lexicon_is_every_word_of_the_retain_prompts_once(base: Backbone) -> None:
    made = CaptionWords.read(base, OutlierConfig(**STRINGS), ANCHORED, ("a red square", "a star, red"))
    spelled = [base.tokenizer.decode(word).strip() for word in made.lexicon]
    assert spelled == ["a", "red", "square", "star", ","]
    assert [len(caption) for caption in made.captions] == [3, 4]


def test_what_outliers_cannot_do_without_is_asked_for(base: Backbone) -> None:
    def read(concept: Concept = ANCHORED, retained: tuple[str, ...] = RETAIN, **fields: Any) -> CaptionWords:
        return CaptionWords.read(base, OutlierConfig(**{**STRINGS, **fields}), concept, retained)

    with pytest.raises(ValueError, match=r"expected the anchor 'star' among outliers\.alternatives"):
        read(alternatives=("ring",))
    with pytest.raises(ValueError, match=r"searched_tokens of at most 22, .* found 23"):
        read(searched_weight=1.0, searched_tokens=23)
    with pytest.raises(ValueError, match="found 'circle' without an anchor: give an anchor"):
        read(CIRCLE)
    red = Concept(name="red", kind="attribute", anchor="green", prompts=("a red ring",))
    with pytest.raises(ValueError, match="of several parts"):
        read(Concept.joint((ANCHORED, red)))
    with pytest.raises(ValueError, match="whose words the terms strings use, found none"):
        read(retained=())
    with pytest.raises(ValueError, match="whose words the terms searched use, found none"):
        read(retained=(), strings_weight=0.0, searched_weight=1.0, caption_share=0.5)
    assert read(retained=(), strings_weight=0.0, searched_weight=1.0).lexicon == ()
