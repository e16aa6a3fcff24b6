"""No attack: the prompt as it is, so that a suite of attacks begins at what an encoder does by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..diffusion.backbone import Backbone
from ..types import AttackResult, AttackUse, Candidate, Case


@dataclass(frozen=True)
class NoAttack:
    """Proposes the unchanged prompt: its rate is that of the prompts themselves, and no attack may fall below it."""

    name: ClassVar[str] = "none"
    tier: ClassVar[str] = "T0"
    joint: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    searches: ClassVar[bool] = False
    uses: ClassVar[tuple[AttackUse, ...]] = ()

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Propose every prompt as it is.

        Args:
            target: Unused.
            cases: Prompts; no reference latents are needed.
            seed: Unused, nothing is random.

        Returns:
            One result per case with its prompt as the only text, at no cost.
        """
        return [AttackResult((Candidate("text", case.prompt, 0),), queries=0, unet_calls=0) for case in cases]
