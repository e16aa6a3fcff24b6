"""Drawing with the diffusers pipeline itself, batched, every picture from its own seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .backbone import Backbone
from .protocols import Candidate, Case


@dataclass(frozen=True)
class Sampling:
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
    sampling: Sampling,
    *,
    latents: bool = False,
    negative: str = "",
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

    Returns:
        Pictures (B, 3, H, W) in [0, 1], rounded to the 256 levels that a picture file has, or latents (B, C, h, w), in
        float32 on the CPU.

    Raises:
        ValueError: If there is not one seed per prompt, or no prompt.
    """
    if len(seeds) != len(prompts) or not len(seeds):
        raise ValueError(f"expected one seed for each of one or more prompts, found {len(prompts)} and {len(seeds)}")
    parts = []
    with quiet(pipe):
        for start in range(0, len(seeds), sampling.batch):
            part = slice(start, start + sampling.batch)
            drawn = pipe(
                **_arguments(prompts[part]),
                negative_prompt=[negative] * len(seeds[part]) if negative else None,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                output_type="latent" if latents else "pt",
            ).images
            parts.append(drawn.detach().float().cpu())
    pictures = torch.cat(parts)
    return pictures if latents else unpacked(packed(pictures))


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


def draw_candidates(pipe: Any, cases: Sequence[Case], candidates: Sequence[Candidate], sampling: Sampling) -> Tensor:
    """Draw one picture (B, 3, H, W) in [0, 1] per case from an attack's candidate, with the case's own seed.

    Raises:
        ValueError: If the candidates are of several kinds, or of one that is not drawn from a prompt.
    """
    return draw(pipe, _inputs(pipe, cases, candidates), [case.seed for case in cases], sampling)


def _inputs(pipe: Any, cases: Sequence[Case], candidates: Sequence[Candidate]) -> list[str] | Tensor:
    kinds = {candidate.kind for candidate in candidates}
    if kinds == {"text"}:
        return [str(candidate.value) for candidate in candidates]
    values = [candidate.value for candidate in candidates if isinstance(candidate.value, Tensor)]
    if kinds == {"conditioning"}:
        return torch.stack(values)
    if kinds == {"token_embeddings"}:
        return _encode(pipe, [case.prompt for case in cases], torch.stack(values))
    raise ValueError(
        f"expected candidates of one kind among text, token_embeddings and conditioning, found {sorted(kinds)}; "
        "draw pictures of other kinds outside of the pipeline"
    )


@torch.no_grad()
def _encode(pipe: Any, prompts: Sequence[str], embeds: Tensor) -> Tensor:
    backbone = Backbone.from_pipeline(pipe)
    # The ids only say where a text ends, which the last hidden state does not depend on.
    return backbone.encode(embeds, backbone.tokenize(prompts))
