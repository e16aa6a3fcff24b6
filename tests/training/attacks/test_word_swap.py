"""Word swap: all words and pairs ranked by the right encoder, the best drawn once, none that names the concept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from attack_helpers import Drafts, counted, make_cases, make_target, texts
from torch import Tensor

from robust_encoders.training.attacks import ATTACKS, WordSwap
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.prompts.vocabulary_words import whole_words
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import AttackFacts, Case
from robust_encoders.training.worlds.shapes.concepts import CONCEPTS, caption_words

WORDS = ("red", "orange", "square", "star", "circle")
SMALL = WordSwap(("circle", "disc"), WORDS, drawn=100, kept=3, draft_steps=0)
DRAFTED = dataclasses.replace(SMALL, kept=5, whole=2, draft_steps=4)
PROMPTS = ("a circle on black", "a red circle", "a disc on a white background")


class Scorer:
    """Scores a text by its length."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __call__(self, asked: Sequence[str], cases: Sequence[Case]) -> Tensor:
        self.asked += [(text, case.index) for text, case in zip(asked, cases, strict=True)]
        return torch.tensor([len(text) / 100 - 1 for text in asked])


@pytest.fixture
def scorer() -> Scorer:
    return Scorer()


@pytest.fixture
def target(make_pipe: Any, scorer: Scorer) -> TargetModel:
    """An encoder of other weights than the base's, with the base's UNet."""
    pipe, base = make_pipe(seed=1), make_pipe()
    pipe.unet = base.unet
    return make_target(pipe, base, query=scorer)


def test_every_word_and_ordered_pair_is_asked_about_once_at_one_case(target: TargetModel, scorer: Scorer) -> None:
    with counted(target) as sizes:
        SMALL.run(target, make_cases(target, PROMPTS), seed=0)
    assert sizes == []
    (tried,) = {index for _, index in scorer.asked}
    head, _, tail = PROMPTS[tried].partition("circle" if "circle" in PROMPTS[tried] else "disc")
    allowed = [word for word in WORDS if word != "circle"]
    phrases = [*allowed, *(f"{a} {b}" for a in allowed for b in allowed if a != b)]
    expected = {(head + phrase + tail).replace("a orange", "an orange") for phrase in phrases}
    assert sorted(text for text, _ in scorer.asked) == sorted(expected)


def test_the_highest_scores_of_one_case_are_tried_on_all(target: TargetModel, scorer: Scorer) -> None:
    cases = make_cases(target, PROMPTS)
    found = SMALL.run(target, cases, seed=0)
    assert sum(result.queries for result in found) == len(scorer.asked)
    assert max(r.queries for r in found) - min(r.queries for r in found) <= 1
    best = {"orange square", "square orange"}
    assert {texts(result)[0] for result in found[:1]} <= {
        f"an {p} on black" if p[0] == "o" else f"a {p} on black" for p in best
    }
    assert all(len(texts(result)) == 3 for result in found)
    phrases = [[t.replace("an ", "a ").removeprefix("a ").removesuffix(" on black") for t in texts(found[0])]]
    phrases.append([t.replace("an ", "a ").removeprefix("a red ") for t in texts(found[1])])
    assert phrases[0] == phrases[1]


@pytest.mark.parametrize("ranking", ["base", "attacked"])
def test_the_ranking_is_the_distance_for_the_unet_by_hand(target: TargetModel, scorer: Scorer, ranking: Any) -> None:
    attack = dataclasses.replace(SMALL, ranking=ranking, drawn=5)
    attack.run(target, make_cases(target, PROMPTS[:1]), seed=0)
    gram, ranks = target.text_gram().float(), target.base if ranking == "base" else target
    allowed = [word for word in WORDS if word != "circle"]
    every = [f"a {p} on black" for p in [*allowed, *(f"{a} {b}" for a in allowed for b in allowed if a != b)]]
    every = [text.replace("a orange", "an orange") for text in every]
    with torch.no_grad():
        apart = ranks.condition(every) - target.base.condition(PROMPTS[:1])
        distances = torch.einsum("bld,de,ble->b", apart, gram, apart)
    assert [text for text, _ in scorer.asked] == [every[i] for i in distances.argsort()[:5].tolist()]


def test_pairs_are_made_of_the_nearest_words_of_a_long_list(target: TargetModel, scorer: Scorer) -> None:
    dataclasses.replace(SMALL, pool=2).run(target, make_cases(target, PROMPTS[:1]), seed=0)
    assert len(scorer.asked) == 4 + 2


def test_whole_prompts_are_phrases_after_the_empty_prompt(target: TargetModel) -> None:
    found = dataclasses.replace(SMALL, place="caption").run(target, make_cases(target, PROMPTS), seed=0)
    assert texts(found[0]) == texts(found[1])
    assert texts(found[0])[0] == ""
    assert [c.step for c in found[0].candidates] == [0, 100, 100, 100]
    assert set(texts(found[0])[1].split()) == {"orange", "square"}


def test_a_prompt_that_does_not_name_the_concept_gets_the_phrase_before_it(target: TargetModel) -> None:
    cases = [Case(0, "a picture", 1), Case(1, "a picture", 2, goal="a big circle")]
    one, other = SMALL.run(target, cases, seed=0)
    assert all(text.endswith(", a picture") for text in texts(one))
    assert all(text.startswith("a big ") for text in texts(other))


