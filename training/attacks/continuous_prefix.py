"""White-box attack with free token embeddings before the prompt, separate for each prompt or shared by many.

It is the continuous relaxation of UnlearnDiffAtk, and AdvUnlearn's inner attack (Zhang et al., NeurIPS 2024, section 4)
at test time. No text produces such embeddings. So the success rate is an upper bound for typed prefixes of that length.
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
    """Attack that minimises the denoising loss on the base's pictures over K free embeddings before the prompt.

    The optimiser is Adam. Every step draws a new timestep and new noise for each case. The judge is not consulted: the
    last iterate of every restart is a candidate.

    With ``shared``, the cases are divided into two halves, alternately. A prefix trained on one half attacks the other
    half, so every case meets a prefix that was not trained on its prompt. A result then depends on the whole list of
    cases.

    Args:
        tokens: Number K of adversarial embeddings.
        steps: Number of Adam steps, per prompt or per shared prefix.
        restarts: Number of independent starts, each from the embeddings of random tokens; each gives one candidate.
        rate: Learning rate of Adam at the start; it falls linearly to zero, which averages out the noise of the loss.
        shared: True for one prefix that many prompts share, False for a prefix of each prompt's own.
        batch: Number of cases per gradient; with ``shared``, every step draws them from the training half.
        precision: Precision of the UNet: ``fp32``, or ``bf16`` by autocast.
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
        """True if one prefix is trained on many cases."""
        return self.shared

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: Model under attack.
            cases: Cases with their reference latents.
            seed: Seed of the run. Without ``shared``, it fixes every random draw of a case together with the case's own
                seed; with ``shared``, together with the list of cases.

        Returns:
            One result per case with ``restarts`` candidates of token embeddings (L, D).

        Raises:
            ValueError: If a case has no reference latent, its prompt leaves no room for the prefix, or ``shared`` is
                set with fewer than 2 cases.
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
        # All cases together pay for the two shared prefixes.
        latents = 2 * min(self.batch, (n + 1) // 2) / n if self.shared else 1
        calls = FORWARD_AND_BACKWARD * self.steps * self.restarts * latents
        return AttackResult(candidates, queries=0, unet_calls=round(calls))


@dataclass(frozen=True)
class _PrefixSearch:
    attack: ContinuousPrefix
    target: Backbone
    seed: int

    def one_each(self, cases: Sequence[Case], restart: int) -> list[Tensor]:
        """Return the token embeddings (L, D) of each case's prompt, with a separate prefix for each case."""
        generators = [case_generator(self.seed, case, self.attack.name, restart) for case in cases]
        loss = self._loss(cases)
        start = torch.cat([self._start(generator) for generator in generators])
        best = self._minimise(start, lambda adversarial: loss(adversarial, generators))
        return list(self._place(cases, best))

    def crossed(self, cases: Sequence[Case], restart: int) -> list[Tensor]:
        """Return the token embeddings (L, D) of each case's prompt, with the prefix trained on the other half."""
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
        """Return a function from prefixes (B, K, D) and generators to the loss (B,).

        The function draws timestep and noise of each case from the case's generator.
        """
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
