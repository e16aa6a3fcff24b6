"""Scope probe: image-to-image from a picture that already shows the concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from ..diffusion.backbone import Backbone
from ..types import AttackResult, Candidate, Case
from .common.ddim_inversion import redrawn
from .common.denoising import chunks, clean_latents, draw_noise


@dataclass(frozen=True)
class Img2Img:
    """The attacker has a picture of the concept, the base's own, and has the model under attack draw it over.

    SDEdit (Meng et al., ICLR 2022). What it brings back it has not got from the text encoder, yet the text takes part:
    a hardened encoder whose prompt means something else draws this over the picture. An attacker does not have to say
    anything, so the empty prompt is the default. Both add the noise of the case's own seed.

    Args:
        strength: How much of the noise schedule is run, in (0, 1]; 1 keeps next to nothing of the picture.
        text: ``prompt`` leaves the drawing to the pipeline, with the case's prompt and the evaluation's sampling.
            ``empty`` draws with the empty prompt, for which guidance changes nothing, by DDIM.
        steps: Length of the whole grid of timesteps, of which ``int(steps * strength)`` are run; only for ``empty``.
        batch: Cases drawn at once; no case's result depends on it beyond rounding.
    """

    name: ClassVar[str] = "img2img"
    tier: ClassVar[str] = "T5"
    joint: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True

    strength: float = 0.6
    text: Literal["prompt", "empty"] = "empty"
    steps: int = 15
    batch: int = 50

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1 or int(self.steps * self.strength) < 1 or self.batch < 1:
            raise ValueError(
                f"expected a strength in (0, 1] that leaves at least one of the steps, and batch >= 1, found {self}"
            )

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Hand over every case's picture.

        Args:
            target: The model under attack.
            cases: Prompts with their reference latents.
            seed: Unused, the noise comes from each case's own seed.

        Returns:
            One result per case with one image (C, h, w), still to be drawn over at no cost so far, or, with the empty
            prompt, one clean latent (C, h, w).

        Raises:
            ValueError: If a case has no reference latent.
        """
        images = clean_latents(cases, target)
        if self.text == "prompt":
            return [self._result("image", image, self.strength, 0) for image in images]
        parts = tqdm(list(chunks(len(cases), self.batch)), desc=self.name, leave=False, disable=None)
        with target.frozen():
            drawn = torch.cat([self._drawn(target, cases[part], images[part]) for part in parts])
        return [self._result("clean_latent", latent, 1.0, int(self.steps * self.strength)) for latent in drawn]

    def _drawn(self, target: Backbone, cases: Sequence[Case], images: Tensor) -> Tensor:
        noise = draw_noise(images, [torch.Generator().manual_seed(case.seed) for case in cases])
        with torch.no_grad():
            null = target.condition([""]).expand(len(cases), -1, -1)
        return redrawn(target, images, noise, null, steps=self.steps, strength=self.strength)

    def _result(
        self, kind: Literal["image", "clean_latent"], value: Tensor, strength: float, calls: int
    ) -> AttackResult:
        return AttackResult((Candidate(kind, value, 1, strength),), queries=0, unet_calls=calls)
