"""Search for strings that draw the concept, a few steps in every iteration: P4D as an attack during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from ..diffusion.backbone import Backbone
from ..distributed import Shard
from ..prompts.layout import PromptLayout
from .config import OutlierConfig

# Function of token embeddings (B, L, D) and ids (B, L); it returns the loss (B,) that the search lowers.
SearchLoss = Callable[[Tensor, Tensor], Tensor]
_MOMENTUM = 0.8


@dataclass
class PromptSearch:
    """Search over free embeddings that stand for their nearest tokens (PEZ, Wen et al., NeurIPS 2023, algorithm 1).

    P4D (Chin et al., ICML 2024) runs this search for hundreds of steps against a finished model. Here the model is in
    training, and every string continues where its last steps ended. A step follows the gradient at the nearest tokens,
    with momentum. Its length is a share of the string's own embeddings.

    Args:
        config: Number of strings, tokens and steps, and step length.
        teacher: Frozen base, whose token embeddings are used; no method changes these.
        allowed: Ids (V,) of the tokens that strings may have.
        soft: Free embeddings (M, K, D) of the M strings, equal in all processes; empty before the first iteration.
        momentum: Momentum (M, K, D) of the steps.
    """

    config: OutlierConfig
    teacher: Backbone
    allowed: Tensor
    soft: Tensor = field(default_factory=lambda: torch.empty(0))
    momentum: Tensor = field(default_factory=lambda: torch.empty(0))

    @cached_property
    def _embeds(self) -> Tensor:
        """Embeddings (V, D) of the allowed tokens."""
        return self.teacher.embed(self.allowed).detach()

    @cached_property
    def _directions(self) -> Tensor:
        return normalize(self._embeds, dim=-1)

    def nearest(self, soft: Tensor) -> Tensor:
        """Return the ids (B, K) of the allowed tokens with the highest cosine to embeddings (B, K, D)."""
        return self.allowed[(normalize(soft, dim=-1) @ self._directions.T).argmax(-1)]

    def advance(self, generator: Generator, loss: SearchLoss, shard: Shard) -> Tensor:
        """Continue the search for some strings, and return the ids (B, L) of this process's part of them.

        Args:
            generator: Generator of all draws, equal in all processes.
            loss: Loss (B,) of token embeddings and ids, which the search lowers.
            shard: Share of this process.
        """
        s = self.config
        if not len(self.soft):
            self.soft = self._fresh(s.searched, generator)
            self.momentum = torch.zeros_like(self.soft)
        drawn = torch.randperm(s.searched, generator=generator)[: s.searched_batch].to(self.soft.device)
        own = drawn[shard.part(len(drawn))]
        soft, momentum = self.soft[own], self.momentum[own]
        for _ in range(s.searched_steps):
            soft, momentum = self._step(soft, momentum, loss)
        ids, _ = self._rows(self.nearest(soft))
        self.soft = self.soft.index_copy(0, drawn, shard.gathered(soft))
        self.momentum = self.momentum.index_copy(0, drawn, shard.gathered(momentum))
        self._restart(drawn, generator)
        return ids

    def _step(self, soft: Tensor, momentum: Tensor, loss: SearchLoss) -> tuple[Tensor, Tensor]:
        picked = self.nearest(soft)
        hard = self.teacher.embed(picked).detach().requires_grad_()
        ids, embeds = self._rows(picked, hard)
        (gradient,) = torch.autograd.grad(loss(embeds, ids).sum(), hard)
        momentum = _MOMENTUM * momentum + (1 - _MOMENTUM) * _unit(gradient)
        return soft - self.config.searched_rate * _size(soft) * _unit(momentum), momentum

    def _rows(self, picked: Tensor, hard: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return ids (B, L) and embeddings (B, L, D) of strings of tokens ``picked`` (B, K).

        ``hard`` (B, K, D) are the tokens' embeddings if gradients shall reach them.
        """
        empty = self.teacher.tokenize([""] * len(picked))
        layout = PromptLayout("replace", picked.shape[1])
        tokens = self.teacher.embed(picked).detach() if hard is None else hard
        eos_id = int(self.teacher.tokenizer.eos_token_id)
        embeds, ids = layout.place(self.teacher.embed(empty).detach(), empty, tokens, eos_id=eos_id, adv_ids=picked)
        return ids, embeds

    def _restart(self, drawn: Tensor, generator: Generator) -> None:
        again = (torch.rand(len(drawn), generator=generator) < self.config.restart).to(drawn.device)
        fresh = self._fresh(len(drawn), generator)[again]
        self.soft = self.soft.index_copy(0, drawn[again], fresh)
        self.momentum = self.momentum.index_copy(0, drawn[again], torch.zeros_like(fresh))

    def _fresh(self, n: int, generator: Generator) -> Tensor:
        rows = torch.randint(len(self.allowed), (n, self.config.searched_tokens), generator=generator)
        return self._embeds[rows.to(self._embeds.device)].clone()

    def state(self) -> dict[str, Tensor]:
        """Return the strings' embeddings and their momentum."""
        return {"searched.soft": self.soft, "searched.momentum": self.momentum}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``."""
        device = self.teacher.device
        self.soft, self.momentum = state["searched.soft"].to(device), state["searched.momentum"].to(device)


def _size(rows: Tensor) -> Tensor:
    """Return the root mean square (B, 1, 1) of each row (B, K, D)."""
    return rows.square().mean((1, 2), keepdim=True).sqrt()


def _unit(rows: Tensor) -> Tensor:
    """Return the rows (B, K, D) scaled to a root mean square of 1; a row of zeros stays zero."""
    return rows / _size(rows).clamp(min=torch.finfo(rows.dtype).tiny)
