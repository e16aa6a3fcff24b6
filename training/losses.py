"""Loss equations of the papers, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def negative_guidance_target(pred_null: Tensor, pred_cond: Tensor, eta: float) -> Tensor:
    """Return ``e_0 - eta (e_p - e_0)``, the prediction that the student learns for the concept.

    ESD (Gandikota et al. 2023), section 4.1: the frozen model guided away from the concept. The formula is linear, so
    it holds for models that predict noise and for models that predict velocity.

    Args:
        pred_null: Prediction (B, C, h, w) of the frozen model for the empty prompt.
        pred_cond: Prediction (B, C, h, w) of the frozen model for the concept prompt.
        eta: Strength of the negative guidance; 0 makes the prediction for the empty prompt the target.
    """
    null, cond = pred_null.float(), pred_cond.float()
    return null - eta * (cond - null)


def attribute_target(pred_from: Tensor, pred_cond: Tensor, pred_null: Tensor, eta: float) -> Tensor:
    """Return ``e_f - eta (e_c - e_0)``, the prediction that the student learns for a prompt that loses an attribute.

    It is the target of ESD's newer code (option ``erase_from``). Only the direction from the empty prompt to the
    concept is subtracted, so the rest of the prompt f stays.

    Args:
        pred_from: Prediction (B, C, h, w) of the frozen model for the prompt that keeps everything else.
        pred_cond: Prediction (B, C, h, w) of the frozen model for the concept to remove from it.
        pred_null: Prediction (B, C, h, w) of the frozen model for the empty prompt.
        eta: Strength of the negative guidance; 0 changes nothing.
    """
    return pred_from.float() - eta * (pred_cond.float() - pred_null.float())


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error (B,) of each example, in float32, from tensors (B, ...) of equal shape.

    Raises:
        ValueError: The shapes differ; broadcasting would hide a mistake.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"expected a target of shape {tuple(prediction.shape)}, found {tuple(target.shape)}")
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def gram_distance(a: Tensor, b: Tensor, gram: Tensor) -> Tensor:
    """Return ``(a - b)^T G (a - b)`` (B,), averaged over token positions, for conditionings (B, L, D) each.

    This is the squared distance between two conditionings as the UNet's cross-attention sees it; see
    ``Backbone.text_gram``. It costs no UNet call.
    """
    difference = a - b
    return ((difference @ gram) * difference).sum(-1).mean(-1)


@dataclass(frozen=True)
class ConditioningMetric:
    """``gram_distance`` in the units of the noise loss, so that the weights of both losses are comparable.

    ``unit`` is the squared error between the frozen model's predictions for a prompt and for the empty prompt. The
    scale is such that prompts lie at a mean distance of ``unit`` from the empty prompt.

    Args:
        gram: Matrix G (D, D), already scaled.
    """

    gram: Tensor

    @classmethod
    def fit(cls, gram: Tensor, conditionings: Tensor, null: Tensor, *, unit: float = 1.0) -> ConditioningMetric:
        """Scale G so that the mean distance of ``conditionings`` from the empty prompt is ``unit``.

        Args:
            gram: Matrix G (D, D), see ``Backbone.text_gram``.
            conditionings: Conditionings (N, L, D) of prompts.
            null: Conditioning (1, L, D) of the empty prompt.
            unit: Mean distance after scaling, in the units of the noise loss.

        Raises:
            ValueError: All conditionings equal that of the empty prompt, so no scale exists.
        """
        gram = gram.to(conditionings)
        mean = float(gram_distance(conditionings, null.expand_as(conditionings), gram).mean())
        if not mean > 0:
            raise ValueError("expected prompts whose conditioning differs from that of the empty prompt, found none")
        return cls(gram * (unit / mean))

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the scaled distance (B,) between conditionings (B, L, D)."""
        return gram_distance(a, b, self.gram)


def weighted_sum(
    terms: Mapping[str, tuple[float, Tensor]], totals: Mapping[str, int] | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Return the sum of ``weight * loss.mean()`` over the terms, and the unweighted mean of each term for the log.

    Args:
        terms: Weight and losses (B,) of each term, by name.
        totals: Number of rows of each term in all processes together, by name. Each sum of losses is divided by this
            number, so that the results of all processes add up to the mean. None if one process has all rows.
    """
    means = {n: loss.mean() if totals is None else loss.sum() / totals[n] for n, (_, loss) in terms.items()}
    total = torch.stack([weight * means[name] for name, (weight, _) in terms.items()]).sum()
    return total, {name: float(mean.detach()) for name, mean in means.items()}
