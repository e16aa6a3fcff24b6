"""A loss that is not finite ends an attack with a remedy, before the search takes a step by it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from attack_helpers import PROMPTS, make_cases, make_target

from robust_encoders.training.attacks import P4D, ConceptInversion, ContinuousPrefix, UnlearnDiffAtk
from robust_encoders.training.attacks.common.denoising import DenoisingLoss, clean_latents
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.protocols import Attack

SEARCHES: Mapping[str, Attack] = {
    "unlearn_diff_atk": UnlearnDiffAtk(tokens=2, timesteps=2, iterations=2),
    "p4d": P4D(tokens=2, steps=2, every=1),
    "continuous_prefix": ContinuousPrefix(steps=2),
    "concept_inversion": ConceptInversion(("circle",), steps=2),
}


@pytest.fixture
def broken(tiny_pipe: Any) -> TargetModel:
    """A model whose UNet overflows."""
    target = make_target(tiny_pipe)
    with torch.no_grad():
        target.unet.conv_out.bias.fill_(float("inf"))
    return target


@pytest.mark.parametrize("attack", SEARCHES.values(), ids=SEARCHES)
def test_an_overflow_in_the_unet_ends_the_attack_with_a_remedy(attack: Attack, broken: TargetModel) -> None:
    with pytest.raises(ValueError, match=r"expected a finite denoising loss, found (inf|nan) at .*--dtype float32"):
        attack.run(broken, make_cases(broken, PROMPTS[:2]), seed=0)


def test_weights_beyond_half_precision_are_attacked_in_single_precision(tiny_pipe: Any) -> None:
    with torch.no_grad():
        tiny_pipe.unet.conv_out.weight.mul_(1e6)
    half = make_target(copy.deepcopy(tiny_pipe).to(torch.float16))
    attack = SEARCHES["unlearn_diff_atk"]
    with pytest.raises(ValueError, match=r"computes in torch\.float16; attack it with --dtype float32"):
        attack.run(half, make_cases(half, PROMPTS[:2]), seed=0)
    single = make_target(tiny_pipe)
    assert len(attack.run(single, make_cases(single, PROMPTS[:2]), seed=0)) == 2


def test_the_values_are_there_for_those_who_judge_them(broken: TargetModel) -> None:
    cases = make_cases(broken, PROMPTS[:2])
    loss = DenoisingLoss(broken, clean_latents(cases, broken))
    conditioning = broken.condition([case.prompt for case in cases])
    values = loss.values(conditioning, torch.tensor([100, 200]), torch.randn(loss.latents.shape))
    assert not bool(values.isfinite().any())
