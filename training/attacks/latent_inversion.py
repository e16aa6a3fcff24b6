"""Scope probe: start the pipeline from the very noise that leads to a picture of the concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from tqdm import tqdm

from ..diffusion.backbone import Backbone, Precision
from ..types import AttackResult, Candidate, Case
from .common.ddim_inversion import invert
from .common.denoising import chunks, clean_latents


@dataclass(frozen=True)
class LatentInversion:
    """Runs DDIM backwards from the base's own picture, through the model under attack, to a noise that leads there.

    Song et al. 2021, Eq. 12, solved for the noisier side (see ``invert``). TINA (CVPR 2026) and Memories of Forgotten
    Concepts (CVPR 2025) probe erased models this way. Departures: nothing is trained, no regulariser keeps the
    trajectory near a Gaussian's.

    Alone the rate says little: TINA+ shows that such an inversion rebuilds a picture even through a UNet of random
    weights. So each probe goes with its ``control``. Where that succeeds about as often, the picture is carried by the
    noise, and nothing follows about what the erased model still knows.

    Args:
        steps: Length of the grid of timesteps. With the prompt it should be the evaluation's, on which the pipeline
            then draws; Memories and TINA use 50.
        guidance: Classifier-free guidance scale, with the prompt the evaluation's too.
        refinements: Of every step, see ``invert``.
        text: ``prompt`` inverts under the target's own conditioning of the prompt and proposes the noise, for the
            pipeline to draw. ``empty`` inverts under the empty prompt and draws with it too, as TINA does, which leaves
            the text out of it altogether: guidance changes nothing, and the finished clean latent is proposed. To
            invert under the one and draw with the other would lose the picture at the first guided step.
        control: Goes through a UNet of the same configuration and random weights, backwards and forwards, and proposes
            the finished clean latent.
        precision: Of the UNet.
        batch: Cases inverted at once; no case's result depends on it beyond rounding.
    """

    name: ClassVar[str] = "latent_inversion"
    tier: ClassVar[str] = "T6"
    joint: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True

    steps: int = 15
    guidance: float = 4.0
    refinements: int = 3
    text: Literal["prompt", "empty"] = "prompt"
    control: bool = False
    precision: Precision = "fp32"
    batch: int = 50

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or self.refinements < 0:
            raise ValueError(f"expected steps and batch of at least 1 and refinements of at least 0, found {self}")

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Invert every case's picture.

        Args:
            target: The model under attack.
            cases: Prompts with their reference latents.
            seed: Of the run; it fixes the control's random weights, nothing else is random.

        Returns:
            One result per case with one initial latent (C, h, w), or one clean latent (C, h, w) where the attack draws.

        Raises:
            ValueError: If a case has no reference latent, or the schedule's steps cannot be undone.
        """
        model = random_unet(target, seed) if self.control else target
        model = model.sharing(precision=self.precision)
        parts = tqdm(list(chunks(len(cases), self.batch)), desc=self.name, leave=False, disable=None)
        with model.frozen(), torch.no_grad():
            found = [candidate for part in parts for candidate in self._together(model, cases[part])]
        # Every case costs the same.
        return [AttackResult((one,), queries=0, unet_calls=model.unet_calls // len(found)) for one in found]

    def _together(self, model: Backbone, cases: Sequence[Case]) -> list[Candidate]:
        null = model.condition([""])
        prompted = self.text == "prompt"
        cond = model.condition([case.prompt for case in cases]) if prompted else null.expand(len(cases), -1, -1)
        guidance = self.guidance if prompted else 1.0
        noise = invert(
            model,
            clean_latents(cases, model),
            cond,
            null=None if guidance == 1 else null,
            steps=self.steps,
            guidance=guidance,
            refinements=self.refinements,
        )
        if prompted and not self.control:
            return [Candidate("latent", latent, 1) for latent in noise]
        drawn = model.sample(cond, noise=noise, steps=self.steps, guidance=guidance, null=null)
        return [Candidate("clean_latent", latent, 1) for latent in drawn]


def random_unet(model: Backbone, seed: int) -> Backbone:
    """Return a backbone with the same text encoder and a UNet of the same configuration, its weights drawn anew."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the accelerators, which stay so
        unet = type(model.unet).from_config(model.unet.config)
    return Backbone(model.tokenizer, model.text_encoder, unet.to(model.device, model.dtype), model.scheduler)
