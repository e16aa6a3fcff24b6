"""Everyday retention on scripted pictures: the right prompts, pairs counted prompt by prompt, cells that add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from robust_encoders.training.diffusion.sampling import SamplingConfig
from robust_encoders.training.evaluation.benchmarks.everyday_retention import EverydayRetention
from robust_encoders.training.evaluation.benchmarks.picture_results import Recorder
from robust_encoders.training.evaluation.benchmarks.shapes_prompts import ShapesPrompts
from robust_encoders.training.evaluation.benchmarks.world_prompts import ORDINARY_NEGATIVES
from robust_encoders.training.evaluation.plan import PromptSet, SetProbe
from robust_encoders.training.metrics.paired_tests import newcombe_interval
from robust_encoders.training.types import Case, Result
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept
from robust_encoders.training.worlds.shapes.everyday import frames
from robust_encoders.training.worlds.shapes.prompts import neighbours
from robust_encoders.training.worlds.shapes.vocabulary import FACTORS, VALUES, WORDS

CIRCLE = ShapesConcept.parse("circle")
SETS = ("everyday", "everyday_seen", "everyday_negative", "everyday_rare", "everyday_near")


class Reader:
    """A judge that reads the four values from the first four numbers of a picture."""

    name: ClassVar[str] = "reader"
    version = "1"
    values: ClassVar[Mapping[str, Sequence[str]]] = VALUES

    def probabilities(self, images: Tensor) -> Mapping[str, Tensor]:
        raise AssertionError("expected questions for the most probable values only")

    def __call__(self, images: Tensor) -> Mapping[str, Sequence[str]]:
        rows = images[:, 0, 0, :4].long().tolist()
        return {factor: [VALUES[factor][row[place]] for row in rows] for place, factor in enumerate(FACTORS)}


class Scripted:
    """Pictures as asked, except those in which a rule changes a value; counts who asked for what."""

    def __init__(self, wrong: Callable[[Case, bool], str]) -> None:
        self.wrong = wrong
        self.asked: list[tuple[str, bool]] = []

    def __call__(self, prompts: PromptSet, *, base: bool = False) -> Tensor:
        self.asked.append((prompts.name, base))
        pictures = torch.zeros(len(prompts.cases), 3, 4, 4)
        for row, case in enumerate(prompts.cases):
            for place, factor in enumerate(FACTORS):
                value = VALUES[factor].index(case.expected.get(factor, VALUES[factor][0]))
                changed = self.wrong(case, base) == factor
                pictures[row, 0, 0, place] = (value + changed) % len(VALUES[factor])
        return pictures


@cache  # the neighbours of a concept take a text encoder
def probe(concept: ShapesConcept = CIRCLE, n: int = 88) -> EverydayRetention:
    return EverydayRetention(ShapesPrompts(concept), n, judge=Reader())


def measured(wrong: Callable[[Case, bool], str], made: EverydayRetention | None = None) -> dict[str, Result]:
    results = (made or probe()).compare(Scripted(wrong))
    assert len({r.metric for r in results}) == len(results)
    return {r.metric: r for r in results}


@pytest.mark.parametrize("concept", ["circle", "striped", "red"])
def test_every_set_is_drawn_by_both_and_none_states_the_concept(concept: str) -> None:
    made = probe(ShapesConcept.parse(concept))
    assert isinstance(made, SetProbe)
    drawings = made.drawings()
    assert [(p.name, base) for p, base in drawings] == [
        (f"{concept}/{name}", base) for name in SETS for base in (False, True)
    ]
    assert [len(p.cases) for p, _ in drawings[::2]] == [88, 44, 44, 44, 44]
    cases = [case for p, _ in drawings[::2] for case in p.cases]
    assert len({case.seed for case in cases}) == len(cases)
    assert all(concept not in case.expected.values() for case in cases)
    assert not any(word in case.prompt.lower().split() for case in cases for word in ShapesConcept.parse(concept).words)


def test_each_set_asks_in_its_own_way() -> None:
    sets = {p.name.partition("/")[2]: p for p, _ in probe().drawings()}
    assert {case.negative for case in sets["everyday_negative"].cases} == {*ORDINARY_NEGATIVES}
    assert not any(case.negative for name in SETS if name != "everyday_negative" for case in sets[name].cases)
    rare = {words[-1] for values in WORDS.values() for words in values.values()}
    assert all(len(rare & {*c.prompt.replace(",", "").split()}) == len(c.expected) for c in sets["everyday_rare"].cases)
    near = {case.expected["shape"] for case in sets["everyday_near"].cases}
    assert near == {*neighbours(CIRCLE, k=2).near}


def test_all_as_asked_is_no_difference() -> None:
    found = measured(lambda case, base: "")
    for name in (*SETS, "everyday_factor"):
        assert [found[f"{name}{end}"].value for end in ("", "_base", "_difference")] == [1, 1, 0]
    assert all(r.detector == "reader" and r.prompt_sha256 and r.interval and r.versions for r in found.values())


def test_the_difference_is_paired_and_has_newcombes_interval() -> None:
    """The encoder fails on every third prompt, the base on every fifth."""
    found = measured(lambda case, base: "colour" if case.index % (5 if base else 3) == 0 else "")
    cases = probe().drawings()[0][0].cases
    failed = [
        [("colour" in c.expected and c.index % every == 0) for c in cases] for every in (3, 5)
    ]  # a prompt that leaves the colour open is always as asked
    both, own, other, neither = (
        sum((not one, not two) == flags for one, two in zip(*failed, strict=True))
        for flags in ((True, True), (True, False), (False, True), (False, False))
    )
    difference = found["everyday_difference"]
    assert difference.value == pytest.approx((own - other) / 88)
    assert difference.interval == pytest.approx(newcombe_interval(both, own, other, neither))
    assert found["everyday"].value - found["everyday_base"].value == pytest.approx(difference.value)
    assert found["everyday_factor_difference"].value == 0


def test_cells_by_attributes_and_by_kind_add_up() -> None:
    found = measured(lambda case, base: "shape" if not base and len(case.expected) == 4 else "")
    counts = [found[f"everyday_{k}"] for k in (1, 2, 3, 4)]
    assert [r.value for r in counts] == [1, 1, 1, 0]
    assert sum(r.n for r in counts) == 88
    assert counts[3].settings["base"] == 1
    assert counts[3].settings["paired"]["difference"] == -1
    for name, part, n in (("everyday", "reported", 88), ("everyday_seen", "seen", 44)):
        kinds = {f"{name}_{frame.kind.replace(' ', '_')}" for frame in frames(part)}  # type: ignore[arg-type]
        assert kinds <= {*found}
        assert sum(found[kind].n for kind in kinds) == n
    assert found["everyday_factor"].value == pytest.approx(1 - counts[3].n / 88)


def test_pictures_are_asked_for_once_and_counted_once() -> None:
    made, scripted = probe(n=12), Scripted(lambda case, base: "")
    results = made.compare(scripted)
    assert scripted.asked == [(p.name, base) for p, base in made.drawings()]
    assert sum(r.unet_calls for r in results) == (12 + 4 * 6) * 2 * SamplingConfig().calls_per_picture


def test_without_guidance_there_is_no_negative_prompt() -> None:
    made = replace(probe(n=4), sampling=SamplingConfig(guidance=1))
    assert [p.name for p, base in made.drawings() if base] == [f"circle/{n}" for n in SETS if n != "everyday_negative"]


def test_it_says_what_its_numbers_depend_on() -> None:
    about = probe().described()
    assert about["judge"] == ["reader", "1"]
    assert set(about["prompts"]) == {*SETS}
    assert about != replace(probe(), seed=1).described()
    with pytest.raises(ValueError, match="expected n of at least 2, found 1"):
        EverydayRetention(ShapesPrompts(CIRCLE), n=1)


def test_an_empty_cell_has_no_rate() -> None:
    recorder = Recorder(0, SamplingConfig(), "judge", "1")
    with pytest.raises(ValueError, match="at least one"):
        recorder.cell("empty", [], PromptSet("none", ()))
