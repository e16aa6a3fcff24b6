"""Checks of the values of tensors, and the texts that name a few of many problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_SHOWN = 3


def odd_values(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the tensors that are no finite floating-point numbers, each in words.

    Args:
        tensors: Mapping of names to tensors.
    """
    problems = []
    for name in sorted(tensors):
        tensor = tensors[name]
        if not tensor.is_floating_point():
            problems.append(f"{name} of {tensor.dtype}")
        # Some functions do not know the 8-bit floating-point numbers.
        elif not bool(torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor).all()):
            problems.append(f"{name} with NaN or infinity")
    return problems


def shown(problems: Sequence[str]) -> str:
    """Return a text that names the first problems and counts the others.

    Args:
        problems: Problems in words, at least one.
    """
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return f"{len(problems)} problem(s): {'; '.join(problems[:_SHOWN])}{more}"
