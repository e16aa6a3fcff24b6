"""P4D: prompts of real tokens that make the target predict the same as the base (Chin et al., ICML 2024).

"Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic Prompts", arXiv:2309.06135. The
projection is that of PEZ (Wen et al., "Hard Prompts Made Easy", NeurIPS 2023, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from ..diffusion.backbone import Backbone, Precision
from ..diffusion.target import TargetModel
from ..losses import squared_error
from ..prompts.layout import Placement, PromptLayout, prompt_lengths
from ..prompts.spelled import spelled
from ..types import AttackResult, AttackUse, Candidate, Case
from .common.denoising import (
    FORWARD_AND_BACKWARD,
    case_generator,
    chunks,
    clean_latents,
    draw_noise,
    draw_timesteps,
    finite,
)
from .common.whole_prompts import EMPTY_PROMPT
from .unlearn_diff_atk import allowed_tokens


@dataclass(frozen=True)
class P4D:
    """White-box search for tokens with which the target predicts the noise that the base predicts for the prompt.

    The variable is K free token embeddings. Every step projects them to the nearest real tokens by cosine, takes the
    gradient of the loss at those tokens, and applies it to the free embeddings (straight through). The loss is the MSE
    between two predictions without guidance, on the base's picture noised to a random timestep. One prediction is
    the base's for the prompt (or the case's goal), the other is the target's for the adversarial prompt. After every
    ``every`` steps, the projected tokens, decoded to text, become a candidate. If the tokens replace the whole prompt,
    the empty prompt is the first candidate.

    Differences from the authors' code: all cases run batched, each with noise and timesteps of its own. Special tokens
    are excluded. Every proposed text is kept, in order; the authors keep only the text whose picture CLIP finds most
    similar to the base's. P4D-K spreads a fixed number of tokens evenly through each prompt; the authors insert one
    after every third token.

    Args:
        tokens: Number K of adversarial tokens; 16 in the authors' P4D-N.
        placement: Position of the adversarial tokens. ``replace`` is P4D-N, which keeps nothing of the prompt;
            ``insert`` is P4D-K; ``prefix`` is the variant that UnlearnDiffAtk compares with.
        steps: Number of optimiser steps.
        every: Number of steps between candidates.
        rate: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        typable: True to allow only tokens that decoding and tokenising reproduce. The authors allow all tokens.
        batch: Number of cases attacked at once; it changes a case's result only by rounding.
        precision: Precision of the UNet: ``fp32``, or ``bf16`` by autocast.
    """

    name: ClassVar[str] = "p4d"
    tier: ClassVar[str] = "T3"
    joint: ClassVar[bool] = False
    uses: ClassVar[tuple[AttackUse, ...]] = ("unet", "base")
    budget_fields: ClassVar[tuple[str, ...]] = ("steps",)
    iteration_fields: ClassVar[tuple[str, ...]] = ("steps",)

    tokens: int = 16
    placement: Placement = "replace"
    steps: int = 3000
    every: int = 50
    rate: float = 0.1
    weight_decay: float = 0.1
    typable: bool = False
    batch: int = 32
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if min(self.tokens, self.steps, self.every, self.batch) < 1 or self.every > self.steps:
            raise ValueError(
                f"expected tokens, steps, every and batch of at least 1 and every up to steps, found {self}"
            )
        if self.placement == "add":
            raise ValueError(
                "expected a placement of real tokens, found 'add': sums of embeddings are no prompt; "
                "choose replace, insert or prefix"
            )

    @property
    def whole_prompt(self) -> bool:
        """True if the whole prompt is replaced."""
        return self.placement == "replace"

    @classmethod
    def standard(cls, **changes: object) -> P4D:
        """Return the attack with UnlearnDiffAtk's standard budget on the embedded base: 200 steps, 10 candidates."""
        return cls(**{"steps": 200, "every": 20, **changes})  # type: ignore[arg-type]  # fields by name

    def run(self, target: TargetModel, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: Model under attack, with its base.
            cases: Cases with their reference latents.
            seed: Seed of the run; together with a case's own seed it fixes every random draw of that case.

        Returns:
            One result per case with ``steps // every`` text candidates, in the order found, after the empty prompt if
            the whole prompt is replaced.

        Raises:
            ValueError: If the target has no base, a case has no reference latent, or its prompt leaves no room for the
                tokens.
        """
        attacked, base = (model.sharing(precision=self.precision) for model in (target, target.base))
        search = _P4DSearch(self, attacked, base, allowed_tokens(target, typable=self.typable))
        with target.frozen(), target.base.frozen():
            parts = tqdm(list(chunks(len(cases), self.batch)), desc=self.name, leave=False, disable=None)
            return [result for part in parts for result in search.run(cases[part], seed)]


@dataclass(frozen=True)
class _Comparison:
    """Loss of a batch of cases: MSE between the target's prediction and the base's prediction for the plain prompt."""

    target: Backbone
    base: Backbone
    latents: Tensor  # (B, C, h, w)
    plain: Tensor  # (B, L, D), by the base's encoder

    def __call__(self, conditioning: Tensor, generators: Sequence[Generator]) -> Tensor:
        """Return the loss (B,) of conditionings (B, L, D); each case's generator draws its timestep and noise.

        Raises:
            ValueError: If the loss of a row is not finite.
        """
        t = draw_timesteps(self.target, generators)
        noisy = self.target.add_noise(self.latents, draw_noise(self.latents, generators), t)
        with torch.no_grad():
            wanted = self.base.predict(noisy, t, self.plain)
        return finite(squared_error(self.target.predict(noisy, t, conditioning), wanted), t, self.target)


@dataclass(frozen=True)
class _P4DSearch:
    attack: P4D
    target: Backbone
    base: Backbone
    allowed: Tensor  # (V,)

    @cached_property
    def directions(self) -> Tensor:
        """Unit embeddings (V, D) of the allowed tokens."""
        return normalize(self.target.embed(self.allowed).detach(), dim=-1)

    def run(self, cases: Sequence[Case], seed: int) -> list[AttackResult]:
        generators = [case_generator(seed, case, self.attack.name) for case in cases]
        ids = self.target.tokenize([case.prompt for case in cases])
        with torch.no_grad():
            plain = self.base.condition([case.wanted for case in cases])
        loss = _Comparison(self.target, self.base, clean_latents(cases, self.target), plain)
        soft = self._start(generators).requires_grad_()
        adam = torch.optim.AdamW([soft], lr=self.attack.rate, weight_decay=self.attack.weight_decay)
        found: list[list[str]] = []
        for step in range(1, self.attack.steps + 1):
            picked = self.nearest(soft)
            hard = self.target.embed(picked).requires_grad_()  # (B, K, D)
            total = loss(self.target.encode(*self._place(ids, hard, picked)), generators).sum()
            (soft.grad,) = torch.autograd.grad(total, hard)
            adam.step()
            if step % self.attack.every == 0:
                found.append(self._texts(ids, self.nearest(soft)))
        return [self._result(texts) for texts in zip(*found, strict=True)]

    def _start(self, generators: Sequence[Generator]) -> Tensor:
        size = (1, self.attack.tokens)
        rows = torch.cat([torch.randint(len(self.allowed), size, generator=g) for g in generators])
        return self.target.embed(self.allowed[rows.to(self.allowed.device)]).detach()

    @torch.no_grad()
    def nearest(self, soft: Tensor) -> Tensor:
        """Return the ids (B, K) of the allowed tokens nearest to embeddings (B, K, D), by cosine."""
        return self.allowed[(normalize(soft, dim=-1) @ self.directions.T).argmax(-1)]

    def _place(self, ids: Tensor, hard: Tensor, picked: Tensor) -> tuple[Tensor, Tensor]:
        layout = PromptLayout(self.attack.placement, self.attack.tokens)
        eos_id = self.target.tokenizer.eos_token_id
        return layout.place(self.target.embed(ids), ids, hard, eos_id=eos_id, adv_ids=picked)

    @torch.no_grad()
    def _texts(self, ids: Tensor, picked: Tensor) -> list[str]:
        placed = self._place(ids, self.target.embed(picked), picked)[1]
        ends = 1 + prompt_lengths(placed, self.target.tokenizer.eos_token_id)
        rows = zip(placed.tolist(), ends.tolist(), strict=True)
        return [spelled(self.target.tokenizer, row[1:end]) for row, end in rows]

    def _result(self, texts: Sequence[str]) -> AttackResult:
        found = [Candidate("text", text, self.attack.every * (i + 1)) for i, text in enumerate(texts)]
        first = [EMPTY_PROMPT] if self.attack.placement == "replace" else []
        # One forward and backward pass of the target and one forward pass of the base.
        return AttackResult((*first, *found), queries=0, unet_calls=(FORWARD_AND_BACKWARD + 1) * self.attack.steps)
