"""Everyday wordings: two parts that share no distinctive word, prompts that fit, and a concept that is kept out."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from typing import Any, get_args

import pytest
from transformers import CLIPTokenizer

from robust_encoders.hub.embedded import embedded_folder
from robust_encoders.training.evaluation.benchmarks.shapes_prompts import ShapesPrompts
from robust_encoders.training.evaluation.benchmarks.world_prompts import ORDINARY_NEGATIVES
from robust_encoders.training.worlds.shapes.captions import TEMPLATES
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept
from robust_encoders.training.worlds.shapes.everyday import EverydayPrompt, Frame, frames, kept_everyday, named_everyday
from robust_encoders.training.worlds.shapes.everyday_frames import PARTS, Part
from robust_encoders.training.worlds.shapes.vocabulary import FACTORS, VALUES, WORDS

CONCEPTS = ("circle", "red", "striped", "white")
BOTH: tuple[Part, ...] = get_args(Part)
FUNCTION_WORDS = set(re.findall(r"\w+", "a an of on in at with and is it for to me you i we one as from"))
TEMPLATE_WORDS = {word for text in TEMPLATES["all"] for word in re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", text))}


def distinctive(frame: Frame) -> set[str]:
    """Return all words that are neither function words nor words of a caption template, and all marks but the comma."""
    text = re.sub(r"\{\w+\}", " ", frame.text.lower())
    words = set(re.findall(r"[a-z0-9]+", text)) - FUNCTION_WORDS - TEMPLATE_WORDS
    return words | (set(re.findall(r"[^\w\s]", text)) - {","})


def alike(one: str, other: str) -> bool:
    return SequenceMatcher(None, one, other).ratio() >= 0.8


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return CLIPTokenizer.from_pretrained(embedded_folder("shapes") / "base" / "tokenizer")


def fits(tokenizer: Any, text: str) -> bool:
    return len(tokenizer(text).input_ids) <= int(tokenizer.model_max_length)


def test_each_part_has_at_least_thirty_wordings_of_one_to_four_attributes() -> None:
    for part in BOTH:
        made = frames(part)
        assert len({frame.text for frame in made}) == len(made) >= 30
        assert {len(frame.factors) for frame in made} == {1, 2, 3, 4}
        assert all("shape" in frame.factors and len({*frame.factors}) == len(frame.factors) for frame in made)
        assert min(Counter(frame.kind for frame in made).values()) >= 4


def test_every_kind_of_wording_belongs_to_one_part() -> None:
    assert not {*PARTS["seen"]} & {*PARTS["reported"]}


def test_no_wording_of_one_part_shares_a_distinctive_word_with_the_other() -> None:
    """Words are shared if they are equal, or if at least 80 % of their letters match in order (inflection, typos)."""
    seen, reported = ({word for frame in frames(part) for word in distinctive(frame)} for part in BOTH)
    assert len(seen) >= 20
    assert len(reported) >= 30
    assert [(one, other) for one in seen for other in reported if alike(one, other)] == []


def test_no_wording_but_an_upper_case_one_is_a_caption_template_and_none_stands_in_both_parts() -> None:
    texts = [{frame.text.lower() for frame in frames(part)} for part in BOTH]
    assert not texts[0] & texts[1]
    ours = texts[0] | {frame.text for frame in frames("reported") if not frame.shouted}
    assert not ours & {*TEMPLATES["all"]}


def test_a_wording_without_a_distinctive_word_differs_in_its_form() -> None:
    bare = {frame.kind for part in BOTH for frame in frames(part) if not distinctive(frame)}
    assert bare <= {"no article", "background first", "upper case", "shape first"}


@pytest.mark.parametrize("part", BOTH)
def test_no_prompt_is_too_long_for_the_base(part: Part, tokenizer: Any) -> None:
    for index in (0, -1):
        longest = {
            factor: max((words[index] for words in WORDS[factor].values()), key=lambda w: len(tokenizer.tokenize(w)))
            for factor in FACTORS
        }
        assert all(fits(tokenizer, frame.text.format(**longest)) for frame in frames(part))


@pytest.mark.parametrize("concept", CONCEPTS)
def test_no_negative_prompt_is_too_long_for_the_base(concept: str, tokenizer: Any) -> None:
    abuse = ShapesPrompts(ShapesConcept.parse(concept)).negatives(40, seed=0)
    assert all(fits(tokenizer, text) for text in (*ORDINARY_NEGATIVES, *abuse))


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("part", BOTH)
def test_kept_prompts_never_state_the_concept_and_expect_what_they_say(concept: str, part: Part) -> None:
    erased = ShapesConcept.parse(concept)
    made = kept_everyday(erased, 100, part=part, seed=5)
    assert made == kept_everyday(erased, 100, part=part, seed=5)
    assert made != kept_everyday(erased, 100, part=part, seed=6)
    turns = Counter(one.frame for one in made)
    assert set(turns) == {*frames(part)}
    assert max(turns.values()) - min(turns.values()) <= 1
    for one in made:
        assert not spoken(one) & {*erased.words}
        assert set(one.prompt.expected) == {*one.frame.factors}
        assert all(value in spoken(one) for value in one.prompt.expected.values())


def spoken(one: EverydayPrompt) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", one.prompt.text.lower()))


@pytest.mark.parametrize("concept", CONCEPTS)
def test_naming_prompts_state_the_concept_by_the_chosen_word(concept: str) -> None:
    erased = ShapesConcept.parse(concept)
    made = named_everyday(erased, 50, part="seen", seed=1)
    assert all(one.prompt.expected[erased.factor] == concept in spoken(one) for one in made)
    assert len({one.frame for one in made}) > 15
    rare = named_everyday(erased, 50, part="seen", seed=1, words="unseen")
    assert all(erased.words[-1] in spoken(one) for one in rare)


def test_given_values_take_turns() -> None:
    made = named_everyday(ShapesConcept.parse("circle"), 5, part="reported", seed=1, values=("ring", "cross"))
    assert [one.prompt.expected["shape"] for one in made] == ["ring", "cross", "ring", "cross", "ring"]
    with pytest.raises(ValueError, match=r"expected values of the shape among circle, .*, found blue"):
        named_everyday(ShapesConcept.parse("circle"), 5, part="reported", seed=1, values=("ring", "blue"))


def test_articles_and_upper_case() -> None:
    values = {"shape": "star", "colour": "orange", "background": "white", "style": "outlined"}
    assert set(values) == set(VALUES)
    made = {one.frame.text: one for one in kept_everyday(ShapesConcept.parse("circle"), 44, part="reported", seed=0)}
    assert made["A {colour} {shape}"].prompt.text.isupper()
    vowels = [one.prompt.text.lower() for seed in range(9) for one in _many(seed)]
    assert any(re.search(r"\ban (?:orange|outlined)", text) for text in vowels)
    assert not any(re.search(r"\ba [aeiou]", text) for text in vowels)


def _many(seed: int) -> list[EverydayPrompt]:
    return [one for part in BOTH for one in kept_everyday(ShapesConcept.parse("circle"), 44, part=part, seed=seed)]
