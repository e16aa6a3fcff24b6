"""Scope probe: hand the pipeline the base's own conditioning, past the hardened encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..diffusion.target import TargetModel
from ..types import AttackResult, AttackUse, Candidate, Case


@dataclass(frozen=True)
class PromptEmbeds:
    """What nobody can defend by replacing a text encoder: ``pipe(prompt_embeds=..., negative_prompt_embeds=...)``.

    Both conditionings, the prompt's and the empty prompt's, come from the base's encoder, so the picture is the base's
    own up to rounding, and the rate equals the base's pre-ASR. It is measured so that nobody takes a hardened encoder
    for a lock. To run it takes the base's encoder, which is why its tier is that of access to weights, T7: it is not
    the T4 of embeddings at the encoder's input, which pass through the encoder.
    """

    name: ClassVar[str] = "prompt_embeds"
    tier: ClassVar[str] = "T7"
    joint: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    uses: ClassVar[tuple[AttackUse, ...]] = ("base",)

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Encode every prompt with the base.

        Args:
            target: The model under attack, with its base; only the base's encoder is used.
            cases: Prompts; no reference latents are needed.
            seed: Unused, nothing is random.

        Returns:
            One result per case with one conditioning (2, L, D): the empty prompt's and the prompt's.

        Raises:
            ValueError: If the target comes without its base.
        """
        with target.base.frozen(), torch.no_grad():
            null = target.base.condition([""])[0]
            found = [torch.stack([null, target.base.condition([case.wanted])[0]]) for case in cases]
        return [AttackResult((Candidate("conditioning", value, 1),), queries=0, unet_calls=0) for value in found]
