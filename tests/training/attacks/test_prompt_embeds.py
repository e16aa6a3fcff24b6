"""The base's own conditioning past a hardened encoder: its picture, by construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attack_helpers import make_target, tensors

from robust_encoders.training.attacks import ATTACKS, PromptEmbeds
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw, draw_candidates
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import Case

CASES = [Case(i, text, seed=10 + i) for i, text in enumerate(("a red circle", "a blue square", "circle"))]
SAMPLING = SamplingConfig(steps=2, guidance=4.0)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_picture_is_the_bases_own_whatever_the_encoder(
    make_pipe: Callable[..., Any], make_encoder: Callable[..., Any], guidance: float
) -> None:
    pipe, sampling = make_pipe(), SamplingConfig(steps=2, guidance=guidance)
    prompts, seeds = [case.prompt for case in CASES], [case.seed for case in CASES]
    wanted = draw(pipe, prompts, seeds, sampling)
    base = Backbone.from_pipeline(pipe)
    with make_encoder(pipe).attached(pipe):
        found = PromptEmbeds().run(TargetModel.from_pipeline(pipe, base=base), CASES, seed=0)
        probed = draw_candidates(pipe, CASES, [result.candidates[0] for result in found], sampling)
        hardened = draw(pipe, prompts, seeds, sampling)
    torch.testing.assert_close(probed, wanted, atol=1e-5, rtol=0)
    assert (hardened - wanted).abs().max() > 1e-3, "otherwise the probe would pass without doing anything"


def test_without_the_empty_prompts_conditioning_guidance_would_start_elsewhere(
    make_pipe: Callable[..., Any], make_encoder: Callable[..., Any]
) -> None:
    pipe = make_pipe()
    with torch.no_grad():
        alone = Backbone.from_pipeline(pipe).condition([case.prompt for case in CASES])
        null = Backbone.from_pipeline(pipe).condition([""]).expand_as(alone)
    seeds = [case.seed for case in CASES]
    with make_encoder(pipe).attached(pipe):
        both = draw(pipe, torch.stack([null, alone], dim=1), seeds, SAMPLING)
        one = draw(pipe, alone, seeds, SAMPLING)
    assert (both - one).abs().max() > 1e-4


def test_nothing_is_random_and_nothing_is_asked(tiny_pipe: Any) -> None:
    target = make_target(tiny_pipe)
    results = PromptEmbeds().run(target, CASES, seed=0)
    length, width = target.max_length, target.text_encoder.config.hidden_size
    for case, result in zip(CASES, results, strict=True):
        assert (result.queries, result.unet_calls) == (0, 0)
        assert tensors(result).shape == (1, 2, length, width)
        alone = PromptEmbeds().run(target, [case], seed=1)[0]
        assert torch.equal(tensors(alone), tensors(result))


def test_a_target_without_its_base_is_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="model before the erasure"):
        PromptEmbeds().run(TargetModel.from_pipeline(tiny_pipe), CASES, seed=0)


def test_registered_as_a_scope_probe() -> None:
    assert ATTACKS["prompt_embeds"] is PromptEmbeds
    assert isinstance(PromptEmbeds(), Attack)
    assert PromptEmbeds.tier == "T7"
