"""Accuracy of the judge on pictures and of the base on prompts, for each label; 1 is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from .corpus import UNSTATED, Corpus, Pictures, Prompt, Reader

STEPS = 15
GUIDANCE = 4.0


def judge_accuracy(corpus: Corpus, judge: Reader, pictures: Pictures) -> dict[str, float]:
    """Return the share of pictures, by label, in which the judge's answer is theirs; unstated labels do not count."""
    found = judge.probabilities(pictures.images.float() / 255)
    accuracy = {}
    for i, label in enumerate(corpus.labels):
        stated = pictures.labels[:, i] != UNSTATED
        right = found[label].argmax(1)[stated] == pictures.labels[stated, i]
        accuracy[label] = float(right.double().mean())
    return accuracy


@torch.no_grad()
def draw(
    pipe: Any, prompts: Sequence[str], *, seed: int, steps: int = STEPS, guidance: float = GUIDANCE, batch: int = 32
) -> Tensor:
    """Draw a picture for each of B prompts and return them (B, 3, H, W) in [0, 1]; prompt i has seed ``seed + i``."""
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


def prompt_accuracy(judge: Reader, images: Tensor, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return the share of pictures with the value that their prompt states, by label, over prompts that state it."""
    hits: Mapping[str, list[bool]] = {
        label: [found[i] == prompt.expected[label] for i, prompt in enumerate(prompts) if label in prompt.expected]
        for label, found in judge(images).items()
    }
    return {label: sum(hit) / len(hit) for label, hit in hits.items() if hit}


def base_accuracy(corpus: Corpus, pipe: Any, judge: Reader, *, n: int, seed: int) -> dict[str, float]:
    """Return the base's accuracy, by label: the share of ``n`` drawn pictures that show their prompt's values.

    The prompts are captions that no training used; the judge names the values in the pictures.
    """
    prompts = corpus.prompts(n, seed=seed)
    return prompt_accuracy(judge, draw(pipe, [prompt.text for prompt in prompts], seed=seed), prompts)
