"""Projected gradient descent on embeddings: the inner attack of RACE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class EmbeddingPGD:
    """Inner attack that lowers a loss inside an L-infinity ball around embeddings, by signed gradient steps.

    Projected gradient descent (Madry et al., ICLR 2018) as RACE (Kim et al., ECCV 2024) uses it. It begins at a uniform
    random point of the ball. Each step moves every coordinate by ``rate * eps`` against the sign of the gradient. Then
    it projects to the ball and clips to the range of the clean embedding's own coordinates. Both are first done after
    the first step. In the authors' code the number of steps is fixed, and its option is ignored.

    Args:
        eps: Radius of the ball in every coordinate, in the units of the embeddings.
        steps: Number of steps.
        rate: Length of a step as a share of ``eps``.

    Raises:
        ValueError: ``steps`` is below 1, or ``eps`` or ``rate`` is not positive.
    """

    name: ClassVar[str] = "embedding_pgd"
    eps: float = 0.1
    steps: int = 10
    rate: float = 0.25

    def __post_init__(self) -> None:
        if self.steps < 1 or self.eps <= 0 or self.rate <= 0:
            raise ValueError(
                f"expected steps >= 1, eps > 0 and rate > 0, found {self.steps}, {self.eps} and {self.rate}"
            )

    def __call__(self, loss: Callable[[Tensor], Tensor], start: Tensor, *, generator: Generator) -> Tensor:
        """Return embeddings (B, ...) in the ball around ``start`` (B, ...) whose loss (B,) is low."""
        clean = start.detach()
        low, high = (edge.view(-1, *[1] * (clean.ndim - 1)) for edge in torch.aminmax(clean.flatten(1), dim=1))
        moved = (2 * torch.rand(clean.shape, generator=generator) - 1).to(clean)
        adv = clean + self.eps * moved
        for _ in range(self.steps):
            adv.requires_grad_(True)
            (gradient,) = torch.autograd.grad(loss(adv).sum(), adv)
            adv = adv.detach() - self.rate * self.eps * gradient.sign()
            adv = (clean + (adv - clean).clamp(-self.eps, self.eps)).clamp(low, high)
        return adv.detach()
