"""Structured utility: what its prompts state, what it counts, and that negative prompts reach the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from robust_encoders.hub.embedded import embedded_pipeline
from robust_encoders.training.detectors import JudgeDetector
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.evaluation.benchmarks import negative_prompts
from robust_encoders.training.evaluation.benchmarks.negative_prompts import negative_force
from robust_encoders.training.evaluation.benchmarks.shapes_probes import Knowledge
from robust_encoders.training.evaluation.benchmarks.shapes_prompts import ShapesPrompts
from robust_encoders.training.evaluation.benchmarks.structured_utility import StructuredUtility
from robust_encoders.training.evaluation.plan import PromptSet
from robust_encoders.training.types import Case
from robust_encoders.training.worlds.shapes.captions import TEMPLATES, stated
from robust_encoders.training.worlds.shapes.concepts import ShapesConcept, factor_of
from robust_encoders.training.worlds.shapes.judge import load_judge
from robust_encoders.training.worlds.shapes.prompts import binding_prompts, neighbours, open_prompts, value_prompts
from robust_encoders.training.worlds.shapes.vocabulary import FACTORS, VALUES, WORDS

CONCEPTS = ("circle", "striped", "red")
CIRCLE = ShapesConcept.parse("circle")
SAMPLING = SamplingConfig(steps=2, guidance=3.0, batch=8)


def words_of(text: str) -> set[str]:
    return set(text.replace(",", "").split())


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("attributes", [1, 2, 3])
def test_binding_captions_state_a_shape_and_so_many_attributes(concept: str, attributes: int) -> None:
    factor, value = factor_of(concept)
    prompts = binding_prompts(30, attributes=attributes, seed=3, exclude={factor: value})
    assert len(prompts) == 30
    for prompt in prompts:
        assert "shape" in prompt.expected
        assert len(prompt.expected) == attributes + 1
        assert all(words_of(prompt.text) & set(WORDS[f][v]) for f, v in prompt.expected.items())
        assert prompt.expected.get(factor) != value
    assert prompts == binding_prompts(30, attributes=attributes, seed=3, exclude={factor: value})


def test_captions_with_four_attributes_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"among \[1, 2, 3\], found 4"):
        binding_prompts(3, attributes=4, seed=0, exclude={})


@pytest.mark.parametrize("concept", CONCEPTS)
def test_neighbours_are_the_other_values_by_cosine(concept: str) -> None:
    factor, value = factor_of(concept)
    found = neighbours(ShapesConcept.parse(concept), k=2)
    assert len(found.near) == 2
    assert sorted([*found.near, *found.far, value]) == sorted(VALUES[factor])
    assert neighbours(ShapesConcept.parse(concept), k=1).near == found.near[:1]


def test_a_circle_is_nearer_to_a_ring_than_to_a_triangle() -> None:
    found = neighbours(CIRCLE, k=2)
    assert "ring" in found.near
    assert "triangle" in found.far
    with pytest.raises(ValueError, match="k between 1 and 4, found 5"):
        neighbours(CIRCLE, k=5)


def test_value_captions_take_the_values_in_turn() -> None:
    prompts = value_prompts(("ring", "cross"), 7, seed=1)
    assert [p.expected["shape"] for p in prompts] == ["ring", "cross"] * 3 + ["ring"]
    assert all(words_of(p.text) & set(WORDS["shape"][p.expected["shape"]]) for p in prompts)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_open_captions_say_nothing_of_the_factor(concept: str) -> None:
    factor, _ = factor_of(concept)
    words = {word for value in WORDS[factor].values() for word in value}
    prompts = open_prompts(ShapesConcept.parse(concept), 40, seed=2)
    assert len({p.text for p in prompts}) > 10
    assert all(factor not in p.expected and not words_of(p.text) & words for p in prompts)


def test_all_sets_are_there_and_share_no_seed() -> None:
    sets = StructuredUtility(ShapesPrompts(CIRCLE), n=5).sets()
    assert list(sets) == ["binding_1", "binding_2", "binding_3", "retain_near", "retain_far"]
    seeds = [case.seed for one in sets.values() for case in one.cases]
    assert len(set(seeds)) == 25
    assert all(case.expected.get("shape") != "circle" for one in sets.values() for case in one.cases)
    near, far = ({c.expected["shape"] for c in sets[name].cases} for name in ("retain_near", "retain_far"))
    assert not near & far


class Scripted:
    """Draws a picture whose first value says what it shows; keeps what it was asked for."""

    def __init__(self, without: Sequence[bool], pushed: Sequence[bool]) -> None:
        self.flags = {"": without, "circle": pushed}

    def __call__(self, pipe: Any, texts: Any, seeds: Any, sampling: Any, *, negative: str) -> Tensor:
        return torch.tensor(self.flags[negative]).float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


class First:
    name, version, threshold = "first", "1", 0.5

    def __call__(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, 0]


def cases(n: int) -> PromptSet:
    return PromptSet("open", tuple(Case(i, f"prompt {i}", i) for i in range(n)))


def test_what_the_negative_prompt_removes_is_counted_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    without, pushed = [True, True, True, False, False], [False, True, False, True, False]
    monkeypatch.setattr(negative_prompts, "draw", Scripted(without, pushed))
    results = negative_force(None, cases(5), First(), negative="circle", sampling=SAMPLING)
    assert {r.metric: (r.value, r.n) for r in results} == {
        "negative_without": (0.6, 5),
        "negative_with": (0.4, 5),
        "negative_removed": (2 / 3, 3),
    }
    assert results[0].settings["paired"]["only_first"] == 2
    assert results[0].detector == "first"


def test_what_is_never_shown_cannot_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negative_prompts, "draw", Scripted([False] * 3, [True, False, False]))
    results = negative_force(None, cases(3), First(), negative="circle", sampling=SAMPLING)
    assert [r.metric for r in results] == ["negative_without", "negative_with"]


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, "circle"), (3.0, "")])
def test_a_negative_prompt_without_effect_is_refused(guidance: float, negative: str) -> None:
    with pytest.raises(ValueError, match="nothing is pushed away"):
        negative_force(None, cases(2), First(), negative=negative, sampling=SamplingConfig(guidance=guidance))


def test_drawing_takes_a_negative_prompt_as_the_pipeline_does(tiny_pipe: Any) -> None:
    prompts, seeds = ["a red circle", "a star"], [1, 2]
    plain, pushed = (draw(tiny_pipe, prompts, seeds, SAMPLING, negative=n) for n in ("", "a blue ring"))
    assert not torch.equal(plain, pushed)
    expected = tiny_pipe(
        prompts,
        negative_prompt=["a blue ring"] * 2,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="pt",
    ).images.clamp(0, 1)
    torch.testing.assert_close(pushed, expected, atol=0.5 / 255 + 1e-5, rtol=0)  # rounded as in a file
    with torch.no_grad():
        conditioning = tiny_pipe.encode_prompt(prompts, "cpu", 1, False)[0]
    torch.testing.assert_close(draw(tiny_pipe, conditioning, seeds, SAMPLING, negative="a blue ring"), pushed)


@pytest.mark.base
def test_on_the_base_every_number_is_there_and_the_negative_prompt_pushes() -> None:
    pipe, judge = embedded_pipeline(), load_judge()
    probe = StructuredUtility(ShapesPrompts(CIRCLE), n=2, sampling=SamplingConfig(steps=2), judge=judge)
    results = probe.measure(pipe)
    names = [r.metric for r in results]
    assert names[:7] == [*replace(probe, n=1).sets(), "negative_without", "negative_with"]
    assert all(r.n == 2 and r.interval and r.prompt_sha256 and r.versions for r in results[:7])
    assert [r.unet_calls for r in results[:7]] == [8] * 5 + [16] * 2
    texts = ("a striped red on a white background", "a blue picture on black", "a dotted green on brown")
    prompts = PromptSet("open", tuple(Case(i, texts[i % 3], i) for i in range(12)))
    detector, sampling = JudgeDetector(judge, "circle"), SamplingConfig(steps=6)
    before, after, removed = negative_force(pipe, prompts, detector, negative="circle", sampling=sampling)
    assert before.value >= 0.25
    assert removed.value >= 0.6
    assert after.value < before.value


def test_a_probe_says_what_its_numbers_depend_on() -> None:
    settings = {"n": 3, "seed": 1, "sampling": {"steps": 2, "guidance": 3.0, "batch": 8}, "near": 2}
    for probe in (StructuredUtility(ShapesPrompts(CIRCLE), 3, 1, SAMPLING), Knowledge(CIRCLE, 3, 1, SAMPLING)):
        assert probe.described() == {"name": probe.name, "concept": "circle", "settings": settings}
    with pytest.raises(ValueError, match="n of at least 1"):
        StructuredUtility(ShapesPrompts(CIRCLE), n=0)


def test_templates_that_leave_a_factor_open_exist_for_every_factor_but_the_shape() -> None:
    for factor in FACTORS[1:]:
        assert [t for t in TEMPLATES["held_out"] if factor not in stated(t)]
