"""Comparing two trainings that differ in the order of their sums alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# A thousandth of the numbers: a training on other rows moves nearly all of them.
SHARE = 1e-3


def assert_same_but_for_rounding(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], rate: float = 1e-3
) -> None:
    """Compare trained tensors to 1e-3 of their values and to a hundredth of a step of Adam, which is ``rate`` long.

    Adam's steps are as long as the rate however small a gradient is, so where rounding turns the sign of one that is
    nearly nothing, a number moves by up to two steps. Which ones, the processor decides; ``SHARE`` of all may.

    Without the biases of the attention's keys: they move all logits of a query alike, so softmax does not see them,
    their gradient is nothing but rounding, and all of them may move so.
    """
    assert found.keys() == expected.keys()
    names = [name for name in expected if not name.endswith("k_proj.bias")]
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=2 * rate)
    close = torch.cat([
        torch.isclose(found[name], expected[name], rtol=1e-3, atol=1e-2 * rate).flatten() for name in names
    ])  # fmt: skip
    off = int((~close).sum())
    assert off <= SHARE * close.numel(), f"{off} of {close.numel()} numbers differ by more than rounding"
