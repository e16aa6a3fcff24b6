"""How well the judge reads renders and the base draws prompts: accuracy factor by factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from ..shapes.captions import ScenePrompt, scene_prompts
from ..shapes.judge import Judge
from ..shapes.pictures import render_pictures
from ..shapes.vocabulary import FACTORS, VALUES

STEPS = 15
GUIDANCE = 4.0


def judge_accuracy(judge: Judge, *, n: int, seed: int) -> dict[str, float]:
    """Return factor to the judge's accuracy on ``n`` fresh renders."""
    pictures = render_pictures(n, seed=seed)
    probabilities = judge.probabilities(pictures.images.float() / 255)
    return {
        factor: float((probabilities[factor].argmax(1) == pictures.labels[:, i]).double().mean())
        for i, factor in enumerate(FACTORS)
    }


@torch.no_grad()
def draw(
    pipe: Any, prompts: Sequence[str], *, seed: int, steps: int = STEPS, guidance: float = GUIDANCE, batch: int = 32
) -> Tensor:
    """Draw one picture per prompt, each with its own seed ``seed + i``, and return them (B, 3, 32, 32) in [0, 1]."""
    pictures = []
    pipe.set_progress_bar_config(disable=True)
    for start in tqdm(range(0, len(prompts), batch), desc="draw", disable=len(prompts) <= 4 * batch):
        part = list(prompts[start : start + batch])
        generators = [Generator().manual_seed(seed + start + i) for i in range(len(part))]
        pictures.append(
            pipe(
                part, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="pt"
            ).images.clamp(0, 1)
        )
    return torch.cat(pictures)


def prompt_accuracy(judge: Judge, images: Tensor, prompts: Sequence[ScenePrompt]) -> dict[str, float]:
    """Return factor to the share of pictures that show what their prompt states, where it states that factor."""
    found = judge(images)
    hits: Mapping[str, list[bool]] = {
        factor: [
            found[factor][i] == prompt.expected[factor] for i, prompt in enumerate(prompts) if factor in prompt.expected
        ]
        for factor in VALUES
    }
    return {factor: sum(hit) / len(hit) for factor, hit in hits.items() if hit}


def base_accuracy(pipe: Any, judge: Judge, *, n: int, seed: int) -> dict[str, float]:
    """Return factor to the judge's accuracy on ``n`` pictures that ``pipe`` draws from held-out templates."""
    prompts = scene_prompts(n, seed=seed)
    return prompt_accuracy(judge, draw(pipe, [prompt.text for prompt in prompts], seed=seed), prompts)
