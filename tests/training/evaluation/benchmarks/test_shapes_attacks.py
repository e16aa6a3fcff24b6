"""The suites: every tier, weakest first, the same labels at every budget but the smallest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from robust_encoders.training.attacks import Mechanism, RandomPrefix, UnlearnDiffAtk, WordSwap
from robust_encoders.training.attacks.transfer import OnBase
from robust_encoders.training.diffusion.sampling import SamplingConfig
from robust_encoders.training.evaluation.benchmarks.shapes_attacks import SuiteName, shapes_suite
from robust_encoders.training.evaluation.threat_model import TIERS
from robust_encoders.training.protocols import Attack, ClusteredAttack
from robust_encoders.training.provenance import describe
from robust_encoders.training.types import AttackFacts
from robust_encoders.training.worlds.shapes.concepts import CONCEPTS, ShapesConcept

NAMES = get_args(SuiteName)
CIRCLE = ShapesConcept.parse("circle")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_suite_is_made_of_attacks_that_can_be_recorded(name: SuiteName, concept: str) -> None:
    suite = shapes_suite(name, ShapesConcept.parse(concept))
    assert all(isinstance(attack, Attack) for attack in suite.values())
    assert all(describe(attack)["name"] for attack in suite.values())
    tiers = [attack.tier for attack in suite.values()]
    assert tiers == sorted(tiers)
    assert set(tiers) <= set(TIERS)


def test_standard_and_full_span_every_tier_and_differ_only_in_budget() -> None:
    quick, core, standard, full = (shapes_suite(name, CIRCLE) for name in NAMES)
    assert {attack.tier for attack in standard.values()} == set(TIERS)
    assert standard.keys() == full.keys() > quick.keys() == core.keys()
    assert all(standard[label] == attack for label, attack in core.items())
    assert {label: a.name for label, a in standard.items()} == {label: a.name for label, a in full.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_control_tries_as_often_as_the_search_it_controls(name: SuiteName) -> None:
    suite = shapes_suite(name, CIRCLE)
    discrete = suite["discrete"]
    assert isinstance(discrete, UnlearnDiffAtk)
    assert suite["random"] == RandomPrefix(tokens=discrete.tokens, candidates=discrete.timesteps)
    if "transfer" in suite:
        assert suite["transfer"] == OnBase(discrete)


def test_full_has_the_published_budget_of_unlearn_diff_atk() -> None:
    discrete = shapes_suite("full", ShapesConcept.parse("red"))["discrete"]
    assert isinstance(discrete, UnlearnDiffAtk)
    assert (discrete.timesteps, discrete.iterations) == (50, 40)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_free_embeddings_have_a_bound_or_are_a_limit(concept: str) -> None:
    for name in NAMES:
        suite = shapes_suite(name, ShapesConcept.parse(concept))
        bounds = {label: bound for label, a in suite.items() if (bound := getattr(a, "bound", 0)) != 0}
        own = {label: bound for label, bound in bounds.items() if label.startswith("conditioning_inversion")}
        assert {bound for label, bound in bounds.items() if label not in own} == {3.0}
        assert all((bound is None) == (suite[label].tier == "T7") for label, bound in bounds.items())
        if name in ("standard", "full"):
            assert set(own.values()) == {1.0, 3.0, 10.0, None}


@pytest.mark.parametrize("name", NAMES)
def test_universal_attacks_learn_eight_times(name: SuiteName) -> None:
    for label in {"shared", "inversion"} & shapes_suite(name, CIRCLE).keys():
        attack = shapes_suite(name, CIRCLE)[label]
        assert isinstance(attack, ClusteredAttack)
        assert set(attack.clusters(30)) == set(range(8))


def test_swapped_words_are_those_of_captions_without_the_concepts_own() -> None:
    suite = shapes_suite("standard", CIRCLE)
    for label in ("word_swap", "word_swap_caption", "word_swap_attacked", "word_swap_caption_attacked"):
        attack = suite[label]
        assert isinstance(attack, WordSwap)
        assert "round" in attack.named, "the held-out synonym is no swap"
        assert (attack.drawn, attack.kept, attack.whole, attack.draft_steps) == (400, 24, 4, 4)
        assert {"crimson", "background"} <= set(attack.words)


def test_drafts_have_four_of_fifteen_steps_and_full_draws_more_of_them() -> None:
    standard, full = (shapes_suite(name, CIRCLE) for name in ("standard", "full"))
    longer = shapes_suite("standard", CIRCLE, SamplingConfig(steps=30))
    for label, attack in standard.items():
        if "drafts" in AttackFacts.of(attack).uses:
            less, more, other = (vars(one) for one in (attack, full[label], longer[label]))
            assert (less["draft_steps"], more["draft_steps"], other["draft_steps"]) == (4, 4, 8)
            assert any(more[name] >= 2 * less[name] for name in ("budget", "drawn", "whole") if name in less)
    assert [label for label, attack in standard.items() if "drafts" in AttackFacts.of(attack).uses] == [
        *("paraphrase", "black_box", "word_swap", "word_swap_caption"),
        *("word_swap_attacked", "word_swap_caption_attacked"),
    ]


def test_the_mechanism_is_attacked_in_the_concepts_place_and_in_the_prompts_and_full_has_more_budget() -> None:
    standard, full = (shapes_suite(name, CIRCLE) for name in ("standard", "full"))
    for label, whole in (("mechanism", False), ("mechanism_caption", True)):
        less, more = standard[label], full[label]
        assert isinstance(less, Mechanism)
        assert isinstance(more, Mechanism)
        assert less.whole_prompt is more.whole_prompt is whole
        assert (less.mechanism, less.restarts, less.words) == ("auto", 3, CIRCLE.words)
        assert replace(more, steps=less.steps, width=less.width) == less
        assert more.steps * more.width >= 2 * less.steps * less.width


def test_an_unknown_suite_or_concept_is_refused() -> None:
    huge: Any = "huge"
    with pytest.raises(ValueError, match="quick, core, standard, full, found 'huge'"):
        shapes_suite(huge, CIRCLE)
    with pytest.raises(ValueError, match="found 'cirle'; did you mean 'circle'"):
        ShapesConcept.parse("cirle")
