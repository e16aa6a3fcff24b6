"""Image-to-image from a picture that already shows the concept: a probe of what no text encoder can prevent."""

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
    """Attack that noises a picture of the concept, drawn by the base, and lets the model under attack denoise it.

    SDEdit (Meng et al., ICLR 2022). The concept comes from the picture, not from the text encoder. Yet the text has an
    influence: if a hardened encoder gives the prompt another meaning, the model draws that meaning over the picture. An
    attacker needs no text, so the empty prompt is the default. Both settings of ``text`` add the noise of the case's
    own seed.

    Args:
        strength: Share of the noise schedule that is run, in (0, 1]; 1 keeps almost nothing of the picture.
        text: Prompt to draw with: ``prompt`` for the case's prompt, ``empty`` for the empty prompt. With ``prompt`` the
            pipeline draws, with the sampling settings of the evaluation. With ``empty`` the attack draws by DDIM, and
            guidance has no effect.
        steps: Number of timesteps of the whole grid, of which ``int(steps * strength)`` are run; only for ``empty``.
        batch: Number of cases drawn at once; it changes a case's result only by rounding.
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
        """Propose the picture of every case.

        Args:
            target: Model under attack.
            cases: Cases with their reference latents.
            seed: Unused; the noise comes from each case's own seed.

        Returns:
            One result per case. With ``prompt``, its candidate is one image (C, h, w) that the pipeline is still to
            draw over, at no cost so far. With ``empty``, its candidate is one finished clean latent (C, h, w).

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
