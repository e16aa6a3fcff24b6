"""DDIM backwards leads to the noise it started from, and image-to-image is diffusers' own."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from torch import Tensor

from robust_encoders.hub.embedded import embedded_pipeline
from robust_encoders.training.attacks.common.ddim_inversion import invert, redrawn
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import quiet

PROMPTS = ["a red circle", "a blue square"]


def noise_for(backbone: Backbone) -> Tensor:
    return torch.randn((2, *backbone.latent_shape), generator=torch.Generator().manual_seed(3))


def there_and_back(backbone: Backbone, *, steps: int, guidance: float, refinements: int) -> tuple[Tensor, Tensor]:
    """By how much the noise and the clean latent are missed, in root mean square, relative to their own."""
    with torch.no_grad():
        cond, null = backbone.condition(PROMPTS), backbone.condition([""])
    noise = noise_for(backbone)
    clean = backbone.sample(cond, noise=noise, steps=steps, guidance=guidance)
    given = None if guidance == 1 else null
    found = invert(backbone, clean, cond, null=given, steps=steps, guidance=guidance, refinements=refinements)
    again = backbone.sample(cond, noise=found, steps=steps, guidance=guidance)
    return missed(found, noise), missed(again, clean)


def missed(found: Tensor, expected: Tensor) -> Tensor:
    return (found - expected).square().mean().sqrt() / expected.square().mean().sqrt()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_inversion_leads_back_to_the_noise_and_from_there_to_the_picture(
    make_pipe: Callable[..., Any], prediction_type: str, guidance: float
) -> None:
    backbone = Backbone.from_pipeline(make_pipe(prediction_type=prediction_type))
    noise, picture = there_and_back(backbone, steps=6, guidance=guidance, refinements=30)
    assert noise < 2e-3
    assert picture < 2e-3


def test_refinements_come_closer(make_pipe: Callable[..., Any]) -> None:
    backbone = Backbone.from_pipeline(make_pipe(prediction_type="v_prediction"))
    apart = [float(there_and_back(backbone, steps=6, guidance=1.0, refinements=r)[1]) for r in (0, 1, 3)]
    assert apart[0] > 3 * apart[1] > 9 * apart[2]


class LinearUNet(torch.nn.Module):
    """Predicts a multiple of its input that depends on the timestep, so that every step has a closed form."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.config = like.config
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, latents: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=latents * (t.view(-1, 1, 1, 1) / 2000))


def test_without_refinements_it_is_the_textbooks_step(make_pipe: Callable[..., Any]) -> None:
    """Against equation 12 written out with the square roots of the schedule, the model taken at the cleaner latent."""
    pipe = make_pipe()
    pipe.unet = LinearUNet(pipe.unet)
    backbone = Backbone.from_pipeline(pipe)
    x = noise = noise_for(backbone)
    alphas = backbone.alphas_cumprod.double()
    for cleaner, t in ((1 - 250, 1), (1, 251), (251, 501), (501, 751)):
        a, before = alphas[t], alphas[max(cleaner, 0)]
        eps = x * t / 2000
        x0 = (x - (1 - before).sqrt() * eps) / before.sqrt()
        x = a.sqrt() * x0 + (1 - a).sqrt() * eps
    cond = torch.zeros(2, backbone.max_length, 16)
    torch.testing.assert_close(invert(backbone, noise, cond, steps=4), x.float(), rtol=1e-4, atol=1e-4)


def test_it_costs_a_forward_for_every_step_and_refinement(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    with torch.no_grad():
        cond, null = backbone.condition(PROMPTS), backbone.condition([""])
    invert(backbone, noise_for(backbone), cond, steps=3, refinements=2)
    assert backbone.unet_calls == 2 * 3 * 3
    invert(backbone, noise_for(backbone), cond, null=null, guidance=2.0, steps=3)
    assert backbone.unet_calls == 2 * 3 * 3 + 2 * 2 * 3


@pytest.mark.parametrize("option", ["clip_sample", "thresholding"])
def test_a_scheduler_that_clips_is_inverted_without_clipping(tiny_pipe: Any, option: str) -> None:
    clipping, noise = DDIMScheduler, noise_for(Backbone.from_pipeline(tiny_pipe))
    plain = invert(Backbone.from_pipeline(tiny_pipe), noise, torch.zeros(2, 24, 16), steps=2)
    made: Any = clipping.from_config(tiny_pipe.scheduler.config, **{option: True})
    tiny_pipe.scheduler = made
    assert torch.equal(invert(Backbone.from_pipeline(tiny_pipe), noise, torch.zeros(2, 24, 16), steps=2), plain)


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_redrawing_is_diffusers_image_to_image(
    make_pipe: Callable[..., Any], prediction_type: str, strength: float
) -> None:
    pipe = make_pipe(prediction_type=prediction_type)
    backbone, images = Backbone.from_pipeline(pipe), torch.ones(2, 4, 8, 8)
    made: Any = StableDiffusionImg2ImgPipeline
    theirs = made(**pipe.components, requires_safety_checker=False)
    with quiet(theirs):
        expected = theirs(
            ["", ""],
            image=images,
            strength=strength,
            num_inference_steps=7,
            guidance_scale=3.0,
            generator=[torch.Generator().manual_seed(seed) for seed in (4, 5)],
            output_type="latent",
        ).images
    noise = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (4, 5)])
    with torch.no_grad():
        null = backbone.condition([""]).expand(2, -1, -1)
    found = redrawn(backbone, images, noise, null, steps=7, strength=strength)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert backbone.unet_calls == 2 * int(7 * strength)


@pytest.mark.base
def test_on_the_base_too_whose_schedule_ends_in_pure_noise() -> None:
    backbone = Backbone.from_pipeline(embedded_pipeline())
    assert backbone.alphas_cumprod[-1] < 1e-6
    # With the other sign in the step it is 1.8, with predictions one place off on the grid 0.19.
    _, picture = there_and_back(backbone, steps=15, guidance=1.0, refinements=10)
    assert picture < 0.01
