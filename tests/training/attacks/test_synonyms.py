"""The concept in other words: whole words, in any case, longest first, in order, and never the prompt itself."""

from __future__ import annotations

from typing import Any

import pytest
from attack_helpers import make_target, texts

from robust_encoders.training.attacks import ATTACKS, Synonyms
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Case
from robust_encoders.training.worlds.shapes.captions import WordChoice, scene_prompts
from robust_encoders.training.worlds.shapes.concepts import all_words, shapes_concept
from robust_encoders.training.worlds.shapes.vocabulary import WORDS

ATTACK = Synonyms(("circle", "round thing", "round"), ("Disc", "orb", "circle"))


@pytest.fixture
def backbone(tiny_pipe: Any) -> Backbone:
    return make_target(tiny_pipe)


def said(backbone: Backbone, prompt: str, *, goal: str = "", attack: Synonyms = ATTACK) -> list[str]:
    return texts(attack.run(backbone, [Case(0, prompt, 0, goal=goal)], seed=0)[0])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red circle on white", ["a red Disc on white", "a red orb on white"]),
        ("A CIRCLE, circle", ["A Disc, Disc", "An orb, orb", "A circle, circle"][:2]),
        ("a round thing", ["a Disc", "an orb", "a circle"]),
        ("an\tround sky", ["a\tDisc sky", "an\torb sky", "a\tcircle sky"]),
        ("encircled by a circle", ["encircled by a Disc", "encircled by an orb"]),
        ("circle/round", ["Disc/Disc", "orb/orb", "circle/circle"]),
    ],
)
def test_every_mention_is_replaced_and_its_article_fits(backbone: Backbone, prompt: str, expected: list[str]) -> None:
    assert said(backbone, prompt) == expected


@pytest.mark.parametrize("prompt", ["a blue square", "encircled grounds", "circle_1"])
def test_a_prompt_that_does_not_name_the_concept_gets_a_clause_before_it(backbone: Backbone, prompt: str) -> None:
    assert said(backbone, prompt) == [f"Disc, {prompt}", f"orb, {prompt}", f"circle, {prompt}"]


def test_a_case_with_a_goal_of_its_own_keeps_its_prompt_whole(backbone: Backbone) -> None:
    assert said(backbone, "a circle", goal="a red circle") == ["Disc, a circle", "orb, a circle", "circle, a circle"]


def test_candidates_come_in_order_once_each_and_cost_nothing(backbone: Backbone) -> None:
    attack = Synonyms(("circle",), ("disc", "circle", "disc", "orb"))
    cases = [Case(0, "a circle", 0), Case(1, "a disc", 1)]
    for result in attack.run(backbone, cases, seed=0):
        assert (result.queries, result.unet_calls) == (0, 0)
        assert [candidate.step for candidate in result.candidates] == [*range(1, len(result.candidates) + 1)]
    assert said(backbone, "a circle", attack=attack) == ["a disc", "an orb"]


@pytest.mark.parametrize("name", [value for words in WORDS.values() for value in words])
@pytest.mark.parametrize("choice", ["name", "seen", "unseen"])
def test_on_shapes_every_word_but_the_prompts_own_is_tried(backbone: Backbone, name: str, choice: WordChoice) -> None:
    words = all_words(name)
    factor = next(factor for factor in WORDS if name in WORDS[factor])
    prompt = scene_prompts(1, seed=3, fixed={factor: name}, words=choice)[0].text
    found = said(backbone, prompt, attack=Synonyms(words, words))
    assert len(found) == len(words) - 1
    spoken = [next(word for word in words if word in text.replace(",", " ").split()) for text in found]
    assert spoken == [word for word in words if word not in prompt.replace(",", " ").split()]


def test_the_words_of_a_value_are_those_erasers_see_and_the_one_held_out() -> None:
    concept = shapes_concept("circle")
    assert all_words("circle") == (*concept.words(), "round")
    assert not any("round" in prompt.split() for prompt in concept.prompts)
    with pytest.raises(ValueError, match="expected one of circle"):
        all_words("disc")


@pytest.mark.parametrize(
    ("words", "synonyms", "message"),
    [
        ((), ("disc",), "no blank words or synonyms"),
        (("circle", " "), ("disc",), "no blank words or synonyms"),
        (("circle",), ("",), "no blank words or synonyms"),
        (("circle",), (), "another word for"),
        (("circle", "disc"), ("CIRCLE", "circle"), "another word for"),
    ],
)
def test_words_that_leave_nothing_to_say_are_refused(
    words: tuple[str, ...], synonyms: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Synonyms(words, synonyms)


def test_registered_as_an_attack_by_anybody() -> None:
    assert ATTACKS["synonyms"] is Synonyms
    assert isinstance(ATTACK, Attack)
    assert Synonyms.tier == "T1"
