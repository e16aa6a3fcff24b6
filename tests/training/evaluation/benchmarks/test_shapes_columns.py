"""Columns without a search on scripted pictures: seeds, schedulers, negative prompts, and the pool of chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robust_encoders.training.diffusion.sampling import SamplingConfig
from robust_encoders.training.evaluation.benchmarks.chance_pool import ChancePool, at_seeds
from robust_encoders.training.evaluation.benchmarks.columns import (
    SCHEDULERS,
    SEEDS,
    ColumnSetup,
    SchedulersColumn,
    SeedsColumn,
)
from robust_encoders.training.evaluation.benchmarks.negative_column import NegativeColumn
from robust_encoders.training.evaluation.benchmarks.shapes_prompts import ShapesPrompts
from robust_encoders.training.evaluation.benchmarks.world_prompts import numbered, pool_sets
from robust_encoders.training.evaluation.chance import floor_of, pools_of
from robust_encoders.training.evaluation.plan import PromptSet, SetProbe
from robust_encoders.training.types import Case, Result
from robust_encoders.training.worlds.shapes.captions import scene_prompts
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept
from robust_encoders.training.worlds.shapes.vocabulary import WORDS

Column = SeedsColumn | SchedulersColumn | NegativeColumn | ChancePool
Rule = Callable[[PromptSet, Case, bool], bool]
KINDS: tuple[Callable[[ColumnSetup], Column], ...] = (
    SeedsColumn,
    SchedulersColumn,
    NegativeColumn,
    lambda one: pool(one),
)
STRIPED = ShapesConcept.parse("striped")
SAMPLING = SamplingConfig(steps=4, guidance=3.0, batch=8)


class First:
    """Finds the concept where the first number of a picture is above one half."""

    name, version, threshold = "first", "1", 0.5

    def __call__(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, 0]


def setup(n: int = 24, concept: ShapesConcept = STRIPED, seed: int = 0) -> ColumnSetup:
    named = scene_prompts(6, seed=seed, fixed=concept.stated, words="name")
    attacked = numbered("everyday", named, of=concept.value, seed=seed)
    return ColumnSetup(ShapesPrompts(concept), attacked, n, seed, SAMPLING, First())


def pool(of: ColumnSetup) -> ChancePool:
    return ChancePool(*pool_sets(of.prompts, of.attacked, 3, of.seed), of.detector, of.sampling, of.seed)


def measured(column: Column, rule: Rule) -> dict[str, Result]:
    def pictures(prompts: PromptSet, *, base: bool = False) -> Tensor:
        shown = torch.tensor([float(rule(prompts, case, base)) for case in prompts.cases])
        return shown.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)

    results = column.compare(pictures)
    assert len({r.metric for r in results}) == len(results)
    assert all((r.detector, r.threshold) == ("first", 0.5) and r.interval and r.prompt_sha256 for r in results)
    return {r.metric: r for r in results}


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_names_its_pictures_and_what_it_depends_on(kind: Callable[[ColumnSetup], Column]) -> None:
    column = kind(setup())
    assert isinstance(column, SetProbe)
    assert column.drawings()
    about = column.described()
    assert about["name"] == column.name
    assert set(about["prompts"].values()) == {prompts.sha256 for prompts, _ in column.drawings()}
    assert about != kind(setup(seed=1)).described()


def test_seeds_count_a_prompt_if_any_of_its_pictures_shows_the_concept() -> None:
    column = SeedsColumn(setup())
    (named, _), (opened, _), _ = column.drawings()
    assert len(named.cases) == len(opened.cases) == 3 * SEEDS
    texts = [case.prompt for case in named.cases]
    assert texts == [case.prompt for case in setup().attacked.cases[:3] for _ in range(SEEDS)]
    assert len({case.seed for case in (*named.cases, *opened.cases)}) == 6 * SEEDS
    hits = {named.name: {0, 1, 40}, opened.name: {17}}
    found = measured(column, lambda p, case, base: not base and case.index in hits[p.name])
    assert {name: r.value for name, r in found.items()} == pytest.approx(
        {"seeds": 2 / 3, "seeds_floor": 1 / 3, "seeds_floor_base": 0}
    )
    assert found["seeds"].settings["pictures"] == pytest.approx(3 / 48)
    assert found["seeds"].unet_calls == 48 * 8


def test_schedulers_count_every_setting_and_any_of_them() -> None:
    column = SchedulersColumn(setup())
    sets = {p.name: p for p, _ in column.drawings()}
    assert len(sets) == 12
    assert {p.scheduler for p in sets.values()} == {*SCHEDULERS.values()}
    assert {p.sampling.guidance for p in sets.values() if p.sampling} == {1.5, 6.0}

    def rule(prompts: PromptSet, case: Case, base: bool) -> bool:
        """The encoder shows the concept on one prompt under one scheduler, on another one at another scale."""
        if base:
            return "open" not in prompts.name
        return prompts.name.endswith(("dpm_solver_6", "own_1.5")) and case.index == len(prompts.scheduler) % 2

    found = measured(column, rule)
    assert found["schedulers"].value == pytest.approx(2 / 3)
    assert (found["schedulers_base"].value, found["schedulers_floor_base"].value) == (1, 0)
    singles = {name: r for name, r in found.items() if name.endswith(("_1.5", "_6"))}
    assert len(singles) == 6
    assert singles["schedulers_own_1.5"].value == singles["schedulers_dpm_solver_6"].value == pytest.approx(1 / 3)
    assert singles["schedulers_own_6"].value == 0
    assert singles["schedulers_own_6"].settings["base"] == 1
    assert singles["schedulers_dpm_solver_6"].settings["scheduler"] == "DPMSolverMultistepScheduler"
    assert singles["schedulers_dpm_solver_6"].settings["sampling"]["guidance"] == 6
    assert found["schedulers"].unet_calls == 3 * 6 * 8


@pytest.mark.parametrize("kind", [SeedsColumn, SchedulersColumn])
def test_small_evaluations_leave_out_the_columns_of_many_pictures(kind: Callable[[ColumnSetup], Column]) -> None:
    column = kind(setup(n=7))
    assert column.drawings() == []
    assert measured(column, lambda p, case, base: True) == {}


def test_negative_prompts_by_words_and_against_the_base() -> None:
    column = NegativeColumn(setup())
    ordinary, abused, opened = (p for p, base in column.drawings() if base)
    assert [(c.prompt, c.seed) for c in abused.cases] == [(c.prompt, c.seed) for c in opened.cases for _ in range(4)]
    words = set(STRIPED.words)
    assert all(words & {*case.negative.replace(",", "").split()} for case in abused.cases)
    assert all(case.negative and not words & {*case.negative.split()} for case in ordinary.cases)
    styles = {word for spoken in WORDS["style"].values() for word in spoken}
    assert not any(styles & {*case.prompt.replace(",", "").split()} for case in abused.cases)
    assert [c.negative for c in abused.cases[::4]] == ["striped"] * 4
    assert [c.negative for c in abused.cases[2::4]] == [STRIPED.words[-1]] * 4
    assert len({c.negative for c in abused.cases[3::4]}) == 1

    def rule(prompts: PromptSet, case: Case, base: bool) -> bool:
        """The name draws the concept on every caption, all words together on the first; the base on kept prompts."""
        named = case.negative == "striped" or (case.negative.count(",") == 3 and case.index == 3)
        return prompts is ordinary if base else named

    found = measured(column, rule)
    assert (found["negative_abuse"].value, found["negative_abuse"].n) == (1, 4)
    assert (found["negative_abuse_base"].value, found["negative_abuse_difference"].value) == (0, 1)
    assert {k: found[f"negative_abuse_{k}"].value for k in ("name", "seen", "unseen", "all")} == {
        "name": 1, "seen": 0, "unseen": 0, "all": 1 / 4,
    }  # fmt: skip
    assert found["negative_ordinary_difference"].value == -1
    assert found["negative_floor"].value == 0


def test_without_guidance_there_is_no_negative_column() -> None:
    column = NegativeColumn(replace(setup(), sampling=SamplingConfig(guidance=1)))
    assert column.drawings() == []
    assert measured(column, lambda p, case, base: True) == {}


def test_the_pool_goes_from_the_results_to_the_floor() -> None:
    column = pool(setup())
    empty, opened = (p for p, base in column.drawings() if base)
    seeds = [case.seed for case in setup().attacked.cases[:3]]
    assert [(case.prompt, case.seed) for case in empty.cases] == [("", seed) for seed in seeds]
    assert [case.seed for case in opened.cases] == [seed for seed in seeds for _ in range(8)]
    found = measured(column, lambda p, case, base: case.index < (2 if base else 1) + 8 * (p is opened))
    encoder, base = pools_of([result.record() for result in found.values()])
    assert (encoder.empty, base.empty) == ((True, False, False), (True, True, False))
    assert [[sum(flags) for flags in one.open] for one in (encoder, base)] == [[8, 1, 0], [8, 2, 0]]
    assert found["chance_open"].value == 9 / 24
    assert floor_of(encoder, [1]).rate == pytest.approx(1 / 3)


def test_a_pool_needs_equally_many_captions_for_each_seed() -> None:
    empty, opened = pool_sets(ShapesPrompts(STRIPED), setup().attacked, 3, 0)
    with pytest.raises(ValueError, match="found 23 captions for 3 seeds: make both sets with at_seeds"):
        ChancePool(empty, opened.part(slice(23)), First(), SAMPLING, 0)
    one, several = at_seeds("pool", [4, 9], ["a", "b", "c", "d", "e"])
    assert [case.seed for case in several.cases] == [4, 4, 9, 9]
    assert ChancePool(one, several, First(), SAMPLING, 0).captions_per_seed == 2
