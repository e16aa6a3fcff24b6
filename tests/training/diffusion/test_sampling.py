"""Pictures come from the pipeline itself, each from its own seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionImg2ImgPipeline

from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw, draw_candidates, quiet, redraw
from robust_encoders.training.types import Candidate, Case

SAMPLING = SamplingConfig(steps=2, guidance=3.0, batch=2)
HALF_A_LEVEL = 0.5 / 255 + 1e-5  # pictures are rounded as in a file
PROMPTS = ["a red circle", "a blue square", "ring"]


def test_a_batch_equals_the_pipelines_own_pictures(tiny_pipe: Any) -> None:
    drawn = draw(tiny_pipe, PROMPTS, [4, 5, 6], SAMPLING)
    assert drawn.shape == (3, 3, 16, 16)
    for prompt, seed, picture in zip(PROMPTS, (4, 5, 6), drawn, strict=True):
        generator = torch.Generator().manual_seed(seed)
        alone = tiny_pipe(prompt, generator=generator, num_inference_steps=2, guidance_scale=3.0, output_type="pt")
        torch.testing.assert_close(picture, alone.images[0], atol=HALF_A_LEVEL, rtol=0)


def test_latents_are_what_the_decoder_would_get(tiny_pipe: Any) -> None:
    latents = draw(tiny_pipe, PROMPTS, [4, 5, 6], SAMPLING, latents=True)
    assert latents.shape == (3, 4, 8, 8)
    with torch.no_grad():
        decoded = tiny_pipe.vae.decode(latents / tiny_pipe.vae.config.scaling_factor).sample
    pictures = (decoded / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(draw(tiny_pipe, PROMPTS, [4, 5, 6], SAMPLING), pictures, atol=HALF_A_LEVEL, rtol=0)


def test_conditioning_draws_what_its_text_draws(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    cases = [Case(i, prompt, seed=i) for i, prompt in enumerate(PROMPTS)]
    with torch.no_grad():
        embeds, conditioning = backbone.embed(backbone.tokenize(PROMPTS)), backbone.condition(PROMPTS)
    kinds: dict[Any, Any] = {"text": PROMPTS, "token_embeddings": embeds, "conditioning": conditioning}
    expected = draw(tiny_pipe, PROMPTS, [0, 1, 2], SAMPLING)
    for kind, values in kinds.items():
        candidates = [Candidate(kind, value, 1) for value in values]
        torch.testing.assert_close(draw_candidates(tiny_pipe, cases, candidates, SAMPLING), expected, atol=1e-5, rtol=0)


def test_a_latent_is_where_the_picture_starts(tiny_pipe: Any) -> None:
    cases = [Case(i, prompt, seed=i) for i, prompt in enumerate(PROMPTS)]
    noise = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(40 + i)) for i in range(3)]
    drawn = draw_candidates(tiny_pipe, cases, [Candidate("latent", value, 1) for value in noise], SAMPLING)
    torch.testing.assert_close(drawn, draw(tiny_pipe, PROMPTS, [40, 41, 42], SAMPLING), atol=1e-5, rtol=0)


def test_a_latent_has_unit_variance_whatever_the_scheduler_multiplies_it_by(tiny_pipe: Any) -> None:
    scheduler: Any = EulerDiscreteScheduler
    tiny_pipe.scheduler = scheduler.from_config(tiny_pipe.scheduler.config)
    assert tiny_pipe.scheduler.init_noise_sigma > 5
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    drawn = draw(tiny_pipe, PROMPTS[:1], [9], SAMPLING, noise=noise)
    torch.testing.assert_close(drawn, draw(tiny_pipe, PROMPTS[:1], [4], SAMPLING), atol=1e-5, rtol=0)


def test_a_clean_latent_is_decoded_and_no_more(tiny_pipe: Any) -> None:
    latents = draw(tiny_pipe, PROMPTS, [4, 5, 6], SAMPLING, latents=True)
    cases = [Case(i, "another", seed=9) for i in range(3)]
    calls: list[object] = []
    handle = tiny_pipe.unet.register_forward_hook(lambda *args: calls.append(args))
    drawn = draw_candidates(tiny_pipe, cases, [Candidate("clean_latent", one, 1) for one in latents], SAMPLING)
    handle.remove()
    assert not calls
    torch.testing.assert_close(drawn, draw(tiny_pipe, PROMPTS, [4, 5, 6], SAMPLING), atol=1e-5, rtol=0)


def test_an_image_is_drawn_over_as_the_image_to_image_pipeline_does(tiny_pipe: Any) -> None:
    sampling = SamplingConfig(steps=4, guidance=3.0, batch=2)
    cases = [Case(i, prompt, seed=4 + i) for i, prompt in enumerate(PROMPTS)]
    images = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = draw_candidates(tiny_pipe, cases, [Candidate("image", one, 1, 0.5) for one in images], sampling)
    made: Any = StableDiffusionImg2ImgPipeline
    theirs = made(**tiny_pipe.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    for case, image, picture in zip(cases, images, drawn, strict=True):
        alone = theirs(
            case.prompt,
            image=image[None],
            strength=0.5,
            generator=torch.Generator().manual_seed(case.seed),
            num_inference_steps=4,
            guidance_scale=3.0,
            output_type="pt",
        )
        torch.testing.assert_close(picture, alone.images[0], atol=HALF_A_LEVEL, rtol=0)


def test_images_that_cannot_be_drawn_over_are_refused(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match=r"of 4 channels, which .* found 16"):
        redraw(tiny_pipe, ["a"], torch.zeros(1, 16, 8, 8), [0], SAMPLING, strength=1.0)
    with pytest.raises(ValueError, match=r"at least 1 of 2 steps, found 0\.4"):
        redraw(tiny_pipe, ["a"], torch.zeros(1, 4, 8, 8), [0], SAMPLING, strength=0.4)
    with pytest.raises(ValueError, match="found 1 prompts and 2 seeds"):
        redraw(tiny_pipe, ["a"], torch.zeros(1, 4, 8, 8), [0, 1], SAMPLING, strength=1.0)


def test_mixed_candidates_are_refused(tiny_pipe: Any) -> None:
    cases = [Case(0, "a", 0), Case(1, "b", 1)]
    text, image = Candidate("text", "a", 1), Candidate("image", torch.zeros(4, 8, 8), 1)
    with pytest.raises(ValueError, match=r"found \[\('image', 1.0\), \('text', 1.0\)\]"):
        draw_candidates(tiny_pipe, cases, [text, image], SAMPLING)
    with pytest.raises(ValueError, match="of one kind and strength"):
        draw_candidates(tiny_pipe, cases, [image, replace(image, strength=0.5)], SAMPLING)


def test_one_seed_per_prompt(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="found 3 prompts and 2 seeds"):
        draw(tiny_pipe, PROMPTS, [0, 1], SAMPLING)
    with pytest.raises(ValueError, match="found 0 prompts and 0 seeds"):
        draw(tiny_pipe, [], [], SAMPLING)


def test_the_progress_bar_setting_comes_back(tiny_pipe: Any) -> None:
    tiny_pipe.set_progress_bar_config(desc="mine")
    with quiet(tiny_pipe):
        assert tiny_pipe._progress_bar_config == {"disable": True}
    assert tiny_pipe._progress_bar_config == {"desc": "mine"}
    del tiny_pipe._progress_bar_config
    with quiet(tiny_pipe):
        pass
    assert not tiny_pipe._progress_bar_config


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(("kind", "strength"), [("text", 1.0), ("latent", 1.0), ("image", 0.5), ("clean_latent", 1.0)])
def test_the_cost_of_a_picture(tiny_pipe: Any, kind: Any, strength: float, guidance: float) -> None:
    calls = 0

    def count(module: object, args: tuple[torch.Tensor, ...], output: object) -> None:
        nonlocal calls
        calls += args[0].shape[0]

    sampling = SamplingConfig(steps=5, guidance=guidance)
    candidate = Candidate(kind, "a circle" if kind == "text" else torch.zeros(4, 8, 8), 1, strength)
    handle = tiny_pipe.unet.register_forward_hook(count)
    draw_candidates(tiny_pipe, [Case(i, "a", i) for i in range(3)], [candidate] * 3, sampling)
    handle.remove()
    assert calls == 3 * sampling.calls_for(candidate)
    assert (calls == 3 * sampling.calls_per_picture) == (kind in ("text", "latent"))


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="found 0 and 50"):
        SamplingConfig(steps=0)
