"""The inner attack of AdvUnlearn: gradient steps on free adversarial token embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class SoftPrompt:
    """Lowers a loss over continuous token embeddings, without projection.

    AdvUnlearn (Zhang et al. 2024), the lower level of its bi-level problem; the authors call it PGD, but it is
    unprojected Adam on free embeddings. Gradients are fresh at every step (the authors' code adds them up) and the
    returned embeddings hold all ``steps`` updates (theirs loses the last, so that a single step returns the start).

    Args:
        steps: Updates.
        rate: Adam's learning rate; with the sign rule, how far every coordinate moves at each step.
        rule: ``adam``, or ``sign`` (fast gradient sign, Goodfellow et al. 2015).

    Raises:
        ValueError: ``steps`` below 1 or ``rate`` not positive.
    """

    name: ClassVar[str] = "soft_prompt"
    steps: int = 30
    rate: float = 1e-3
    rule: Literal["adam", "sign"] = "adam"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rate <= 0 or self.rule not in ("adam", "sign"):
            raise ValueError(
                f"expected steps >= 1, rate > 0 and rule 'adam' or 'sign', "
                f"found {self.steps}, {self.rate} and {self.rule!r}"
            )

    @classmethod
    def fast(cls, rate: float = 1e-3) -> SoftPrompt:
        """Return the single sign step of fast adversarial training."""
        return cls(steps=1, rate=rate, rule="sign")

    def __call__(self, loss: Callable[[Tensor], Tensor], start: Tensor, *, generator: Generator) -> Tensor:
        """Return embeddings (B, K, D) whose loss (B,) is low; every example is attacked on its own.

        ``generator`` is unused: the rule is deterministic, what the loss draws is the loss's own affair.
        """
        adv = start.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([adv], lr=self.rate)
        for _ in range(self.steps):
            (gradient,) = torch.autograd.grad(loss(adv).sum(), adv)
            if self.rule == "sign":
                adv = (adv.detach() - self.rate * gradient.sign()).requires_grad_(True)
            else:
                adv.grad = gradient
                optimizer.step()
        return adv.detach()
