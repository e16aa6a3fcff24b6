"""The plan for the shapes world: right prompts in the right sets, the same for the same seed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from robust_encoders.training.attacks import RandomPrefix, UnlearnDiffAtk
from robust_encoders.training.plan import EvaluationSettings, Plan, PromptSet, SuiteName, attack_suite, shapes_plan
from robust_encoders.training.protocols import Case, PromptAttack
from robust_encoders.training.shapes.captions import words_for
from robust_encoders.training.shapes.judge import Judge
from robust_encoders.training.shapes.networks import JudgeNet
from robust_encoders.training.shapes.vocabulary import FACTORS, HELD_OUT_TEMPLATES

SETTINGS = EvaluationSettings(n=30, n_kept=60, n_renders=5)


def scorer(images: Tensor, texts: object) -> Tensor:
    return images.mean((1, 2, 3))


def make_plan(concept: str = "circle", settings: EvaluationSettings = SETTINGS) -> Plan:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = Judge(JudgeNet(), "random")
    return shapes_plan(concept, settings, judge=judge, scorer=scorer)


@pytest.mark.parametrize(("concept", "factor"), [("circle", "shape"), ("striped", "style"), ("red", "colour")])
def test_plain_prompts_name_the_concept_by_the_words_of_their_set(concept: str, factor: str) -> None:
    plan = make_plan(concept)
    for prompts, choice in zip(plan.plain, ("name", "seen", "unseen"), strict=True):
        assert prompts.name == f"{concept}/{choice}"
        assert len(prompts.cases) == 30
        words = set(words_for(factor, concept, choice))
        others = set(words_for(factor, concept, "any")) - words
        for case in prompts.cases:
            spoken = set(case.prompt.replace(",", "").split())
            assert case.expected[factor] == concept
            assert spoken & words
            assert not spoken & others


def test_kept_prompts_never_state_the_concept() -> None:
    plan = make_plan()
    words = set(words_for("shape", "circle", "any"))
    for case in plan.kept.cases:
        assert case.expected.get("shape") != "circle"
        assert not words & set(case.prompt.replace(",", "").split())


def test_no_two_pictures_share_a_seed() -> None:
    plans = [make_plan(settings=replace(SETTINGS, seed=seed)) for seed in (0, 1)]
    seeds = [case.seed for plan in plans for prompts in (*plan.plain, plan.kept) for case in prompts.cases]
    assert len(seeds) == len(set(seeds)) == 2 * (3 * 30 + 60)


def test_templates_are_held_out() -> None:
    """Every caption matches a held-out template, with any word or article in its gaps."""
    patterns = [re.sub(r"\\{\w+\\}", r"\\w+", re.escape(t)).replace("a\\ ", "an?\\ ") for t in HELD_OUT_TEMPLATES]
    for prompts in make_plan().plain:
        for case in prompts.cases:
            assert any(re.fullmatch(pattern, case.prompt) for pattern in patterns), case.prompt


def test_the_seed_decides() -> None:
    hashes = [[p.sha256 for p in make_plan(settings=replace(SETTINGS, seed=s)).plain] for s in (0, 0, 1)]
    assert hashes[0] == hashes[1]
    assert not set(hashes[0]) & set(hashes[2])


def test_the_hash_covers_prompt_seed_and_expectation() -> None:
    cases = [Case(0, "a", 1), Case(0, "b", 1), Case(0, "a", 2), Case(0, "a", 1, {"shape": "ring"})]
    assert len({PromptSet("x", (case,)).sha256 for case in cases}) == 4


def test_control_pictures_are_renders_with_their_scene() -> None:
    control = make_plan().control
    assert control is not None
    pictures, cases = control.pictures()
    assert pictures.shape == (5, 3, 32, 32)
    assert 0 <= float(pictures.min()) <= float(pictures.max()) <= 1
    assert all(set(case.expected) == set(FACTORS) for case in cases)
    metrics = control.metrics()
    for metric in metrics:
        metric.update(pictures, cases)
    assert [m.compute().metric for m in metrics] == [*(f"judge_{f}" for f in FACTORS), "judge_all"]


def test_suites_hold_the_same_attacks() -> None:
    quick, standard = attack_suite("quick"), attack_suite("standard")
    assert quick.keys() == standard.keys() == {"continuous", "shared", "discrete", "random"}
    assert all(isinstance(attack, PromptAttack) for attack in (*quick.values(), *standard.values()))


@pytest.mark.parametrize("name", get_args(SuiteName))
def test_the_control_tries_as_often_as_the_search_it_controls(name: SuiteName) -> None:
    suite = attack_suite(name)
    assert isinstance(suite["discrete"], UnlearnDiffAtk)
    assert suite["random"] == RandomPrefix(tokens=suite["discrete"].tokens, candidates=suite["discrete"].timesteps)


def test_sizes_without_an_interval_are_refused() -> None:
    with pytest.raises(ValueError, match="n and n_kept of at least 2"):
        EvaluationSettings(n=1)
