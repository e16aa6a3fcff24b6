"""Scores of a judge that measures: by how far each value is exceeded, on one scale for all judges of this kind."""

from __future__ import annotations

import torch
from torch import Tensor


def scores(deviation: Tensor) -> Tensor:
    """Return scores (B, values and none) in [0, 1] of deviations (B, values).

    A deviation is the ratio of a measured quantity to its limit, so a value fits with a deviation of at most 1. The
    score of a value is 2^-q. Here q is its deviation, or the ratio of its deviation to the smallest one of any other
    value if that is larger. So the score is at least 0.5 exactly where the value fits and no other value fits better.
    The score of ``none`` is 1 minus the largest of the others.

    Args:
        deviation: Deviations of at least two values, not negative; infinite for a value that was ruled out.
    """
    two = deviation.topk(2, dim=1, largest=False).values
    best = torch.arange(deviation.shape[1]) == deviation.argmin(1, keepdim=True)
    rival = torch.where(best, two[:, 1:], two[:, :1]).clamp(1e-6, 1e6)
    q = torch.maximum(deviation, deviation / rival)
    values = torch.exp2(-q)
    return torch.cat([values, 1 - values.amax(1, keepdim=True)], 1)
