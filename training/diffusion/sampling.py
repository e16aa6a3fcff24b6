"""Drawing with the diffusers pipeline itself, batched, every picture from its own seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..types import Candidate, Case
from .backbone import Backbone


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures are drawn.

    Args:
        steps: Steps of the pipeline's own scheduler.
        guidance: Classifier-free guidance scale.
        batch: Pictures drawn at once; no picture depends on it beyond rounding.
    """

    steps: int = 15
    guidance: float = 4.0
    batch: int = 50

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"expected steps and batch of at least 1, found {self.steps} and {self.batch}")

    @property
    def calls_per_picture(self) -> int:
        """UNet forwards on one latent that a picture costs."""
        return self.steps * (2 if self.guidance > 1 else 1)

    def calls_for(self, candidate: Candidate) -> int:
        """UNet forwards on one latent that the picture of an attack's candidate costs."""
        if candidate.kind == "clean_latent":
            return 0
        steps = int(self.steps * candidate.strength) if candidate.kind == "image" else self.steps
        return self.calls_per_picture // self.steps * steps


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """Silence the pipeline's own progress bar within the scope."""
    before = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipe._progress_bar_config = {} if before is None else before


def draw(
    pipe: Any,
    prompts: Sequence[str] | Tensor,
    seeds: Sequence[int],
    sampling: SamplingConfig,
    *,
    latents: bool = False,
    negative: str = "",
    noise: Tensor | None = None,
) -> Tensor:
    """Draw one picture per prompt.

    Args:
        pipe: A diffusers text-to-image pipeline.
        prompts: B texts, or their conditioning (B, L, D), or (B, 2, L, D) with that of the empty prompt before each;
            otherwise the pipeline's own encoder gives the empty prompt's.
        seeds: B seeds of the initial latents, drawn on the CPU.
        sampling: Steps, guidance, batch.
        latents: Return the clean latents that the UNet ended at instead of decoding them.
        negative: Negative prompt of all pictures.
        noise: Initial latents (B, C, h, w) in place of those of the seeds, of unit variance: the pipeline multiplies
            them by its scheduler's ``init_noise_sigma``, as it does with its own.

    Returns:
        Pictures (B, 3, H, W) in [0, 1], rounded to the 256 levels that a picture file has, or latents (B, C, h, w), in
        float32 on the CPU.

    Raises:
        ValueError: If there is not one seed per prompt, or no prompt.
    """
    _one_seed_each(prompts, seeds)

    def arguments(part: slice) -> dict[str, Any]:
        given = {} if noise is None else {"latents": noise[part].to(pipe.unet.dtype)}
        return {
            **_arguments(prompts[part]),
            **given,
            "negative_prompt": [negative] * len(seeds[part]) if negative else None,
        }

    pictures = _batched(pipe, arguments, seeds, sampling, "latent" if latents else "pt")
    return pictures if latents else unpacked(packed(pictures))


def redraw(
    pipe: Any,
    prompts: Sequence[str],
    images: Tensor,
    seeds: Sequence[int],
    sampling: SamplingConfig,
    *,
    strength: float,
) -> Tensor:
    """Draw one picture per prompt from an input picture, by diffusers' image-to-image on the pipeline's own modules.

    SDEdit (Meng et al., ICLR 2022): noise to the level that ``strength`` says, then ``int(steps * strength)`` steps.

    Args:
        pipe: A Stable Diffusion pipeline of text to image.
        prompts: B texts.
        images: Clean latents (B, 4, h, w) of the input pictures. They skip the VAE's encoder, which diffusers would
            only use on anything but 4 channels.
        seeds: B seeds of the noise.
        sampling: Steps, guidance, batch.
        strength: In (0, 1].

    Returns:
        Pictures (B, 3, H, W) in [0, 1], in float32 on the CPU.

    Raises:
        ValueError: If there is not one seed per prompt, the latents have other than 4 channels, or no step is left.
    """
    _one_seed_each(prompts, seeds)
    if images.shape[1] != 4:
        raise ValueError(
            f"expected latents of 4 channels, which diffusers' image-to-image knows from pictures, found "
            f"{images.shape[1]}: this probe is only for VAEs with 4 latent channels"
        )
    if int(sampling.steps * strength) < 1:
        raise ValueError(
            f"expected a strength that leaves at least 1 of {sampling.steps} steps, found {strength}: raise it"
        )
    from diffusers import StableDiffusionImg2ImgPipeline  # needs accelerate, other evaluations do not

    made: Any = StableDiffusionImg2ImgPipeline
    redrawing = made(**pipe.components, requires_safety_checker=False)

    def arguments(part: slice) -> dict[str, Any]:
        return {"prompt": [*prompts[part]], "image": images[part], "strength": strength}

    return unpacked(packed(_batched(redrawing, arguments, seeds, sampling, "pt")))


