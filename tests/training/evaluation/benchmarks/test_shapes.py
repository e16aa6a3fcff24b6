"""The plan for the shapes world: right prompts in the right sets, the same for the same seed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from robust_encoders.training.evaluation.benchmarks.shapes import WORD_CHOICES, ShapesBenchmark, shapes_plan
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.evaluation.plan import Plan, PromptSet
from robust_encoders.training.reports.metric_labels import metric_label
from robust_encoders.training.types import Case, Result
from robust_encoders.training.worlds.shapes.captions import words_for
from robust_encoders.training.worlds.shapes.judge import Judge
from robust_encoders.training.worlds.shapes.networks import JudgeNet
from robust_encoders.training.worlds.shapes.vocabulary import FACTORS, HELD_OUT_TEMPLATES

BENCHMARK = ShapesBenchmark("circle", n=30, n_kept=60, n_renders=5)


def scorer(images: Tensor, texts: object) -> Tensor:
    return images.mean((1, 2, 3))


def make_plan(concept: str = "circle", *, seed: int = 0, **changes: Any) -> Plan:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = Judge(JudgeNet(), "random")
    benchmark = replace(BENCHMARK, concept=concept, **changes)
    return shapes_plan(benchmark, EvaluationConfig(seed=seed), judge=judge, scorer=scorer)


@pytest.mark.parametrize(("concept", "factor"), [("circle", "shape"), ("striped", "style"), ("red", "colour")])
def test_plain_prompts_name_the_concept_by_the_words_of_their_set(concept: str, factor: str) -> None:
    plan = make_plan(concept)
    for prompts, choice in zip(plan.plain, WORD_CHOICES, strict=True):
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


def test_a_factor_that_no_kept_prompt_states_has_no_column() -> None:
    few = replace(BENCHMARK, n=2, n_kept=2)
    stated = {s: {f for case in few.kept_set(s).cases for f in case.expected} for s in range(200)}
    seed, left = next((s, found) for s, found in stated.items() if len(found) < len(FACTORS))
    kept = {name for name in make_plan(seed=seed, n=2, n_kept=2).utility if name.startswith("retain_")}
    assert kept == {f"retain_{factor}" for factor in (*left, "all")} | kept & {"retain_geometry_all"}
    every = EvaluationConfig(seed=seed, metrics=tuple(f"retain_{factor}" for factor in FACTORS))
    named = [problem.split(" for the metric ")[1].split(",")[0] for problem in few.problems(every)]
    assert named == [f"retain_{factor}" for factor in FACTORS if factor not in left]


def test_no_two_pictures_share_a_seed() -> None:
    plans = [make_plan(seed=seed) for seed in (0, 1)]
    seeds = [case.seed for plan in plans for prompts in (*plan.plain, plan.kept) for case in prompts.cases]
    assert len(seeds) == len(set(seeds)) == 2 * (3 * 30 + 60)


def test_templates_are_held_out() -> None:
    """Every caption matches a held-out template, with any word or article in its gaps."""
    patterns = [re.sub(r"\\{\w+\\}", r"\\w+", re.escape(t)).replace("a\\ ", "an?\\ ") for t in HELD_OUT_TEMPLATES]
    for prompts in make_plan().plain:
        for case in prompts.cases:
            assert any(re.fullmatch(pattern, case.prompt) for pattern in patterns), case.prompt


def test_the_seed_decides() -> None:
    hashes = [[p.sha256 for p in make_plan(seed=s).plain] for s in (0, 0, 1)]
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


def test_open_captions_leave_the_concept_out_and_their_goals_name_it_in_the_same_scene() -> None:
    for concept, factor in (("circle", "shape"), ("striped", "style"), ("red", "colour")):
        (prompts,) = make_plan(concept, captions="open").plain
        assert prompts.name == f"{concept}/open"
        for case in prompts.cases:
            words = set(words_for(factor, concept, "any"))
            assert factor not in case.expected
            assert not words & set(case.prompt.replace(",", "").split())
            assert concept in case.goal
            assert all(case.expected[f] in case.goal for f in case.expected)


def test_a_goal_is_part_of_the_hash() -> None:
    cases = [Case(0, "a", 1), Case(0, "a", 1, goal="a circle"), Case(0, "a", 1, goal="a ring")]
    assert len({PromptSet("x", (case,)).sha256 for case in cases}) == 3


def test_the_plan_compares_with_the_base_and_probes_only_by_the_judge_it_knows() -> None:
    plan = make_plan()
    compared = [m for m in (*plan.utility_metrics(), *plan.erased_metrics()) if m.compares]
    assert [type(m).__name__ for m in compared] == [
        "PictureDistance", "FrechetDistance", "KernelDistance", "PictureDistance",
    ]  # fmt: skip
    columns = {"seeds", "schedulers", "negative", "chance"}
    assert set(plan.probes) == {"structured", "knowledge", "everyday", *columns}
    assert set(BENCHMARK.metric_labels()) == {*plan.utility, *plan.erased, *plan.probes}
    assert set(BENCHMARK.attack_labels()) == set(plan.attacks)


@pytest.mark.parametrize("changes", [{"n": 1}, {"n_kept": 1}, {"n_probes": 1}, {"n_renders": 0}])
def test_sizes_without_an_interval_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="n, n_kept and n_probes of at least 2"):
        ShapesBenchmark("circle", **changes)


def test_a_detector_that_nobody_registered_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'shapes_judge'"):
        ShapesBenchmark("circle", detector="shape_judge")


@pytest.mark.parametrize("changes", [{"chunk": 1}, {"checks": 1}, {"seed": -1}])
def test_a_configuration_that_compares_nothing_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="chunk of at least 2, checks of 0 or of at least 2, and seed of at least 0"):
        EvaluationConfig(**changes)


def test_probes_share_no_seed_with_the_prompts_and_only_kept_sets_with_each_other() -> None:
    plan = make_plan(n_probes=24)
    seeds = {case.seed for prompts in (*plan.plain, plan.kept) for case in prompts.cases}
    drawn = [prompts for prompts, base in plan.probe_drawings() if not base]
    assert {p.name for p in drawn if seeds & {c.seed for c in p.cases}} == {
        p.name for p in drawn if p.name.startswith(("circle/name/", "circle/chance/"))
    }  # schedulers and chance keep the seeds of the attacked prompts
    assert len({prompts.name for prompts in drawn}) == len(drawn)


def test_every_number_of_a_column_has_a_label() -> None:
    names = ("everyday", "everyday_difference", "everyday_2", "everyday_shape_first", "everyday_seen_base",
             "everyday_seen_order", "seeds_floor_base", "schedulers_own_2", "negative_abuse_all", "chance_open",
             "negative_floor_difference")  # fmt: skip
    labels = {name: metric_label(Result(name, 0.5, 4, detector="judge")) for name in names}
    assert {label.group for label in labels.values()} == {"everyday", "columns"}
    assert labels["everyday_2"].words == "everyday words, two attributes, as asked, %"
    assert labels["everyday_difference"].words == "everyday words, less base, points"
    assert labels["schedulers_own_2"].words == "scheduler and scale own 2, %"
