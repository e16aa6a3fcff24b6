"""Pictures come from the pipeline itself, each from its own seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robust_encoders.training.backbone import Backbone
from robust_encoders.training.pictures import Sampling, draw, draw_candidates, quiet
from robust_encoders.training.protocols import Candidate, Case

SAMPLING = Sampling(steps=2, guidance=3.0, batch=2)
PROMPTS = ["a red circle", "a blue square", "ring"]


def test_a_batch_equals_the_pipelines_own_pictures(tiny_pipe: Any) -> None:
    drawn = draw(tiny_pipe, PROMPTS, [4, 5, 6], SAMPLING)
    assert drawn.shape == (3, 3, 16, 16)
    for prompt, seed, picture in zip(PROMPTS, (4, 5, 6), drawn, strict=True):
        generator = torch.Generator().manual_seed(seed)
        alone = tiny_pipe(prompt, generator=generator, num_inference_steps=2, guidance_scale=3.0, output_type="pt")
        torch.testing.assert_close(picture, alone.images[0], atol=1e-5, rtol=0)


def test_latents_are_what_the_decoder_would_get(tiny_pipe: Any) -> None:
    latents = draw(tiny_pipe, PROMPTS, [4, 5, 6], SAMPLING, latents=True)
    assert latents.shape == (3, 4, 8, 8)
    with torch.no_grad():
        decoded = tiny_pipe.vae.decode(latents / tiny_pipe.vae.config.scaling_factor).sample
    pictures = (decoded / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(draw(tiny_pipe, PROMPTS, [4, 5, 6], SAMPLING), pictures, atol=1e-5, rtol=0)


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


def test_mixed_or_undrawable_candidates_are_refused(tiny_pipe: Any) -> None:
    cases = [Case(0, "a", 0), Case(1, "b", 1)]
    text, image = Candidate("text", "a", 1), Candidate("image", torch.zeros(3, 4, 4), 1)
    with pytest.raises(ValueError, match=r"found \['image', 'text'\]"):
        draw_candidates(tiny_pipe, cases, [text, image], SAMPLING)
    with pytest.raises(ValueError, match="outside of the pipeline"):
        draw_candidates(tiny_pipe, cases, [image, image], SAMPLING)


def test_one_seed_per_prompt(tiny_pipe: Any) -> None:
    with pytest.raises(ValueError, match="found 3 and 2"):
        draw(tiny_pipe, PROMPTS, [0, 1], SAMPLING)
    with pytest.raises(ValueError, match="found 0 and 0"):
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


def test_the_cost_of_a_picture(tiny_pipe: Any) -> None:
    calls = 0

    def count(module: object, args: tuple[torch.Tensor, ...], output: object) -> None:
        nonlocal calls
        calls += args[0].shape[0]

    handle = tiny_pipe.unet.register_forward_hook(count)
    for guidance in (1.0, 3.0):
        sampling = Sampling(steps=2, guidance=guidance)
        calls = 0
        draw(tiny_pipe, PROMPTS, [0, 1, 2], sampling)
        assert calls == 3 * sampling.calls_per_picture
    handle.remove()


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="found 0 and 50"):
        Sampling(steps=0)
