"""No attack: the unchanged prompt, as the reference point of a suite of attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..diffusion.backbone import Backbone
from ..types import AttackResult, AttackUse, Candidate, Case


@dataclass(frozen=True)
class NoAttack:
    """The control that proposes the unchanged prompt; no attack may have a lower success rate."""

    name: ClassVar[str] = "none"
    tier: ClassVar[str] = "T0"
    joint: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    searches: ClassVar[bool] = False
    uses: ClassVar[tuple[AttackUse, ...]] = ()

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Propose every prompt unchanged.

        Args:
            target: Unused.
            cases: Cases; their reference latents are not needed.
            seed: Unused; nothing is random.

        Returns:
            One result per case with its prompt as the only candidate, at no cost.
        """
        return [AttackResult((Candidate("text", case.prompt, 0),), queries=0, unet_calls=0) for case in cases]
