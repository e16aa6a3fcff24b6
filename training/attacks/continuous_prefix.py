"""White-box attack with free token embeddings before the prompt, per prompt or one for all prompts.

The continuous relaxation of UnlearnDiffAtk, and AdvUnlearn's inner attack (Zhang et al., NeurIPS 2024, section 4) at
test time. No text maps onto such embeddings, so it bounds from above what typed prefixes of that length can do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from ..diffusion.backbone import Backbone, Precision
from ..types import AttackResult, Candidate, Case
from .common.denoising import (
    FORWARD_AND_BACKWARD,
    DenoisingLoss,
    PrefixedPrompts,
    case_generator,
    chunks,
    clean_latents,
    draw_noise,
    draw_timesteps,
)


@dataclass(frozen=True)
class ContinuousPrefix:
    """Adam on K free token embeddings before the prompt, against the denoising loss on the base's own pictures.

    Timestep and noise are drawn anew for every step and case. The judge is not consulted: every restart's last
    iterate is a candidate.

    With ``shared`` the cases are dealt into two halves, by turns. A prefix trained on one half attacks the other, so
    every case meets a prefix that never saw its prompt, and a result depends on the whole list of cases.

    Args:
        tokens: Adversarial embeddings (K).
        steps: Adam steps, per prompt or per shared prefix.
        restarts: Independent starts, each from the embeddings of random tokens; each gives one candidate.
        rate: Adam's rate at the start; it falls linearly to zero, which averages the noise of the loss away.
        shared: One prefix for many prompts, instead of one for each.
        batch: Cases per gradient; for ``shared`` drawn from the training half at every step.
        precision: Of the UNet: ``fp32``, or ``bf16`` by autocast.
    """

    name: ClassVar[str] = "continuous_prefix"
    tier: ClassVar[str] = "T4"
    budget_fields: ClassVar[tuple[str, ...]] = ("steps", "restarts")
    iteration_fields: ClassVar[tuple[str, ...]] = ("steps", "restarts")

    tokens: int = 3
    steps: int = 100
    restarts: int = 1
    rate: float = 0.02
    shared: bool = False
    batch: int = 32
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if min(self.tokens, self.steps, self.restarts, self.batch) < 1:
            raise ValueError(f"expected tokens, steps, restarts and batch of at least 1, found {self}")

    @property
    def joint(self) -> bool:
        """Whether one prefix is trained on many cases."""
        return self.shared

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: The model under attack.
            cases: Prompts with their reference latents.
            seed: Of the run; per prompt, with a case's own seed it fixes all that is random about that case.

        Returns:
            One result per case with ``restarts`` candidates of token embeddings (L, D).

        Raises:
            ValueError: If a case has no reference latent, its prompt leaves no room, or ``shared`` has fewer than 2
                cases.
        """
        search = _PrefixSearch(self, target.sharing(precision=self.precision), seed)
        with target.frozen():
            rounds = [self._round(search, cases, restart) for restart in range(self.restarts)]
        return [self._result(values, len(cases)) for values in zip(*rounds, strict=True)]

    def _round(self, search: _PrefixSearch, cases: Sequence[Case], restart: int) -> list[Tensor]:
        if self.shared:
            return search.crossed(cases, restart)
        parts = tqdm(list(chunks(len(cases), self.batch)), desc=self.name, leave=False, disable=None)
        return [value for part in parts for value in search.one_each(cases[part], restart)]

    def _result(self, values: Sequence[Tensor], n: int) -> AttackResult:
        spent = [self.steps * (i + 1) for i in range(len(values))]
        candidates = tuple(Candidate("token_embeddings", v, s) for v, s in zip(values, spent, strict=True))
        # Two shared prefixes are paid for by all cases together.
        latents = 2 * min(self.batch, (n + 1) // 2) / n if self.shared else 1
        calls = FORWARD_AND_BACKWARD * self.steps * self.restarts * latents
        return AttackResult(candidates, queries=0, unet_calls=round(calls))


@dataclass(frozen=True)
class _PrefixSearch:
    attack: ContinuousPrefix
    target: Backbone
    seed: int

    def one_each(self, cases: Sequence[Case], restart: int) -> list[Tensor]:
        """Return, per case, its prompt's token embeddings (L, D) with a prefix of its own."""
        generators = [case_generator(self.seed, case, self.attack.name, restart) for case in cases]
        loss = self._loss(cases)
        start = torch.cat([self._start(generator) for generator in generators])
        best = self._minimise(start, lambda adversarial: loss(adversarial, generators))
        return list(self._place(cases, best))

    def crossed(self, cases: Sequence[Case], restart: int) -> list[Tensor]:
        """Return, per case, its token embeddings (L, D) with the prefix trained on the other half of the cases."""
        if len(cases) < 2:
            raise ValueError(
                f"expected at least 2 cases to train a shared prefix on one half of them, found {len(cases)}"
            )
        found: dict[int, Tensor] = {}
        for half in (0, 1):
            prefix = self._train_shared(cases[1 - half :: 2], f"{restart}:{half}")
            others = cases[half::2]
            placed = self._place(others, prefix.expand(len(others), -1, -1))
            found.update(zip(range(half, len(cases), 2), placed, strict=True))
        return [found[i] for i in range(len(cases))]

    def _train_shared(self, cases: Sequence[Case], label: str) -> Tensor:
        """Return one prefix (1, K, D) trained on random minibatches of ``cases``."""
        generators = [case_generator(self.seed, case, self.attack.name, label) for case in cases]
        size = min(self.attack.batch, len(cases))
        order = case_generator(self.seed, cases[0], self.attack.name, label, "order")

        def loss(adversarial: Tensor) -> Tensor:
            rows = torch.randperm(len(cases), generator=order)[:size].tolist()
            part = self._loss([cases[i] for i in rows])
            return part(adversarial.expand(size, -1, -1), [generators[i] for i in rows])

        return self._minimise(self._start(order), loss)

    def _loss(self, cases: Sequence[Case]) -> Callable[[Tensor, Sequence[torch.Generator]], Tensor]:
        """Return the loss (B,) of prefixes (B, K, D), at a timestep and noise from each case's generator."""
        denoising = DenoisingLoss(self.target, clean_latents(cases, self.target))
        prompts = PrefixedPrompts(self.target, [case.prompt for case in cases], self.attack.tokens)

        def loss(adversarial: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
            steps = draw_timesteps(self.target, generators)
            noise = draw_noise(denoising.latents, generators)
            return denoising(prompts.conditioning(adversarial), steps, noise)

        return loss

    def _start(self, generator: torch.Generator) -> Tensor:
        """Return the embeddings (1, K, D) of random tokens of the vocabulary."""
        vocabulary = len(self.target.tokenizer)
        ids = torch.randint(vocabulary, (1, self.attack.tokens), generator=generator)
        return self.target.embed(ids.to(self.target.device)).detach()

    def _minimise(self, start: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        adversarial = start.clone().requires_grad_()
        adam = torch.optim.Adam([adversarial], lr=self.attack.rate)
        for step in range(self.attack.steps):
            adam.param_groups[0]["lr"] = self.attack.rate * (1 - step / self.attack.steps)
            (adversarial.grad,) = torch.autograd.grad(loss(adversarial).sum(), adversarial)
            adam.step()
        return adversarial.detach()

    def _place(self, cases: Sequence[Case], prefixes: Tensor) -> Tensor:
        prompts = PrefixedPrompts(self.target, [case.prompt for case in cases], self.attack.tokens)
        with torch.no_grad():
            return prompts.place(prefixes)[0]
