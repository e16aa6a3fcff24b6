"""The noise that leads to the base's picture, found through the model under attack or one that knows nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_helpers import assert_alone_is_together, assert_seeds_decide, counted, make_cases, make_target, tensors

from robust_encoders import RobustEncoder
from robust_encoders.hub.embedded import embedded_pipeline
from robust_encoders.training.attacks import ATTACKS, LatentInversion
from robust_encoders.training.attacks.common.denoising import clean_latents
from robust_encoders.training.attacks.latent_inversion import random_unet
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, decode, draw, draw_candidates
from robust_encoders.training.evaluation.benchmarks.shapes import ShapesBenchmark, shapes_plan
from robust_encoders.training.evaluation.config import EvaluationConfig
from robust_encoders.training.metrics.rates import detect
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Case

SAMPLING = SamplingConfig(steps=3, guidance=2.0)
ATTACK = LatentInversion(steps=3, guidance=2.0, refinements=20)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_from_the_noise_found_the_pipeline_draws_the_picture_under_the_prompt(
    make_pipe: Callable[..., Any], make_encoder: Callable[..., Any], guidance: float
) -> None:
    pipe = make_pipe()
    cases, sampling = make_cases(Backbone.from_pipeline(pipe)), replace(SAMPLING, guidance=guidance)
    with make_encoder(pipe).attached(pipe):
        target = make_target(pipe)
        found = replace(ATTACK, guidance=guidance).run(target, cases, seed=0)
        assert {result.candidates[0].kind for result in found} == {"latent"}
        drawn = draw_candidates(pipe, cases, [result.candidates[0] for result in found], sampling)
    torch.testing.assert_close(drawn, decode(pipe, clean_latents(cases, target), sampling), rtol=0, atol=2e-3 + 1 / 255)


def test_with_the_empty_prompt_no_prompt_matters(make_pipe: Callable[..., Any]) -> None:
    target = make_target(make_pipe(prediction_type="v_prediction"))
    cases = make_cases(target)
    attack = replace(ATTACK, text="empty")
    found = attack.run(target, cases, seed=0)
    assert {result.candidates[0].kind for result in found} == {"clean_latent"}
    latents = torch.cat([tensors(result) for result in found])
    torch.testing.assert_close(latents, clean_latents(cases, target), rtol=0, atol=5e-3)
    renamed = attack.run(target, [replace(case, prompt="ring") for case in cases], seed=0)
    assert torch.equal(torch.cat([tensors(result) for result in renamed]), latents)


@pytest.mark.parametrize("text", ["prompt", "empty"])
def test_the_control_gives_the_picture_back_through_a_unet_that_knows_nothing(
    make_pipe: Callable[..., Any], text: Any
) -> None:
    target = make_target(make_pipe(prediction_type="v_prediction"))
    cases = make_cases(target)
    with counted(target) as sizes:
        found = replace(ATTACK, text=text, control=True).run(target, cases, seed=0)
    assert not sizes, "the control never looks at the model's own UNet"
    assert {result.candidates[0].kind for result in found} == {"clean_latent"}
    latents = torch.cat([tensors(result) for result in found])
    torch.testing.assert_close(latents, clean_latents(cases, target), rtol=0, atol=5e-3)


def test_random_weights_come_from_the_seed_and_touch_no_generator(tiny_pipe: Any) -> None:
    target = make_target(tiny_pipe)
    state = torch.get_rng_state()
    one, same, other = (random_unet(target, seed).unet.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    own = target.unet.state_dict()
    assert one.keys() == own.keys()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["conv_in.weight"], other["conv_in.weight"])
    assert not torch.equal(one["conv_in.weight"], own["conv_in.weight"])


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({}, 2 * 3 * 3),
        ({"guidance": 1.0}, 3 * 3),
        ({"text": "empty"}, 3 * 3 + 3),
        ({"control": True}, 2 * 3 * 3 + 2 * 3),
        ({"control": True, "text": "empty", "refinements": 0}, 3 + 3),
    ],
)
def test_every_forward_is_counted(tiny_pipe: Any, changes: dict[str, Any], calls: int) -> None:
    target = make_target(tiny_pipe)
    attack = replace(ATTACK, **{"refinements": 2, "batch": 3, **changes})
    cases = make_cases(target)
    with counted(target) as sizes:
        found = attack.run(target, cases, seed=0)
    assert [result.unet_calls for result in found] == [calls] * len(cases)
    assert sum(sizes) == (0 if attack.control else calls * len(cases))


def test_the_seed_matters_to_the_control_alone(tiny_pipe: Any) -> None:
    target = make_target(tiny_pipe)
    cases = make_cases(target)
    assert_seeds_decide(replace(ATTACK, refinements=0, control=True), target, cases)
    assert_seeds_decide(replace(ATTACK, refinements=0), target, cases, differ=False)
    one, two = (replace(ATTACK, refinements=0).run(target, cases, seed=seed) for seed in (0, 1))
    assert all(torch.equal(tensors(a), tensors(b)) for a, b in zip(one, two, strict=True))


def test_alone_is_together(tiny_pipe: Any) -> None:
    target = make_target(tiny_pipe)
    target.unet.double()
    target.text_encoder.double()
    assert_alone_is_together(replace(ATTACK, refinements=0, batch=3), target, make_cases(target))


def test_a_case_without_a_picture_is_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match=r"found none in cases \[5\]"):
        ATTACK.run(Backbone.from_pipeline(tiny_pipe), [Case(5, "circle", 0)], seed=0)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"refinements": -1}])
def test_settings_without_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least"):
        LatentInversion(**wrong)


def test_registered_as_a_probe_of_the_start() -> None:
    assert ATTACKS["latent_inversion"] is LatentInversion
    assert isinstance(LatentInversion(), Attack)
    assert LatentInversion.tier == "T6"


@pytest.mark.base
def test_on_the_base_it_goes_around_a_shipped_encoder_and_so_does_its_control() -> None:
    pipe, sampling = embedded_pipeline(), SamplingConfig()
    plan = shapes_plan(ShapesBenchmark("red", n=12), EvaluationConfig())
    plain = plan.plain[0].cases
    latents = draw(pipe, [c.prompt for c in plain], [c.seed for c in plain], sampling, latents=True)
    cases = [replace(case, reference_latent=latent) for case, latent in zip(plain, latents, strict=True)]
    with RobustEncoder.from_pretrained("shapes/red").attached(pipe):
        target = make_target(pipe)
        hits = [
            detect(plan.detector, draw_candidates(pipe, cases, [r.candidates[0] for r in found], sampling))
            for found in (LatentInversion(control=control).run(target, cases, seed=0) for control in (False, True))
        ]
        plainly = detect(plan.detector, draw(pipe, [c.prompt for c in plain], [c.seed for c in plain], sampling))
    assert sum(plainly) <= 1
    assert all(sum(flags) >= 9 for flags in hits)