def test_no_text_names_the_concept_however_it_comes_about(target: TargetModel, scorer: Scorer) -> None:
    attack = WordSwap(("van gogh", "circle"), ("van", "gogh", "Circle", "star"), drawn=100, draft_steps=0)
    attack.run(target, make_cases(target, ["by van gogh"]), seed=0)
    asked = [text for text, _ in scorer.asked]
    assert "by gogh van" in asked
    assert not [text for text in asked if "van gogh" in text or "circle" in text.casefold()]


def test_without_a_list_the_words_are_those_of_the_vocabulary(target: TargetModel, scorer: Scorer) -> None:
    words = whole_words(target.tokenizer)
    assert {"circle", "square", "picture"} <= set(words)
    assert all(len(word) >= 3 for word in words)
    dataclasses.replace(SMALL, words=(), pool=1, drawn=1000).run(target, make_cases(target, PROMPTS[:1]), seed=0)
    assert {text.split()[1] for text, _ in scorer.asked} <= set(words)
    assert len(scorer.asked) > 10


def test_drafts_at_one_case_choose_the_phrases_and_those_of_each_case_its_texts(make_pipe: Any, scorer: Scorer) -> None:
    drafts = Drafts()
    target = make_target(make_pipe(), query=scorer, draft=drafts)
    found = DRAFTED.run(target, make_cases(target, PROMPTS), seed=0)
    assert scorer.asked == [], "no whole picture is drawn before the judgement"
    first = drafts.asked[:16]
    (tried,) = {index for _, index in first}
    assert len(first) == 4 + 4 * 3
    later = {i: [text for text, index in drafts.asked[16:] if index == i] for i in range(3)}
    assert [len(row) for row in later.values()] == [5, 5, 5]
    assert later[tried] == sorted((text for text, _ in first), key=len, reverse=True)[:5]
    for i, result in enumerate(found):
        assert texts(result) == sorted(later[i], key=len, reverse=True)[:2]
        assert result.queries == 0
    assert sum(result.unet_calls for result in found) == DRAFTED.draft_steps * len(drafts.asked)


def test_other_drafts_choose_other_texts(make_pipe: Any) -> None:
    pipe = make_pipe()
    one, other = (make_target(pipe, draft=Drafts(sign=sign)) for sign in (1, -1))
    longest, shortest = (DRAFTED.run(target, make_cases(target, PROMPTS), seed=0) for target in (one, other))
    assert min(len(text) for text in texts(longest[0])) > max(len(text) for text in texts(shortest[0]))


@pytest.mark.parametrize(("settled", "drafted"), [((), {0, 1, 2}), ((0, 1), {2}), ((0, 1, 2), set())])
def test_a_case_that_succeeds_by_itself_is_neither_tried_nor_drafted(
    make_pipe: Any, settled: tuple[int, ...], drafted: set[int]
) -> None:
    drafts = Drafts()
    target = make_target(make_pipe(), draft=drafts, settled=settled)
    found = DRAFTED.run(target, make_cases(target, PROMPTS), seed=0)
    assert {index for _, index in drafts.asked} == drafted
    assert len(drafts.asked) == (16 + 5 * len(drafted) if drafted else 0)
    assert [len(r.candidates) for r in found] == [2, 2, 2]
    assert sum(r.unet_calls for r in found) == 4 * len(drafts.asked)


def test_seeds_choose_the_case(target: TargetModel, scorer: Scorer) -> None:
    cases = make_cases(target, [*PROMPTS] * 3)
    for seed in range(6):
        SMALL.run(target, cases, seed=seed)
    assert len({index for _, index in scorer.asked}) > 2
    assert SMALL.run(target, cases, seed=3) == SMALL.run(target, cases, seed=3)


def test_the_tier_is_that_of_the_encoder_that_ranks() -> None:
    assert (SMALL.tier, dataclasses.replace(SMALL, ranking="attacked").tier) == ("T2", "T3")
    facts = AttackFacts.of(SMALL)
    assert facts.joint
    assert facts.uses == ("base", "queries", "drafts")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"named": ()}, "expected the concept's words"),
        ({"words": (" ",)}, "no blank words"),
        ({"drawn": 0}, "at least 1"),
        ({"whole": 0}, "at least 1"),
        ({"draft_steps": -1}, "draft_steps of at least 0"),
        ({"place": "word"}, "expected a place among"),
        ({"ranking": "both"}, "a ranking among"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_nothing_to_swap_and_nobody_to_ask_are_refused(target: TargetModel, tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="give words that do not name the concept"):
        dataclasses.replace(SMALL, words=("circle",)).run(target, make_cases(target, PROMPTS), seed=0)
    with pytest.raises(ValueError, match="only attacks that declare queries"):
        SMALL.run(make_target(tiny_pipe), make_cases(target, PROMPTS), seed=0)
    with pytest.raises(ValueError, match="or set draft_steps=0 to draw every text whole"):
        DRAFTED.run(make_target(tiny_pipe), make_cases(target, PROMPTS), seed=0)


def test_registered_and_of_the_protocol() -> None:
    assert ATTACKS["word_swap"] is WordSwap
    assert isinstance(SMALL, Attack)
    assert WordSwap.for_concept(CONCEPTS["circle"]).named == CONCEPTS["circle"].words()
    assert {"circle", "crimson", "background", "drawing"} <= set(caption_words())