@torch.no_grad()
def decode(pipe: Any, latents: Tensor, sampling: SamplingConfig) -> Tensor:
    """Return the pictures (B, 3, H, W) in [0, 1] of clean latents (B, C, h, w), decoded as the pipeline decodes them.

    A safety checker is not asked.
    """
    parts = []
    for start in range(0, len(latents), sampling.batch):
        placed = latents[start : start + sampling.batch].to(pipe._execution_device, pipe.vae.dtype)
        decoded = pipe.vae.decode(placed / pipe.vae.config.scaling_factor, return_dict=False)[0]
        parts.append(decoded.float().cpu() / 2 + 0.5)
    return unpacked(packed(torch.cat(parts)))


def _one_seed_each(prompts: Sequence[str] | Tensor, seeds: Sequence[int]) -> None:
    if len(seeds) != len(prompts) or not len(seeds):
        raise ValueError(f"expected one seed for each of one or more prompts, found {len(prompts)} and {len(seeds)}")


def _batched(
    pipe: Any, arguments: Callable[[slice], dict[str, Any]], seeds: Sequence[int], sampling: SamplingConfig, output: str
) -> Tensor:
    parts = []
    with quiet(pipe):
        for start in range(0, len(seeds), sampling.batch):
            part = slice(start, start + sampling.batch)
            drawn = pipe(
                **arguments(part),
                generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                output_type=output,
            ).images
            parts.append(drawn.detach().float().cpu())
    return torch.cat(parts)


def packed(pictures: Tensor) -> Tensor:
    """Return pictures in [0, 1] as bytes of the same shape."""
    return (pictures.clamp(0, 1) * 255).round().byte()


def unpacked(pictures: Tensor) -> Tensor:
    """Return pictures of bytes in [0, 1]."""
    return pictures.float() / 255


def _arguments(prompts: Sequence[str] | Tensor) -> dict[str, Any]:
    if not isinstance(prompts, Tensor):
        return {"prompt": [*prompts]}
    if prompts.ndim == 4:
        return {"negative_prompt_embeds": prompts[:, 0], "prompt_embeds": prompts[:, 1]}
    return {"prompt_embeds": prompts}


def draw_candidates(
    pipe: Any, cases: Sequence[Case], candidates: Sequence[Candidate], sampling: SamplingConfig
) -> Tensor:
    """Draw one picture (B, 3, H, W) in [0, 1] per case from an attack's candidate, with the case's own seed.

    Candidates of the kinds latent and image take the case's own prompt.

    Raises:
        ValueError: If the candidates are of several kinds, or of several strengths.
    """
    looks = sorted({(candidate.kind, candidate.strength) for candidate in candidates})
    if len(looks) != 1:
        raise ValueError(
            f"expected candidates of one kind and strength, found {looks}; draw those of each kind by themselves"
        )
    kind, strength = looks[0]
    prompts, seeds = [case.prompt for case in cases], [case.seed for case in cases]
    if kind == "text":
        return draw(pipe, [str(candidate.value) for candidate in candidates], seeds, sampling)
    values = torch.stack([candidate.value for candidate in candidates if isinstance(candidate.value, Tensor)])
    if kind == "clean_latent":
        return decode(pipe, values, sampling)
    if kind == "latent":
        return draw(pipe, prompts, seeds, sampling, noise=values)
    if kind == "image":
        return redraw(pipe, prompts, values, seeds, sampling, strength=strength)
    return draw(pipe, _encode(pipe, prompts, values) if kind == "token_embeddings" else values, seeds, sampling)


@torch.no_grad()
def _encode(pipe: Any, prompts: Sequence[str], embeds: Tensor) -> Tensor:
    backbone = Backbone.from_pipeline(pipe)
    # The ids only say where a text ends, which the last hidden state does not depend on.
    return backbone.encode(embeds, backbone.tokenize(prompts))
