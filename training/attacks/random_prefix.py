"""Random words before the prompt: what any search over prefixes has to beat, and how often a detector errs on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..diffusion.backbone import Backbone
from ..types import AttackResult, AttackUse, Candidate, Case
from .common.denoising import case_generator
from .unlearn_diff_atk import allowed_tokens


@dataclass(frozen=True)
class RandomPrefix:
    """A control: as many candidates as a search proposes, found without looking at the model.

    A prefix that means nothing also disturbs the picture, and a detector that must name something may name the concept.
    A search whose rate is not above this one has found nothing.

    Args:
        tokens: Random tokens before the prompt (K), only such as text can produce.
        candidates: Prefixes per prompt, each drawn independently.
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
            target: Only its tokenizer is used.
            cases: Prompts; no reference latents are needed.
            seed: Of the run; with a case's own seed it fixes its prefixes.

        Returns:
            One result per case with ``candidates`` texts, at no UNet call.
        """
        allowed = allowed_tokens(target, typable=True).cpu()
        return [self._result(target, allowed, case, seed) for case in cases]

    def _result(self, target: Backbone, allowed: torch.Tensor, case: Case, seed: int) -> AttackResult:
        generator = case_generator(seed, case, self.name)
        picked = allowed[torch.randint(len(allowed), (self.candidates, self.tokens), generator=generator)]
        texts = [f"{target.tokenizer.decode(row).strip()} {case.prompt}".strip() for row in picked.tolist()]
        found = tuple(Candidate("text", text, i + 1) for i, text in enumerate(texts))
        return AttackResult(found, queries=0, unet_calls=0)
