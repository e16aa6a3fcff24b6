"""A pool of prompts of free embeddings that an attack keeps fitting to the concept while the student learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from ..attacks.common.norm_bound import largest_norm, within
from ..attacks.common.seen_distance import cosine_distance, seen_distance
from ..prompts.layout import PromptLayout
from .language_config import LanguageConfig
from .prompt_augmentation import ConceptPrompts, Rows
from .terms import Iteration, TermRows

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


@dataclass
class PoolPart:
    """The prompts of a pool that have K free embeddings and nothing else; the tensors are equal in all processes.

    Args:
        free: Free embeddings (M, K, D).
        first: Adam's first moments (M, K, D).
        second: Adam's second moments (M, K, D).
        steps: Number of attack steps (M,) since the prompt's start.
        goal: Indices (M,) of the prompts with the concept that the attack imitates.
    """

    free: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor
    goal: Tensor

    def rows(self, index: Tensor) -> PoolPart:
        """Return the prompts ``index`` (B,)."""
        return PoolPart(*(getattr(self, name)[index] for name in _STATE))

    def put(self, index: Tensor, other: PoolPart) -> None:
        """Overwrite the prompts ``index`` (B,)."""
        for name in _STATE:
            setattr(self, name, getattr(self, name).index_copy(0, index, getattr(other, name)))

    def step(self, gradient: Tensor, rate: float, radius: float) -> None:
        """Take one step of Adam, each prompt by its own number of steps, and project onto the ball of the radius."""
        self.steps = self.steps + 1
        counts = self.steps[:, None, None].to(gradient)
        self.first = _BETAS[0] * self.first + (1 - _BETAS[0]) * gradient
        self.second = _BETAS[1] * self.second + (1 - _BETAS[1]) * gradient.square()
        first, second = (m / (1 - beta**counts) for m, beta in zip((self.first, self.second), _BETAS, strict=True))
        self.free = within(self.free - rate * first / (second.sqrt() + _EPSILON), radius)


_STATE = ("free", "first", "second", "steps", "goal")


@dataclass
class InvertedPool:
    """Term that pulls a pool of inverted prompts to the anchored conditionings.

    Conditioning inversion fits free embeddings until the encoder answers as the base does for a prompt with the
    concept. Here the encoder is in training, and every prompt of the pool continues where its last steps ended. So the
    pool holds what the student has not yet unlearned. Prompts with an even number follow the distance as the UNet sees
    it, the others the cosine.

    Args:
        config: Sizes, steps, rate and restarts.
        prompts: Prompts with the concept; their conditionings are the attack's goals, their targets the student's.
        parts: Prompts of the pool by their number of free embeddings; empty before the first attacked iteration.
    """

    name: ClassVar[str] = "pool"
    space: ClassVar[Literal["conditioning"]] = "conditioning"
    config: LanguageConfig
    prompts: ConceptPrompts
    parts: dict[int, PoolPart] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """Factor of the term's mean loss."""
        return self.config.pool_weight

    @property
    def least(self) -> int:
        """Number of rows per iteration that have the same number of free embeddings."""
        return self.config.pool_batch // len(self.config.pool_tokens)

    def rows(self, iteration: Iteration) -> TermRows | None:
        """Continue the attack on a part of the pool and return it; None during the warm-up."""
        if not iteration.attacked:
            return None
        generator, size = iteration.generator, self.config.pool // len(self.config.pool_tokens)
        if not self.parts:
            self.parts = {k: self.fresh(size, k, generator) for k in self.config.pool_tokens}
        drawn = {k: torch.randperm(size, generator=generator)[: self.least] for k in self.parts}
        shard = self.prompts.shard
        own = {k: index[shard.part(self.least)].to(self.prompts.ids.device) for k, index in drawn.items()}
        found = {k: self.parts[k].rows(index) for k, index in own.items()}
        for _ in range(self.config.pool_steps):
            self._step(found, own)
        embeds, ids = self._placed({k: part.free for k, part in found.items()})
        target = self.prompts.targets[torch.cat([part.goal for part in found.values()])]
        for k, index in drawn.items():
            whole = PoolPart(*(shard.gathered(getattr(found[k], name)) for name in _STATE))
            self.parts[k].put(index.to(embeds.device), whole)
            self._restart(k, index.to(embeds.device), generator)
        return TermRows(self.config.pool_batch, embeds, ids, target)

    def distance(self, conds: Tensor, goals: Tensor, places: Tensor) -> Tensor:
        """Return the attack's loss (B,) of conditionings (B, L, D): as the UNet sees it, or by cosine.

        Args:
            conds: Conditionings of the student.
            goals: Conditionings of the base that the attack wants.
            places: Numbers (B,) of the prompts in their part of the pool.
        """
        gram = self.prompts.metric.gram
        seen, apart = seen_distance(conds, goals, gram), cosine_distance(conds, goals, gram)
        return torch.where(places % 2 == 0, seen, apart)

    def fresh(self, n: int, k: int, generator: Generator) -> PoolPart:
        """Return n prompts of k random tokens each, inside the ball, that the attack has not yet changed."""
        p = self.prompts
        tokens = p.ordinary[torch.randint(len(p.ordinary), (n, k), generator=generator).to(p.ordinary.device)]
        free = within(p.teacher.embed(tokens).detach(), self._radius)
        goal = torch.randint(len(p.ids), (n,), generator=generator).to(p.ids.device)
        return PoolPart(free, torch.zeros_like(free), torch.zeros_like(free), torch.zeros_like(goal), goal)

    @cached_property
    def _radius(self) -> float:
        return self.config.pool_bound * largest_norm(self.prompts.teacher)

    def _step(self, found: Mapping[int, PoolPart], own: Mapping[int, Tensor]) -> None:
        """Take one attack step on all prompts at once."""
        free = {k: part.free.detach().requires_grad_() for k, part in found.items()}
        conds = self.prompts.student.encode(*self._placed(free))
        goals = self.prompts.concept[torch.cat([part.goal for part in found.values()])]
        loss = self.distance(conds, goals, torch.cat([*own.values()])).sum()
        gradients = torch.autograd.grad(loss, [*free.values()])
        for part, gradient in zip(found.values(), gradients, strict=True):
            part.step(gradient, self.config.pool_rate, self._radius)

    def _placed(self, free: Mapping[int, Tensor]) -> Rows:
        """Return embeddings (B, L, D) and ids (B, L) of prompts that are free embeddings and nothing else."""
        teacher, made = self.prompts.teacher, []
        for k, embeds in free.items():
            empty = teacher.tokenize([""] * len(embeds))
            layout = PromptLayout("replace", k)
            made.append(layout.place(teacher.embed(empty).detach(), empty, embeds, eos_id=self.prompts.eos))
        embeds, ids = (torch.cat(parts) for parts in zip(*made, strict=True))
        return embeds, ids

    def _restart(self, k: int, drawn: Tensor, generator: Generator) -> None:
        """Let some of the prompts ``drawn`` (B,) begin anew."""
        again = (torch.rand(len(drawn), generator=generator) < self.config.pool_restart).to(drawn.device)
        fresh = self.fresh(len(drawn), k, generator)
        self.parts[k].put(drawn[again], fresh.rows(again.nonzero().flatten()))

    def state(self) -> dict[str, Tensor]:
        """Return the pool's tensors by name."""
        return {f"pool.{k}.{name}": getattr(part, name) for k, part in self.parts.items() for name in _STATE}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``; without a pool in it, the pool begins anew."""
        device = self.prompts.ids.device
        known = [k for k in self.config.pool_tokens if f"pool.{k}.free" in state]
        self.parts = {k: PoolPart(*(state[f"pool.{k}.{name}"].to(device) for name in _STATE)) for k in known}
