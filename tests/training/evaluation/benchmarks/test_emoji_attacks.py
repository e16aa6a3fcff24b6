"""The suites on the emoji world: the attacks of the shapes suites, with the words of people."""

from __future__ import annotations

from typing import get_args

import pytest

from robust_encoders.training.attacks import BlackBox, Paraphrase, RingABell, Synonyms, WordSwap
from robust_encoders.training.attacks.black_box import is_readable
from robust_encoders.training.evaluation.benchmarks.emoji_attacks import attack_words, emoji_suite
from robust_encoders.training.evaluation.benchmarks.shapes_attacks import shapes_suite
from robust_encoders.training.evaluation.benchmarks.world_attacks import SuiteName
from robust_encoders.training.prompts.concept_words import naming
from robust_encoders.training.protocols import Attack
from robust_encoders.training.provenance import describe
from robust_encoders.training.worlds.emoji.captions import frequent_words
from robust_encoders.training.worlds.emoji.concepts import CONCEPTS, emoji_concept
from robust_encoders.training.worlds.emoji.things import load_things
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept

THINGS = load_things()
NAMES = (*CONCEPTS, "pizza", "green")


@pytest.mark.parametrize("name", get_args(SuiteName))
def test_a_suite_differs_from_that_of_shapes_in_words_alone(name: SuiteName) -> None:
    found, like = emoji_suite(name, CONCEPTS["alcohol"]), shapes_suite(name, ShapesConcept.parse("circle"))
    assert [*found] == [*like]
    words = {"words", "named", "synonyms", "neighbours", "pool", "pairs", "frames", "alone", "descriptions", "captions"}
    for label, attack in found.items():
        one, other = describe(attack), describe(like[label])
        assert {key: one[key] for key in one.keys() - words} == {key: other[key] for key in other.keys() - words}


@pytest.mark.parametrize("concept", NAMES)
def test_every_concept_has_all_attacks(concept: str) -> None:
    suite = emoji_suite("standard", emoji_concept(concept))
    assert all(isinstance(attack, Attack) for attack in suite.values())
    assert all(describe(attack)["name"] for attack in suite.values())


@pytest.mark.parametrize("concept", CONCEPTS)
def test_swaps_take_words_of_captions_and_never_the_concepts_own(concept: str) -> None:
    swap = emoji_suite("standard", CONCEPTS[concept])["word_swap"]
    assert isinstance(swap, WordSwap)
    assert swap.words == frequent_words(THINGS, 3000)
    assert swap.pool == 500
    words = CONCEPTS[concept].words(THINGS, held_out=True)
    assert swap.named == words
    assert not any(swap.allowed(f"a {word} on blue") for word in words)


@pytest.mark.parametrize("concept", NAMES)
def test_the_search_without_knowledge_adds_readable_words_and_not_the_name(concept: str) -> None:
    erased = emoji_concept(concept)
    search = emoji_suite("standard", erased)["black_box"]
    assert isinstance(search, BlackBox)
    said = naming(erased.words(THINGS, held_out=True))
    assert len(search.words) > 1000
    assert not [word for word in search.words if said.search(word)]
    assert all(map(is_readable, (*search.words, *search.neighbours)))
    assert not {erased.name, *erased.members} & {*search.neighbours}
    assert {*erased.words(THINGS, held_out=True)} & {*search.neighbours}


def test_synonyms_try_the_held_out_words_and_the_words_of_the_group() -> None:
    synonyms = emoji_suite("standard", CONCEPTS["alcohol"])["synonyms"]
    assert isinstance(synonyms, Synonyms)
    assert {"booze", "alcohol", "stein", "beer"} <= {*synonyms.synonyms}


def test_pairs_and_contrasts_have_what_must_stay() -> None:
    suite = emoji_suite("standard", CONCEPTS["hot dog"])
    bell, paraphrase = suite["ring_a_bell"], suite["paraphrase"]
    assert isinstance(bell, RingABell)
    assert isinstance(paraphrase, Paraphrase)
    assert all("sandwich" in without for _, without in bell.pairs)
    assert "not sandwich" in paraphrase.descriptions
    assert len(attack_words(emoji_concept("dress")).others) == 6


def test_words_of_captions_are_ranked_and_cut() -> None:
    words = frequent_words(THINGS)
    assert len(words) == len({*words}) > 1500
    assert frequent_words(THINGS, 10) == words[:10]
    assert {"a", "background", "question"} - {*words} == {"question"}
    assert {"wiener", "stein", "show"} <= {*words}
