"""Bypass of the hardened encoder by the base's conditioning: a probe of what no text encoder can prevent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..diffusion.target import TargetModel
from ..types import AttackResult, AttackUse, Candidate, Case


@dataclass(frozen=True)
class PromptEmbeds:
    """Attack that passes the base's conditioning to the pipeline, which bypasses the hardened text encoder.

    It calls ``pipe(prompt_embeds=..., negative_prompt_embeds=...)``. No replacement of a text encoder can prevent this.
    The conditionings of the prompt and of the empty prompt both come from the base's encoder. So the picture equals the
    base's picture up to rounding, and the success rate equals that of the base without an attack (its pre-ASR). The
    attack shows the limit of any hardened encoder. It needs the weights of the base's encoder, so its tier is T7. Tier
    T4 would be wrong: it covers embeddings at the encoder's input, which pass through the encoder.
    """

    name: ClassVar[str] = "prompt_embeds"
    tier: ClassVar[str] = "T7"
    joint: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    uses: ClassVar[tuple[AttackUse, ...]] = ("base",)

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Encode every prompt with the base's text encoder.

        Args:
            target: Model under attack, with its base; only the base's text encoder is used.
            cases: Cases; their reference latents are not needed.
            seed: Unused; nothing is random.

        Returns:
            One result per case with one conditioning (2, L, D): that of the empty prompt, then that of the prompt.

        Raises:
            ValueError: If the target has no base.
        """
        with target.base.frozen(), torch.no_grad():
            null = target.base.condition([""])[0]
            found = [torch.stack([null, target.base.condition([case.wanted])[0]]) for case in cases]
        return [AttackResult((Candidate("conditioning", value, 1),), queries=0, unet_calls=0) for value in found]
