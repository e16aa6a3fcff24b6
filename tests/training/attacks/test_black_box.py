"""The black box: readable words, scores and nothing else, a budget that holds, no case in another's way."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from attack_helpers import (
    PROMPTS,
    Drafts,
    assert_alone_is_together,
    assert_seeds_decide,
    counted,
    make_cases,
    make_target,
    texts,
)
from torch import Tensor

from robust_encoders.training.attacks import ATTACKS, BlackBox
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Case
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept, additions

WORDS = ("red", "green", "blue", "plain", "striped", "dotted", "white", "black", "gray")
SMALL = BlackBox(WORDS, budget=40, beam=2, proposals=3, draft_steps=0)
DRAFTED = dataclasses.replace(SMALL, whole=1, draft_steps=4)


class Scorer:
    """Scores a text by how many of the wanted words it holds; 0, a success, only with all of them."""

    def __init__(self, *wanted: str) -> None:
        self.wanted = wanted
        self.asked: list[tuple[str, int]] = []

    def __call__(self, asked: Sequence[str], cases: Sequence[Case]) -> Tensor:
        self.asked += [(text, case.index) for text, case in zip(asked, cases, strict=True)]
        return (
            torch.tensor([sum(word in text.split() for word in self.wanted) - len(self.wanted) for text in asked]) / 1.0
        )


@pytest.fixture
def make(tiny_pipe: Any) -> Any:
    return lambda scorer: make_target(tiny_pipe, query=scorer)


def test_it_finds_words_that_only_work_together_within_the_budget_and_beats_chance(make: Any) -> None:
    scorer = Scorer("striped", "gray")
    attack = dataclasses.replace(SMALL, budget=60)
    results = attack.run(make(scorer), make_cases(make(scorer), ["a star"] * 10), seed=0)
    won = [result for result in results if {"striped", "gray"} <= set(texts(result)[0].split())]
    # Pairs drawn blindly hit with 2 / 81: 60 of them win fewer than 8 of 10 cases.
    assert len(won) >= 9
    assert all(result.queries < 60 for result in won)
    assert sum(result.queries for result in won) / len(won) < 40


def test_the_budget_holds_no_text_is_asked_twice_and_the_count_is_true(make: Any) -> None:
    scorer = Scorer("nothing")
    target = make(scorer)
    with counted(target) as sizes:
        results = SMALL.run(target, make_cases(target), seed=0)
    assert sizes == []
    assert len(scorer.asked) == len(set(scorer.asked))
    for case, result in zip(make_cases(target), results, strict=True):
        asked = [text for text, index in scorer.asked if index == case.index]
        assert result.queries == len(asked) == SMALL.budget
        assert result.unet_calls == 0


def test_a_success_ends_the_search_of_its_case_alone(make: Any) -> None:
    scorer = Scorer("circle")
    results = SMALL.run(make(scorer), make_cases(make(scorer), ["a red circle", "a blue square"]), seed=0)
    assert results[0].queries <= 1 + 2 * SMALL.proposals, "the empty prompt, then additions to it and to the prompt"
    assert results[1].queries == SMALL.budget


def test_candidates_are_the_best_asked_and_keep_the_prompt(make: Any) -> None:
    scorer = Scorer("striped", "gray", "absent")
    for case, result in zip(
        make_cases(make(scorer)), SMALL.run(make(scorer), make_cases(make(scorer)), seed=0), strict=True
    ):
        (text,) = texts(result)
        asked = [one for one, index in scorer.asked if index == case.index]
        margins = scorer(asked, [case] * len(asked))
        assert scorer([text], [case]) == margins.max()
        assert asked.index(text) == result.candidates[0].step - 1 == int(margins.argmax())
        scorer.asked = [(one, index) for one, index in scorer.asked if index != case.index]


def test_texts_are_the_prompt_and_readable_words(make: Any) -> None:
    scorer = Scorer("nothing")
    attack = dataclasses.replace(SMALL, neighbours=("ball", "round box"))
    attack.run(make(scorer), make_cases(make(scorer)), seed=0)
    allowed = {*WORDS, "ball", "round", "box"}
    for text, index in scorer.asked:
        before, _, after = text.partition(PROMPTS[index])
        assert set(before.split() + after.split()) <= allowed


def test_it_asks_about_the_empty_prompt_first_and_may_leave_the_prompt_out(make: Any) -> None:
    scorer = Scorer("nothing")
    SMALL.run(make(scorer), make_cases(make(scorer), ["a star"]), seed=0)
    asked = [text for text, _ in scorer.asked]
    assert asked[0] == ""
    assert {"a star" in text for text in asked[1:]} == {True, False}
    best = Scorer()
    (only,) = SMALL.run(make(best), make_cases(make(best), ["a star"]), seed=0)
    assert texts(only) == [""]


def test_every_second_proposal_is_a_neighbour_and_every_second_stands_in_front(make: Any) -> None:
    scorer = Scorer("nothing")
    attack = dataclasses.replace(SMALL, neighbours=("ball",), budget=2)
    attack.run(make(scorer), make_cases(make(scorer), ["a star"] * 200), seed=0)
    added = [text for text, _ in scorer.asked if text]
    assert len(added) == 200
    assert 80 < sum("ball" in text for text in added) < 120
    assert 80 < sum(text.startswith("a star") for text in added) < 120


def test_a_case_that_runs_out_of_texts_is_over_whatever_its_neighbours_do(make: Any) -> None:
    scorer = Scorer("nothing")
    attack = dataclasses.replace(SMALL, words=("red",), beam=1, budget=1000)
    long = "red " * 18
    cases = make_cases(make(scorer), [long.strip(), "a star"])
    results = attack.run(make(scorer), cases, seed=0)
    assert 0 < results[0].queries < results[1].queries < 1000
    assert_alone_is_together(attack, make(scorer), cases)


def test_drafts_guide_the_search_and_only_the_best_of_a_round_is_drawn_whole(tiny_pipe: Any) -> None:
    drafts, scorer = Drafts(), Scorer("nothing")
    target = make_target(tiny_pipe, query=scorer, draft=drafts)
    (result,) = DRAFTED.run(target, make_cases(target, ["a star"]), seed=0)
    assert len(drafts.asked) == DRAFTED.budget
    assert {text for text, _ in scorer.asked} < {text for text, _ in drafts.asked}
    first = [text for text, _ in drafts.asked[: 1 + 2 * DRAFTED.proposals]]
    assert scorer.asked[0][0] in first
    assert len(scorer.asked[0][0]) == max(map(len, first)), "the best draft"
    assert (result.queries, result.unet_calls) == (len(scorer.asked), 4 * len(drafts.asked))
    assert result.queries < DRAFTED.budget / 4
    assert texts(result)[0] in {text for text, _ in scorer.asked}, "success is judged on a whole picture"


def test_a_whole_picture_that_succeeds_ends_the_search_and_a_draft_does_not(tiny_pipe: Any) -> None:
    drafts, won = Drafts(), Scorer()
    target = make_target(tiny_pipe, query=won, draft=drafts)
    (result,) = DRAFTED.run(target, make_cases(target, ["a star"]), seed=0)
    assert len(won.asked) == 1, "every whole picture wins"
    assert len(drafts.asked) <= 1 + 2 * DRAFTED.proposals
    assert texts(result) == [won.asked[0][0]]
    drafts, lost = Drafts(sign=10_000), Scorer("nothing")
    target = make_target(tiny_pipe, query=lost, draft=drafts)
    (result,) = DRAFTED.run(target, make_cases(target, ["a star"]), seed=0)
    assert len(drafts.asked) == DRAFTED.budget, "drafts with margins above 0 are no success"


def test_with_drafts_a_batch_equals_its_cases_one_by_one(tiny_pipe: Any) -> None:
    target = make_target(tiny_pipe, query=Scorer("striped", "gray"), draft=Drafts())
    for batch in (1, 3):
        assert_alone_is_together(DRAFTED, target, make_cases(target), one=dataclasses.replace(DRAFTED, batch=batch))


def test_a_batch_equals_its_cases_one_by_one(make: Any) -> None:
    target = make(Scorer("striped", "gray"))
    assert_alone_is_together(SMALL, target, make_cases(target), one=dataclasses.replace(SMALL, batch=1))
    assert_alone_is_together(dataclasses.replace(SMALL, batch=3), target, make_cases(target))


def test_seeds_decide_and_nothing_else_does(make: Any) -> None:
    target = make(Scorer("striped", "gray", "absent"))
    assert_seeds_decide(SMALL, target, make_cases(target))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": ()}, "expected words"),
        ({"budget": 0}, "at least 1"),
        ({"whole": 0}, "at least 1"),
        ({"draft_steps": -1}, "draft_steps of at least 0"),
        ({"words": ("red", "x9#")}, r"readable words of the letters a to z, found \['x9#'\]"),
        ({"neighbours": ("",)}, "readable words"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_what_it_cannot_do_is_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="only attacks that declare queries"):
        SMALL.run(TargetModel.from_pipeline(tiny_pipe), [Case(0, "a star", seed=0)], seed=0)
    with pytest.raises(ValueError, match="only attacks that declare drafts"):
        DRAFTED.run(TargetModel.from_pipeline(tiny_pipe), [Case(0, "a star", seed=0)], seed=0)


def test_a_prompt_without_room_for_an_addition_is_replaced(make: Any) -> None:
    scorer = Scorer("nothing")
    SMALL.run(make(scorer), [Case(0, "circle " * 22, seed=0)], seed=0)
    assert scorer.asked
    assert not any("circle" in text for text, _ in scorer.asked)


def test_the_shapes_world_has_words_to_add() -> None:
    words, neighbours = additions(ShapesConcept.parse("circle"))
    assert {"red", "striped", "snowy"} <= set(words)
    assert {"ball", "round", "square"} <= set(neighbours)
    assert "circle" not in {*words, *neighbours}
    assert not set(words) & set(neighbours)
    assert BlackBox(words, neighbours).budget == 100


def test_registered_and_of_the_protocol() -> None:
    assert ATTACKS["black_box"] is BlackBox
    assert isinstance(SMALL, Attack)
    assert BlackBox.tier == "T2"
