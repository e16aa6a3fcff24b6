"""The papers' equations, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def negative_guidance_target(pred_null: Tensor, pred_cond: Tensor, eta: float) -> Tensor:
    """Return ``e_0 - eta (e_p - e_0)``, what the student shall predict for the concept.

    ESD (Gandikota et al. 2023), section 4.1: the frozen model guided away from the concept. Linear, so it holds for
    noise and velocity alike.

    Args:
        pred_null: Frozen prediction (B, C, h, w) for the empty prompt.
        pred_cond: Frozen prediction (B, C, h, w) for the concept prompt.
        eta: Negative guidance; 0 targets the empty prompt.
    """
    null, cond = pred_null.float(), pred_cond.float()
    return null - eta * (cond - null)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of every example, (B, ...) and (B, ...) to (B,), in float32.

    Raises:
        ValueError: The shapes differ; broadcasting would hide a mistake.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"expected a target of shape {tuple(prediction.shape)}, found {tuple(target.shape)}")
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def gram_distance(a: Tensor, b: Tensor, gram: Tensor) -> Tensor:
    """Return ``(a - b)^T G (a - b)``, averaged over token positions: (B, L, D) and (B, L, D) to (B,).

    The squared distance between two conditionings as the UNet's cross-attention sees it; see
    ``Backbone.text_gram``. Costs no UNet call.
    """
    difference = a - b
    return ((difference @ gram) * difference).sum(-1).mean(-1)


@dataclass(frozen=True)
class ConditioningMetric:
    """``gram_distance`` in the units of the noise loss, so that weights of both are comparable.

    A conditioning as far from its target as prompts commonly are from the empty prompt costs ``unit``: the squared
    error between the frozen model's predictions for a prompt and for the empty prompt.

    Args:
        gram: (D, D), already scaled.
    """

    gram: Tensor

    @classmethod
    def fit(cls, gram: Tensor, conditionings: Tensor, null: Tensor, *, unit: float = 1.0) -> ConditioningMetric:
        """Scale G so that conditionings (N, L, D) lie ``unit`` from the empty prompt's (1, L, D) in the mean.

        Raises:
            ValueError: All conditionings equal the empty prompt's, so there is no scale.
        """
        gram = gram.to(conditionings)
        mean = float(gram_distance(conditionings, null.expand_as(conditionings), gram).mean())
        if not mean > 0:
            raise ValueError("expected prompts whose conditioning differs from the empty prompt's, found none")
        return cls(gram * (unit / mean))

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the scaled distance (B,) between conditionings (B, L, D)."""
        return gram_distance(a, b, self.gram)


def weighted_sum(
    terms: Mapping[str, tuple[float, Tensor]], totals: Mapping[str, int] | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Return the sum of ``weight * loss.mean()`` over the terms, and every unweighted mean for the log.

    Args:
        terms: Name to weight and losses (B,).
        totals: Rows of each term in all processes, where this one has only some of them: sums are divided by these
            instead, so that the results of all processes add up to the mean.
    """
    means = {n: loss.mean() if totals is None else loss.sum() / totals[n] for n, (_, loss) in terms.items()}
    total = torch.stack([weight * means[name] for name, (weight, _) in terms.items()]).sum()
    return total, {name: float(mean.detach()) for name, mean in means.items()}
