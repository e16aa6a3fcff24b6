"""White-box attack with free token embeddings before the prompt, separate for each prompt or shared by many.

It is the continuous relaxation of UnlearnDiffAtk, and AdvUnlearn's inner attack (Zhang et al., NeurIPS 2024, section 4)
at test time. No text produces such embeddings.
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
from .common.groups import crossed, group_of_each, others_than_own, shares
from .common.norm_bound import radius_of, relative_norms, require_bound, tier_of_bound, within


@dataclass(frozen=True)
class ContinuousPrefix:
    """Attack that minimises the denoising loss on the base's pictures over K free embeddings before the prompt.

    The optimiser is Adam. Every step draws a new timestep and new noise for each case, and ends with a projection of
    each embedding onto the ball of ``bound``. The judge is not consulted: the last iterate of every restart is a
    candidate. The ball contains all tokens if the bound is at least 1. So the attack can take every value that a search
    among as many tokens can take.

    With ``shared``, the cases are divided into ``prefixes`` groups. The prefix of a group is trained on all other
    groups, so no case meets a prefix that was trained on its prompt. A result then depends on the whole list of cases.
    The cases of a group succeed or fail together in part, so the interval of the rate is one over prefixes.

    Args:
        tokens: Number K of adversarial embeddings.
        steps: Number of Adam steps, per prompt or per shared prefix.
        restarts: Number of independent starts, each from the embeddings of random tokens; each gives one candidate.
        rate: Learning rate of Adam at the start; it falls linearly to zero, which averages out the noise of the loss.
        shared: True for one prefix that many prompts share, False for a prefix of each prompt's own.
        prefixes: Number of shared prefixes, at most one for each case; at least 2.
        batch: Number of cases per gradient; with ``shared``, every step draws them from the training cases.
        bound: Largest norm of an embedding, in multiples of the vocabulary's largest norm; None for no bound, which is
            of tier T7.
        precision: Precision of the UNet: ``fp32``, or ``bf16`` by autocast.
    """

    name: ClassVar[str] = "continuous_prefix"
    budget_fields: ClassVar[tuple[str, ...]] = ("steps", "restarts")
    iteration_fields: ClassVar[tuple[str, ...]] = ("steps", "restarts")

    tokens: int = 3
    steps: int = 100
    restarts: int = 1
    rate: float = 0.02
    shared: bool = False
    prefixes: int = 8
    batch: int = 32
    bound: float | None = 3.0
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        require_bound(self.bound)
        if self.prefixes < 2:
            raise ValueError(
                f"expected at least 2 shared prefixes, found {self.prefixes}: a prefix is tried on cases that it did "
                "not learn from"
            )
        if min(self.tokens, self.steps, self.restarts, self.batch) < 1:
            raise ValueError(f"expected tokens, steps, restarts and batch of at least 1, found {self}")

    @property
    def joint(self) -> bool:
        """True if one prefix is trained on many cases."""
        return self.shared

    @property
    def tier(self) -> str:
        """``T4`` with a bound of at most 10, else ``T7``."""
        return tier_of_bound(self.bound)

    def clusters(self, n: int) -> tuple[int, ...]:
        """Return the number of the prefix that each of n cases meets."""
        return group_of_each(n, self.prefixes) if self.shared else tuple(range(n))

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
        search = _PrefixSearch(self, target.sharing(precision=self.precision), seed, radius_of(self.bound, target))
        with target.frozen():
            rounds = [self._round(search, cases, restart) for restart in range(self.restarts)]
        norms = [relative_norms(torch.stack(values)[:, 1 : 1 + self.tokens], target) for values in rounds]
        calls = shares(self._cost(len(cases)), len(cases))
        rows = zip(zip(*rounds, strict=True), zip(*norms, strict=True), calls, strict=True)
        return [self._result(*row) for row in rows]

    def _round(self, search: _PrefixSearch, cases: Sequence[Case], restart: int) -> list[Tensor]:
        if self.shared:
            return search.crossed(cases, restart)
        parts = tqdm(list(chunks(len(cases), self.batch)), desc=self.name, leave=False, disable=None)
        return [value for part in parts for value in search.one_each(cases[part], restart)]

    def _cost(self, n: int) -> int:
        """Return the UNet calls for n cases; with ``shared``, all cases together pay for the prefixes."""
        latents = sum(min(self.batch, m) for m in others_than_own(n, self.prefixes)) if self.shared else n
        return FORWARD_AND_BACKWARD * self.steps * self.restarts * latents

    def _result(self, values: Sequence[Tensor], norms: Sequence[float], calls: int) -> AttackResult:
        rows = enumerate(zip(values, norms, strict=True), start=1)
        found = (Candidate("token_embeddings", value, self.steps * i, norm=norm) for i, (value, norm) in rows)
        return AttackResult(tuple(found), queries=0, unet_calls=calls)


@dataclass(frozen=True)
class _PrefixSearch:
    attack: ContinuousPrefix
    target: Backbone
    seed: int
    radius: float | None

    def one_each(self, cases: Sequence[Case], restart: int) -> list[Tensor]:
        """Return the token embeddings (L, D) of each case's prompt, with a separate prefix for each case."""
        generators = [case_generator(self.seed, case, self.attack.name, restart) for case in cases]
        loss = self._loss(cases)
        start = torch.cat([self._start(generator) for generator in generators])
        best = self._minimise(start, lambda adversarial: loss(adversarial, generators))
        return list(self._place(cases, best))

    def crossed(self, cases: Sequence[Case], restart: int) -> list[Tensor]:
        """Return the token embeddings (L, D) of each case's prompt, with the prefix trained on the other groups."""
        found: dict[int, Tensor] = {}

        def learn(others: Sequence[Case], group: int) -> Tensor:
            return self._train_shared(others, f"{restart}:{group}")

        for places, prefix in crossed(cases, self.attack.prefixes, learn, "a shared prefix"):
            own = [cases[i] for i in places]
            found.update(zip(places, self._place(own, prefix.expand(len(own), -1, -1)), strict=True))
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
        adversarial = within(start, self.radius).clone().requires_grad_()
        adam = torch.optim.Adam([adversarial], lr=self.attack.rate)
        for step in range(self.attack.steps):
            adam.param_groups[0]["lr"] = self.attack.rate * (1 - step / self.attack.steps)
            (adversarial.grad,) = torch.autograd.grad(loss(adversarial).sum(), adversarial)
            adam.step()
            with torch.no_grad():
                adversarial.copy_(within(adversarial, self.radius))
        return adversarial.detach()

    def _place(self, cases: Sequence[Case], prefixes: Tensor) -> Tensor:
        prompts = PrefixedPrompts(self.target, [case.prompt for case in cases], self.attack.tokens)
        with torch.no_grad():
            return prompts.place(prefixes)[0]
