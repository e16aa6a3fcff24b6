"""Drawing of pictures with the diffusers pipeline itself, in batches, each picture from its own seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robust_encoders.utils.text_lists import require_texts

from ..types import Candidate, Case
from .backbone import Backbone


@dataclass(frozen=True)
class SamplingConfig:
    """Settings for drawing pictures.

    Args:
        steps: Number of steps of the pipeline's own scheduler.
        guidance: Classifier-free guidance scale.
        batch: Number of pictures drawn at once; it changes a picture only by rounding.
    """

    steps: int = 15
    guidance: float = 4.0
    batch: int = 50

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"expected steps and batch of at least 1, found {self.steps} and {self.batch}")

    @property
    def calls_per_picture(self) -> int:
        """Number of UNet forward passes on one latent per picture."""
        return self.steps * (2 if self.guidance > 1 else 1)

    def calls_for(self, candidate: Candidate) -> int:
        """Return the number of UNet forward passes on one latent for the picture of an attack's candidate."""
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
    negative: str | Sequence[str] = "",
    noise: Tensor | None = None,
) -> Tensor:
    """Draw one picture per prompt.

    Args:
        pipe: A diffusers text-to-image pipeline.
        prompts: B texts, or their conditioning (B, L, D), or (B, 2, L, D) with the conditioning of the empty prompt
            before that of each text. Unless given, the pipeline's own encoder computes that of the empty prompt.
        seeds: Seeds of the B initial latents, which are drawn on the CPU.
        sampling: Steps, guidance and batch size.
        latents: True to return the final clean latents without decoding them.
        negative: Negative prompt of all pictures, or one for each; empty for none.
        noise: Initial latents (B, C, h, w) of unit variance, used instead of those of the seeds. The pipeline
            multiplies them by its scheduler's ``init_noise_sigma``, as it does with its own.

    Returns:
        Pictures (B, 3, H, W) in [0, 1], rounded to the 256 levels of a picture file, or latents (B, C, h, w); both in
        float32 on the CPU.

    Raises:
        TextListError: If the prompts are one string.
        ValueError: If there is not one seed per prompt, no prompt, or not one negative prompt for each of several.
    """
    if not isinstance(prompts, Tensor):
        require_texts("prompts", prompts)
    _one_seed_each(prompts, seeds)
    pushed = [negative] * len(seeds) if isinstance(negative, str) else [*negative]
    if len(pushed) != len(seeds):
        raise ValueError(f"expected one negative prompt for each of {len(seeds)} prompts, found {len(pushed)}")

    def arguments(part: slice) -> dict[str, Any]:
        given = {} if noise is None else {"latents": noise[part].to(pipe.unet.dtype)}
        return {
            **_arguments(prompts[part]),
            **given,
            "negative_prompt": pushed[part] if any(pushed) else None,
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

    SDEdit (Meng et al., ICLR 2022): the input picture is noised to the level given by ``strength``, then denoised in
    ``int(steps * strength)`` steps.

    Args:
        pipe: A Stable Diffusion text-to-image pipeline.
        prompts: B texts.
        images: Clean latents (B, 4, h, w) of the input pictures. diffusers recognises latents by their 4 channels and
            does not pass them through the encoder of the VAE.
        seeds: Seeds of the noise, one per prompt.
        sampling: Steps, guidance and batch size.
        strength: Share of the steps that are run, in (0, 1]; 1 keeps almost nothing of the input picture.

    Returns:
        Pictures (B, 3, H, W) in [0, 1], in float32 on the CPU.

    Raises:
        ValueError: If there is not one seed per prompt, the latents do not have 4 channels, or no step is left.
    """
    _one_seed_each(prompts, seeds)
    if images.shape[1] != 4:
        raise ValueError(
            f"expected latents of 4 channels, which diffusers' image-to-image can tell from pictures, found "
            f"{images.shape[1]}: use this attack only with VAEs of 4 latent channels"
        )
    if int(sampling.steps * strength) < 1:
        raise ValueError(
            f"expected a strength that leaves at least 1 of {sampling.steps} steps, found {strength}: raise the "
            "strength or the number of steps"
        )
    from diffusers import StableDiffusionImg2ImgPipeline  # needs accelerate, which other evaluations do not need

    made: Any = StableDiffusionImg2ImgPipeline
    redrawing = made(**pipe.components, requires_safety_checker=False)

    def arguments(part: slice) -> dict[str, Any]:
        return {"prompt": [*prompts[part]], "image": images[part], "strength": strength}

    return unpacked(packed(_batched(redrawing, arguments, seeds, sampling, "pt")))


@torch.no_grad()
def decode(pipe: Any, latents: Tensor, sampling: SamplingConfig) -> Tensor:
    """Return the pictures (B, 3, H, W) in [0, 1] of clean latents (B, C, h, w), decoded as in the pipeline.

    The safety checker is not used.
    """
    parts = []
    for start in range(0, len(latents), sampling.batch):
        placed = latents[start : start + sampling.batch].to(pipe._execution_device, pipe.vae.dtype)
        decoded = pipe.vae.decode(placed / pipe.vae.config.scaling_factor, return_dict=False)[0]
        parts.append(decoded.float().cpu() / 2 + 0.5)
    return unpacked(packed(torch.cat(parts)))


def _one_seed_each(prompts: Sequence[str] | Tensor, seeds: Sequence[int]) -> None:
    if len(seeds) != len(prompts) or not len(seeds):
        raise ValueError(
            f"expected at least one prompt and one seed for each, found {len(prompts)} prompts and {len(seeds)} seeds"
        )


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
    """Return pictures in [0, 1] as a tensor of bytes with the same shape."""
    return (pictures.clamp(0, 1) * 255).round().byte()


def unpacked(pictures: Tensor) -> Tensor:
    """Return pictures given as bytes as a float32 tensor in [0, 1]."""
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

    Candidates of the kinds ``latent`` and ``image`` are drawn with the case's own prompt.

    Raises:
        ValueError: If the candidates differ in kind or in strength.
    """
    looks = sorted({(candidate.kind, candidate.strength) for candidate in candidates})
    if len(looks) != 1:
        raise ValueError(
            f"expected candidates of one kind and strength, found {looks}; draw each kind and strength separately"
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
    # The ids only mark the end of a text, and the last hidden state does not depend on it.
    return backbone.encode(embeds, backbone.tokenize(prompts))
