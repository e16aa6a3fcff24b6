"""Random words before the prompt: the control that any search over prefixes must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..diffusion.backbone import Backbone
from ..prompts.spelled import spelled
from ..types import AttackResult, AttackUse, Candidate, Case
from .common.denoising import case_generator
from .unlearn_diff_atk import allowed_tokens


@dataclass(frozen=True)
class RandomPrefix:
    """The control that proposes random prefixes, as many as a search would, without access to the model.

    A meaningless prefix also disturbs the picture. A detector that always names some class may then name the concept.
    A search is effective only if its success rate is above the rate of this control.

    Args:
        tokens: Number K of random tokens before the prompt; only tokens that text can produce are drawn.
        candidates: Number of prefixes per prompt, each drawn independently.
    """

    name: ClassVar[str] = "random_prefix"
    tier: ClassVar[str] = "T2"
    joint: ClassVar[bool] = False
    searches: ClassVar[bool] = False
    uses: ClassVar[tuple[AttackUse, ...]] = ()
    budget_fields: ClassVar[tuple[str, ...]] = ("candidates",)
    iteration_fields: ClassVar[tuple[str, ...]] = ("candidates",)

    tokens: int = 3
    candidates: int = 10

    def __post_init__(self) -> None:
        if min(self.tokens, self.candidates) < 1:
            raise ValueError(f"expected tokens and candidates of at least 1, found {self}")

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Draw prefixes for every case.

        Args:
            target: Model under attack; only its tokenizer is used.
            cases: Cases; their reference latents are not needed.
            seed: Seed of the run; together with a case's own seed it fixes the prefixes of that case.

        Returns:
            One result per case with ``candidates`` texts and no UNet calls.
        """
        allowed = allowed_tokens(target, typable=True).cpu()
        return [self._result(target, allowed, case, seed) for case in cases]

    def _result(self, target: Backbone, allowed: torch.Tensor, case: Case, seed: int) -> AttackResult:
        generator = case_generator(seed, case, self.name)
        picked = allowed[torch.randint(len(allowed), (self.candidates, self.tokens), generator=generator)]
        texts = [f"{spelled(target.tokenizer, row)} {case.prompt}".strip() for row in picked.tolist()]
        found = tuple(Candidate("text", text, i + 1) for i, text in enumerate(texts))
        return AttackResult(found, queries=0, unet_calls=0)
