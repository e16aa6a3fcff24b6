"""The base's picture, drawn over by the model under attack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attack_helpers import assert_alone_is_together, assert_seeds_decide, make_cases, make_target, tensors

from robust_encoders.training.attacks import ATTACKS, Img2Img
from robust_encoders.training.attacks.common.denoising import clean_latents
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw_candidates, redraw
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Case

SAMPLING = SamplingConfig(steps=4, guidance=3.0)


def test_with_the_prompt_the_pipeline_draws_over_the_bases_own_picture(tiny_pipe: Any) -> None:
    target = make_target(tiny_pipe)
    cases = make_cases(target)
    results = Img2Img(0.5, "prompt").run(target, cases, seed=0)
    for case, result in zip(cases, results, strict=True):
        (candidate,) = result.candidates
        assert (candidate.kind, candidate.strength, candidate.step) == ("image", 0.5, 1)
        assert (result.queries, result.unet_calls) == (0, 0)
        assert case.reference_latent is not None
        assert torch.equal(tensors(result)[0], case.reference_latent)


def test_with_the_empty_prompt_the_attack_draws_what_the_pipeline_would(tiny_pipe: Any) -> None:
    target = make_target(tiny_pipe)
    cases = make_cases(target)
    attack = Img2Img(0.75, steps=4, batch=3)
    results = attack.run(target, cases, seed=0)
    assert {(r.candidates[0].kind, r.unet_calls, r.queries) for r in results} == {("clean_latent", 3, 0)}
    found = draw_candidates(tiny_pipe, cases, [r.candidates[0] for r in results], SAMPLING)
    images, seeds = clean_latents(cases, target), [case.seed for case in cases]
    expected = redraw(tiny_pipe, [""] * len(cases), images, seeds, SAMPLING, strength=0.75)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_only_the_cases_own_seeds_decide(tiny_pipe: Any) -> None:
    target = make_target(tiny_pipe)
    cases = make_cases(target)
    assert_seeds_decide(Img2Img(steps=2), target, cases, differ=False)
    same = cases[0]
    other = Case(same.index, same.prompt, same.seed + 1, reference_latent=same.reference_latent)
    one, two = (tensors(r) for r in Img2Img(steps=2).run(target, [same, other], seed=0))
    assert (one - two).abs().max() > 1e-2


def test_alone_is_together(tiny_pipe: Any) -> None:
    target = make_target(tiny_pipe)
    target.unet.double()
    target.text_encoder.double()
    assert_alone_is_together(Img2Img(steps=2, batch=3), target, make_cases(target))


@pytest.mark.parametrize("text", ["prompt", "empty"])
def test_without_a_picture_it_is_refused(tiny_pipe: Any, text: Any) -> None:
    with pytest.raises(ValueError, match=r"found none in cases \[5\]"):
        Img2Img(text=text).run(Backbone.from_pipeline(tiny_pipe), [Case(5, "circle", 0)], seed=0)


@pytest.mark.parametrize("wrong", [{"strength": 0.0}, {"strength": 1.1}, {"strength": 0.3, "steps": 3}, {"batch": 0}])
def test_nothing_to_draw_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"strength in \(0, 1\]"):
        Img2Img(**wrong)


def test_registered_as_a_probe_of_the_image_input() -> None:
    assert ATTACKS["img2img"] is Img2Img
    assert isinstance(Img2Img(), Attack)
    assert Img2Img.tier == "T5"
