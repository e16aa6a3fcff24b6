"""Comparing two trainings that differ in the order of their sums alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def assert_same_but_for_rounding(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare trained tensors to 1e-3 of their values and 1e-5 absolutely.

    Without the biases of the attention's keys: they move all logits of a query alike, so softmax does not see them,
    their gradient is nothing but rounding, and Adam scales that up to whole steps.
    """
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
