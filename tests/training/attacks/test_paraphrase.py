"""Paraphrase: the prompt in everyday frames, descriptions that never name the concept, and nothing twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from attack_helpers import Drafts, assert_alone_is_together, make_cases, make_target, texts

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


FRAMED = Paraphrase(("circle",), ("{}!", "draw {}", "please draw {}", "{} now"), whole=2, draft_steps=3)


def test_the_wordings_with_the_best_drafts_are_drawn_whole_the_best_first(tiny_pipe: Any) -> None:
    drafts = Drafts()
    target = make_target(tiny_pipe, draft=drafts)
    cases = make_cases(target, ["a circle", "a red circle"])
    found = FRAMED.run(target, cases, seed=0)
    assert [texts(result) for result in found] == [
        ["please draw a circle", "draw a circle"],
        ["please draw a red circle", "draw a red circle"],
    ]
    assert [c.step for c in found[0].candidates] == [1, 2]
    assert [(r.queries, r.unet_calls) for r in found] == [(0, 4 * 3), (0, 4 * 3)]
    assert len(drafts.asked) == 8
    assert_alone_is_together(FRAMED, target, cases)
    other = make_target(tiny_pipe, draft=Drafts(sign=-1))
    assert texts(FRAMED.run(other, cases, seed=0)[0]) == ["a circle!", "a circle now"]


def test_wordings_that_are_read_as_the_same_share_a_draft_and_take_one_place(tiny_pipe: Any) -> None:
    target = make_target(tiny_pipe, draft=Drafts("draw a circle", "please draw a circle"))
    (result,) = FRAMED.run(target, make_cases(target, ["a circle"]), seed=0)
    assert texts(result) == ["draw a circle", "a circle now"]
    assert result.unet_calls == 3 * 3


def test_no_draft_is_drawn_where_none_is_needed(tiny_pipe: Any) -> None:
    for attack in (replace(FRAMED, whole=4), replace(FRAMED, draft_steps=0)):
        assert len(asked(attack, Case(0, "a circle", 1), tiny_pipe)) == 4
    with pytest.raises(ValueError, match="only attacks that declare drafts"):
        asked(FRAMED, Case(0, "a circle", 1), tiny_pipe)


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
    attack = Paraphrase.for_concept(CONCEPTS[name], others=concept.others, words=concept.words, draft_steps=0)
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
        ("circles", "star", "star"),
        ("squares", "star", None),
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
        ({"words": ("circle",), "frames": ("draw {}",), "whole": 0}, "whole of at least 1"),
        ({"words": ("circle",), "frames": ("draw {}",), "draft_steps": -1}, "draft_steps of at least 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Paraphrase(**settings)


def test_registered_and_of_the_protocol() -> None:
    assert ATTACKS["paraphrase"] is Paraphrase
    assert isinstance(Paraphrase.for_concept(CIRCLE), Attack)
    assert Paraphrase.tier == "T1"
