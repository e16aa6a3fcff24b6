"""Studios of the page on tiny pipelines, with a judge that sees brightness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor

from robust_encoders import Concept, RobustEncoder
from robust_encoders.loaded import LoadedArtifact
from robust_encoders.training.app.screen import Screen
from robust_encoders.training.app.studio import Studio
from robust_encoders.training.app.trials import Trial
from robust_encoders.training.diffusion.sampling import SamplingConfig, draw
from robust_encoders.training.protocols import Attack

SAMPLING = SamplingConfig(steps=2, guidance=2.0)
PROMPT = "a red circle"


class Brightness:
    """Finds the concept in pictures on the side of a level on which the base's picture lies."""

    name, version = "brightness", "1"

    def __init__(self, level: float, sign: float = 1.0) -> None:
        self.threshold, self.sign = sign * level, sign

    def __call__(self, images: Tensor) -> Tensor:
        return self.sign * images.mean((1, 2, 3))


def picture(pipe: Any, prompt: str = PROMPT, seed: int = 0, negative: str = "") -> Tensor:
    """Return the picture (3, H, W) that a pipeline draws."""
    return draw(pipe, [prompt], [seed], SAMPLING, negative=negative)[0]


def judge_between(pipe: Any, encoder: LoadedArtifact) -> Brightness:
    """Return a judge that finds the concept in the base's picture of ``PROMPT``, and not in the encoder's."""
    before = float(picture(pipe).mean())
    with encoder.attached(pipe):
        after = float(picture(pipe).mean())
    assert before != after
    return Brightness((before + after) / 2, 1.0 if before > after else -1.0)


def studio_of(
    pipe: Any,
    encoders: Mapping[str, LoadedArtifact],
    *,
    attacks: Mapping[str, Attack] | None = None,
    judge: Brightness | None = None,
    workers: int = 2,
    screen: Screen | None = None,
) -> Studio:
    """Return a studio whose judge and attacks are those of every concept of its encoders."""
    first = next(iter(encoders.values()))
    found = judge or judge_between(pipe, first)
    concepts: dict[str, Concept] = {one.manifest.concept.name: one.manifest.concept for one in encoders.values()}
    trials = {name: Trial(concept, found, attacks or {}) for name, concept in concepts.items()}
    return Studio(
        pipe,
        encoders,
        trials=trials,
        screen=screen or Screen(draws="coloured shapes"),
        sampling=SAMPLING,
        workers=workers,
        title="a tiny pipeline",
    )


def strong(encoder: RobustEncoder, factor: float = 20.0) -> RobustEncoder:
    """Return an encoder whose last norm is shifted, so that its pictures differ clearly from the base's."""
    tensors = dict(encoder.tensors)
    name = next(name for name in tensors if name.endswith("final_layer_norm.bias"))
    tensors[name] = tensors[name] + factor * torch.linspace(-1, 1, len(tensors[name]))
    return RobustEncoder(encoder.manifest, tensors, encoder.config)


def safety_checker(threshold: float) -> tuple[Any, Any]:
    """Return a tiny random safety checker that flags every picture above a cosine, and its image processor."""
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16, "projection_dim": 8,
    }  # fmt: skip
    made: Any = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    made.concept_embeds_weights.data.fill_(threshold)
    made.special_care_embeds_weights.data.fill_(1.0)
    made.concept_embeds.data.fill_(1.0)
    made.special_care_embeds.data.fill_(1.0)
    return made.eval(), CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
