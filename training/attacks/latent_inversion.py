"""Inversion of a picture of the concept into initial noise: a probe of what no text encoder can prevent."""

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
    """Attack that runs DDIM backwards through the model under attack, from the base's picture to an initial noise.

    Song et al. 2021, Eq. 12, solved for the noisier latent (see ``invert``). TINA (CVPR 2026) and Memories of Forgotten
    Concepts (CVPR 2025) probe erased models this way. Departures: nothing is trained, and no regulariser keeps the
    trajectory near that of Gaussian noise.

    The success rate alone says little. TINA+ shows that such an inversion reconstructs a picture even through a UNet
    with random weights. So each probe runs together with its ``control``. If the control succeeds about as often, the
    noise carries the picture, and the rate says nothing about the knowledge left in the erased model.

    Args:
        steps: Number of timesteps of the grid. With ``text`` at ``prompt``, it should equal the steps of the
            evaluation, since the pipeline draws on that grid; Memories and TINA use 50.
        guidance: Classifier-free guidance scale. With ``text`` at ``prompt``, it should equal that of the evaluation.
        refinements: Number of refinements of every step, see ``invert``.
        text: Prompt to invert and draw with: ``prompt`` for the case's prompt, ``empty`` for the empty prompt. With
            ``prompt``, the attack inverts under the target's conditioning and proposes the noise, from which the
            pipeline draws. With ``empty``, the attack inverts and draws, as TINA does, and proposes the finished clean
            latent; guidance has no effect then. The two prompts cannot be mixed: a guided step with another prompt than
            that of the inversion would lose the picture.
        control: True to invert and draw through a UNet with the same configuration and random weights, and to propose
            the finished clean latent.
        precision: Precision of the UNet: ``fp32``, or ``bf16`` or ``fp16`` by autocast.
        batch: Number of cases inverted at once; it changes a case's result only by rounding.
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
        """Invert the picture of every case.

        Args:
            target: Model under attack.
            cases: Cases with their reference latents.
            seed: Seed of the run; it fixes the random weights of the control, and nothing else is random.

        Returns:
            One result per case with one initial latent (C, h, w), or with one clean latent (C, h, w) if the attack
            itself draws.

        Raises:
            ValueError: If a case has no reference latent, or the steps of the schedule cannot be inverted.
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
    """Return a backbone with the same text encoder and a UNet of the same configuration with new random weights."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the accelerators, whose state is not restored afterwards.
        torch.default_generator.manual_seed(seed)
        unet = type(model.unet).from_config(model.unet.config)
    return Backbone(model.tokenizer, model.text_encoder, unet.to(model.device, model.dtype), model.scheduler)
