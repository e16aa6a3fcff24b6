"""Soft prompt: the inner attack of AdvUnlearn, gradient steps on free adversarial token embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class SoftPrompt:
    """Inner attack that lowers a loss over continuous token embeddings (a soft prompt), without projection.

    It solves the lower level of the bi-level problem of AdvUnlearn (Zhang et al. 2024). The authors call it PGD, but it
    is unprojected Adam on free embeddings. Two differences from the authors' code: gradients are computed anew at every
    step, where the authors add them up. The returned embeddings include all ``steps`` updates, where the authors lose
    the last one, so that a single step returns the start.

    Args:
        steps: Number of updates.
        rate: Learning rate of Adam; with the rule ``sign``, the change of every coordinate at each step.
        rule: Update rule: ``adam``, or ``sign`` (fast gradient sign, Goodfellow et al. 2015).

    Raises:
        ValueError: ``steps`` is below 1, ``rate`` is not positive, or ``rule`` is unknown.
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
        """Return the attack of fast adversarial training: a single step with the rule ``sign``."""
        return cls(steps=1, rate=rate, rule="sign")

    def __call__(self, loss: Callable[[Tensor], Tensor], start: Tensor, *, generator: Generator) -> Tensor:
        """Return embeddings (B, K, D) whose loss (B,) is low; every example is attacked separately.

        ``generator`` is unused, since the update rule is deterministic. A random loss brings its own generator.
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
