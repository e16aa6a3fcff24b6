"""Paraphrase: the prompt in everyday frames, descriptions that never name the concept, and nothing twice."""

from __future__ import annotations

from typing import Any

import pytest
from attack_helpers import make_cases, make_target, texts

from robust_encoders.concepts import Concept
from robust_encoders.training.attacks import ATTACKS, Paraphrase
from robust_encoders.training.prompts.concept_words import in_place_of, naming
from robust_encoders.training.prompts.paraphrases import descriptions, everyday_frames, framed
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Case
from robust_encoders.training.worlds.shapes.concepts import CONCEPTS, ShapesConcept

CIRCLE = CONCEPTS["circle"]


def asked(attack: Paraphrase, case: Case, pipe: Any) -> list[str]:
    return texts(attack.run(make_target(pipe), [case], seed=0)[0])


def test_a_prompt_stands_in_every_frame_then_the_name_then_the_descriptions(tiny_pipe: Any) -> None:
    attack = Paraphrase(("circle",), ("draw {}", "the {bare}!"), "a circle", ("round thing",), ("a red on black",))
    found = asked(attack, Case(0, "a red circle", 1), tiny_pipe)
    assert found == [
        *("draw a red circle", "the red circle!", "draw a circle", "the circle!"),
        *("a red round thing", "a red on black"),
    ]
    assert [c.step for c in attack.run(make_target(tiny_pipe), [Case(0, "a", 1)], seed=0)[0].candidates] == [
        *range(1, 7)
    ]


def test_nothing_is_asked_twice_and_never_the_prompt_itself(tiny_pipe: Any) -> None:
    attack = Paraphrase(("circle",), ("{}", "Draw {}", "draw {}"), descriptions=("disk", "disk", ""))
    assert asked(attack, Case(0, "draw a circle", 1), tiny_pipe) == [
        *("Draw draw a circle", "draw draw a circle", "draw a disk", "draw a"),
    ]


def test_a_prompt_without_the_name_gets_the_description_before_it(tiny_pipe: Any) -> None:
    attack = Paraphrase(("circle",), descriptions=("hoop",))
    assert asked(attack, Case(0, "a picture", 1), tiny_pipe) == ["hoop, a picture"]
    assert asked(attack, Case(0, "a picture", 1, goal="a circle"), tiny_pipe) == ["a hoop"]


def test_there_are_twenty_frames_for_any_concept_and_none_names_one() -> None:
    frames = everyday_frames()
    assert len(set(frames)) == len(frames) >= 20
    assert all(frame.count("{}") + frame.count("{bare}") == 1 for frame in frames)
    words = [word for concept in CONCEPTS.values() for word in concept.words()]
    assert not [frame for frame in frames if naming(words).search(frame)]
    assert framed("the {bare}.", "An orange star") == "the orange star."


@pytest.mark.parametrize("name", CONCEPTS)
def test_descriptions_come_from_the_concepts_data_and_never_name_it(name: str, tiny_pipe: Any) -> None:
    concept = ShapesConcept.parse(name)
    attack = Paraphrase.for_concept(CONCEPTS[name], others=concept.others, words=concept.words)
    named = naming(concept.words)
    assert attack.frames == everyday_frames()
    assert not [text for text in (*attack.descriptions, *attack.captions) if named.search(text)]
    assert any(other in text for other in concept.others for text in attack.descriptions)
    assert attack.captions
    for case in make_cases(make_target(tiny_pipe), [CONCEPTS[name].prompts[0]]):
        found = asked(attack, case, tiny_pipe)
        frames = len(attack.frames) * (2 if attack.alone else 1)
        assert not [text for text in found[frames:] if named.search(text)]
        assert len(found) == len(set(found))


def test_a_concept_with_nothing_but_a_name_has_descriptions_too() -> None:
    attack = Paraphrase.for_concept(Concept(name="van gogh", kind="style"))
    assert attack.alone == ""
    assert attack.captions == ()
    assert attack.descriptions == descriptions("style", ())
    assert Paraphrase.for_concept(Concept(name="egg", kind="object")).alone == "an egg"
    anchored = Paraphrase.for_concept(Concept(name="van gogh", kind="style", anchor="monet"))
    assert any("monet" in text for text in anchored.descriptions)


def test_an_anchor_that_names_the_concept_is_no_contrast() -> None:
    attack = Paraphrase.for_concept(Concept(name="gogh", kind="style", anchor="not gogh"))
    assert attack.descriptions == descriptions("style", ())


@pytest.mark.parametrize(
    ("text", "phrase", "expected"),
    [
        ("a circle", "orange", "an orange"),
        ("An orange circle", "star", "An orange star"),
        ("a Circle on a disc", "", "a  on a "),
        ("circles", "star", None),
    ],
)
def test_a_phrase_takes_every_mention_and_the_articles_fit(text: str, phrase: str, expected: str | None) -> None:
    assert in_place_of(text, ("circle", "disc"), phrase) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": ()}, "expected the concept's words"),
        ({"words": ("circle",)}, "at least one frame or description"),
        ({"words": ("circle",), "frames": ("draw",)}, "mark the place of the phrase"),
        ({"words": ("circle",), "descriptions": ("a Circle",)}, "descriptions without the words"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Paraphrase(**settings)


def test_registered_and_of_the_protocol() -> None:
    assert ATTACKS["paraphrase"] is Paraphrase
    assert isinstance(Paraphrase.for_concept(CIRCLE), Attack)
    assert Paraphrase.tier == "T1"
